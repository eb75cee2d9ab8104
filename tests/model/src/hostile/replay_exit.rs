//! `replay-exit`: every few calls of the guest's VMPL the host does not run it, and tells the caller it did.
//!
//! The VMSA then still says what the last exit was. A paravisor that believes it twice executes the same port access or
//! skips an instruction twice.

use super::{Attack, Instead};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// One call in so many is not served.
const PERIOD: u64 = 3;

pub(super) struct ReplayExit {
    calls: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: ReplayExit = ReplayExit {
    calls: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for ReplayExit {
    fn name(&self) -> &'static str {
        "replay-exit"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn before_entry(&self, _vm: &Vm, vcpu: &mut Vcpu) -> Instead {
        if vcpu.current == Vmpl::ZERO
            || !self
                .calls
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(PERIOD)
        {
            return Instead::Enter;
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
        Instead::GiveBack
    }
}
