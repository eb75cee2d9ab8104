//! `repeat-timer`: the host rings for its timer again and again, long before the deadline and after it.
//!
//! A paravisor that takes the ring for the passing of time gives its guest ticks that were not due.

use super::Attack;
use crate::host::doorbell::SharedPage;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The paravisor's vector for its timer.
const TIMER: u8 = 0xE0;
/// The doorbell's flag that something is to be drained.
const NO_FURTHER_SIGNAL: u8 = 0x80;

/// Looks of the host between two rings; at each look the guest would come to nothing.
const PERIOD: u64 = 5;

pub(super) struct RepeatTimer {
    looks: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: RepeatTimer = RepeatTimer {
    looks: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for RepeatTimer {
    fn name(&self) -> &'static str {
        "repeat-timer"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn on_events(&self, vm: &Vm, vcpu: &mut Vcpu) {
        let Some(page) = vcpu.doorbell.and_then(|gpa| vm.shared_page(gpa)) else {
            return;
        };
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        if !look.is_multiple_of(PERIOD) || page.compare_exchange_u8(0, 0, TIMER) != 0 {
            return;
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
        // No end of interrupt is due for it: the local APIC never raised it.
        page.fetch_or_u8(2, 1);
        if page.fetch_or_u8(1, NO_FURTHER_SIGNAL) & NO_FURTHER_SIGNAL == 0 {
            vcpu.must_signal = true;
        }
    }
}
