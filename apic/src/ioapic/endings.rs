//! Ends of level-triggered interrupts, on their way from the local APICs to an IOAPIC behind a lock: [`Endings`].
//!
//! An end matters at once only where the pin still is high, for then it sends again. Else all it does is clear remote IRR, which
//! nobody sees who does not hold the IOAPIC's lock. So a processor leaves the vector here and takes the lock only if a pin waits;
//! whoever takes it next looks here first ([`IoApic::take_endings`]).
//!
//! The processor notes the vector and then asks whether a pin waits; the IOAPIC says that one waits and then looks for vectors once
//! more ([`IoApic::settle`]). One of them sees the other, whatever the order.

use core::sync::atomic::{AtomicU32, Ordering};

use super::IoApic;
use crate::msi::MessageSink;

/// Whether somebody must take an end to the IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ending {
    /// The next who works on it will.
    Left,
    /// A pin may have been waiting for it: work on it now.
    AwaitedByPin,
}

/// The vectors that processors have ended and the IOAPIC does not know of.
#[derive(Debug, Default)]
pub struct Endings {
    vectors: [AtomicU32; 8],
    /// Which words have vectors, a bit each.
    summary: AtomicU32,
    /// The pins that are high and being served: an end has them send again.
    waiting: AtomicU32,
}

impl Endings {
    /// Returns the endings of an IOAPIC after power-on: none.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            vectors: [const { AtomicU32::new(0) }; 8],
            summary: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    /// Notes the end of a vector.
    pub fn post(&self, vector: u8) -> Ending {
        let word = vector >> 5;
        self.vectors[usize::from(word)].fetch_or(1 << (vector & 31), Ordering::Relaxed);
        self.summary.fetch_or(1 << word, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            Ending::Left
        } else {
            Ending::AwaitedByPin
        }
    }

    fn is_empty(&self) -> bool {
        self.summary.load(Ordering::SeqCst) == 0
    }

    fn set_waiting(&self, pins: u32) {
        // Reading does not take the cache line from the processors.
        if self.waiting.load(Ordering::Relaxed) != pins {
            self.waiting.store(pins, Ordering::SeqCst);
        }
    }
}

impl<S: MessageSink> IoApic<S> {
    /// Takes the ends that processors have left. To be called first whenever something else is done here.
    pub fn take_endings(&mut self, endings: &Endings) {
        if endings.is_empty() {
            return;
        }
        let mut words = endings.summary.swap(0, Ordering::SeqCst);
        while words != 0 {
            let word = words.trailing_zeros().to_le_bytes()[0];
            words &= words - 1;
            let mut bits = endings.vectors[usize::from(word)].swap(0, Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros().to_le_bytes()[0];
                bits &= bits - 1;
                self.end_of_interrupt(word << 5 | bit);
            }
        }
    }

    /// Says which pins wait for an end, and takes those that came before it was said. To be called last.
    pub fn settle(&mut self, endings: &Endings) {
        endings.set_waiting(self.waiting());
        if self.waiting() != 0 {
            self.take_endings(endings);
            endings.set_waiting(self.waiting());
        }
    }
}
