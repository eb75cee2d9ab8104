//! `hv-flood`: the host raises #HV at two entries of VMPL0 out of three, whether or not there is an event and whether or not
//! the guest has looked since the last.
//!
//! It interrupts its own processor before it enters, so that the guest leaves again before it has executed anything, and the
//! second #HV comes at the first instruction of the handler of the first: a host can step a guest as it likes. #HV cannot be masked.
//! A handler that switches to a fixed stack each time writes over its own frame and never returns.

use super::{Attack, Instead};
use crate::machine::{lapic, processor};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Of so many entries ...
const PERIOD: u64 = 3;
/// ... these have an #HV.
const BURST: u64 = 2;

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
        if vcpu.current != Vmpl::ZERO || vcpu.doorbell.is_none() {
            return Instead::Enter;
        }
        if self.entries.fetch_add(1, Ordering::Relaxed) % PERIOD < BURST {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            vcpu.must_signal = true;
            lapic::kick(processor::current());
        }
        Instead::Enter
    }
}
