//! Who wants to be looked at, and who is to be compared with what he was.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Turns between two comparisons of a device: a host that reports changes without end would otherwise leave no time for the guest.
const TURNS_A_CHECK: u32 = 256;

/// One bit of the word every exit reads.
#[derive(Clone, Debug)]
pub struct Attention {
    word: Arc<AtomicU32>,
    bit: u32,
}

impl Attention {
    pub(super) fn new(word: &Arc<AtomicU32>, bit: u32) -> Self {
        let word = Arc::clone(word);
        Self { word, bit }
    }

    /// Asks for a turn.
    pub fn raise(&self) {
        self.word.fetch_or(self.bit, Ordering::SeqCst);
    }

    /// Sets this bit of another word, or clears it.
    pub(super) fn mark(&self, word: &AtomicU32, is_set: bool) {
        if is_set {
            word.fetch_or(self.bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!self.bit, Ordering::Relaxed);
        }
    }

    pub(super) fn bit(&self) -> u32 {
        self.bit
    }

    pub(super) fn is_in(&self, due: u32) -> bool {
        self.bit & due != 0
    }
}

/// Whether the host said that devices changed, so that this one is to be compared, but not too often.
#[derive(Debug)]
pub struct Doubt {
    is_raised: AtomicBool,
    /// Turns since it was last compared.
    turns: AtomicU32,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            is_raised: AtomicBool::new(false),
            turns: AtomicU32::new(TURNS_A_CHECK),
        }
    }
}

impl Doubt {
    /// Notes that this device may have changed.
    pub fn raise(&self) {
        self.is_raised.store(true, Ordering::SeqCst);
    }

    /// Counts a turn, and returns whether it has to begin with a comparison.
    pub fn is_due(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed).saturating_add(1);
        let is_due = turns > TURNS_A_CHECK && self.is_raised.swap(false, Ordering::SeqCst);
        self.turns
            .store(if is_due { 0 } else { turns }, Ordering::Relaxed);
        is_due
    }
}
