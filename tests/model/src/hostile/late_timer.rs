//! `late-timer`: the host's timers fire milliseconds after they should.
//!
//! It may: that is service denied. What it delays must not be lost or come twice.

use super::Attack;
use core::sync::atomic::{AtomicU64, Ordering};

/// Longer than a tick of most guests.
const LATENESS_US: u64 = 6_000;

pub(super) struct LateTimer {
    attempts: AtomicU64,
}

pub(super) static ATTACK: LateTimer = LateTimer {
    attempts: AtomicU64::new(0),
};

impl Attack for LateTimer {
    fn name(&self) -> &'static str {
        "late-timer"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn timer_lateness_us(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        LATENESS_US
    }
}
