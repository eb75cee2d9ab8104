//! `hv-flood`: the host raises #HV at every few entries of VMPL0, whether or not there is an event and whether or not the
//! guest has looked since the last.
//!
//! #HV cannot be masked, so it comes in the middle of the handler of the last one, too. A handler that switches to a fixed
//! stack each time writes over its own frame and never returns.

use super::{Attack, Instead};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// One entry in so many.
const PERIOD: u64 = 3;

pub(super) struct HvFlood {
    entries: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: HvFlood = HvFlood {
    entries: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for HvFlood {
    fn name(&self) -> &'static str {
        "hv-flood"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn before_entry(&self, _vm: &Vm, vcpu: &mut Vcpu) -> Instead {
        let is_due = vcpu.current == Vmpl::ZERO
            && vcpu.doorbell.is_some()
            && self
                .entries
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(PERIOD);
        if is_due {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            vcpu.must_signal = true;
        }
        Instead::Enter
    }
}
