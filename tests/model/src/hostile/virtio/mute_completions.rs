//! `virtio-mute-completions`: completions come without their messages; one message is made up for long after.

use crate::machine::clock;
use crate::tap::{Count, Lie};
use core::sync::atomic::{AtomicU64, Ordering};

pub(in crate::hostile) struct MuteCompletions {
    count: Count,
    /// When the message that was kept back is made up for; 0 when none was.
    due: AtomicU64,
}

pub(in crate::hostile) static ATTACK: MuteCompletions = MuteCompletions {
    count: Count::new(),
    due: AtomicU64::new(0),
};

/// How long the guest hears nothing.
const SILENCE_NS: u64 = 20_000_000;

impl Lie for MuteCompletions {
    fn name(&self) -> &'static str {
        "virtio-mute-completions"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn message_passes(&self) -> bool {
        self.lied(format_args!("a message is kept back"));
        let due = clock::tsc() + clock::ns_to_ticks(SILENCE_NS);
        // The first of several decides.
        let _ = self
            .due
            .compare_exchange(0, due, Ordering::Relaxed, Ordering::Relaxed);
        false
    }

    fn has_extra_message(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != 0
            && due <= clock::tsc()
            && self
                .due
                .compare_exchange(due, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
