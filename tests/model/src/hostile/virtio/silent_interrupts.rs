//! `virtio-silent-interrupts`: messages come before there is anything to see; completions follow later, with another message.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

pub(in crate::hostile) struct SilentInterrupts {
    count: Count,
    /// What was done and not told yet, each with the looks it still waits.
    held: Mutex<Vec<(u64, u32, Element)>>,
    is_due: AtomicBool,
}

pub(in crate::hostile) static ATTACK: SilentInterrupts = SilentInterrupts {
    count: Count::new(),
    held: Mutex::new(Vec::new()),
    is_due: AtomicBool::new(false),
};

/// Looks a completion is held back for.
const LOOKS: u32 = 3;

impl Lie for SilentInterrupts {
    fn name(&self) -> &'static str {
        "virtio-silent-interrupts"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        // A queue is known by where its ring is.
        let _ = told;
        self.lied(format_args!(
            "a message, and no completion of {}",
            element.id
        ));
        self.held.lock().push((exchange.queue.used, LOOKS, element));
    }

    fn looked(&self, exchange: &mut Exchange<'_>) {
        let used = exchange.queue.used;
        let mut held = self.held.lock();
        for (_, looks, _) in held.iter_mut().filter(|(queue, ..)| *queue == used) {
            *looks = looks.saturating_sub(1);
        }
        let is_due = |held: &(u64, u32, Element)| held.0 == used && held.1 == 0;
        for (_, _, element) in held.iter().filter(|held| is_due(held)) {
            exchange.tell(*element);
            self.is_due.store(true, Ordering::Relaxed);
        }
        held.retain(|held| !is_due(held));
    }

    fn has_extra_message(&self) -> bool {
        self.is_due.swap(false, Ordering::Relaxed)
    }
}
