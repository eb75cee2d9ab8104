//! `lie-npf`: the host answers some nested faults of the guest on its own RAM as if the memory were not there: by turns as
//! a missing page it does not supply, and as a device.
//!
//! The paravisor must decide by its own map what is RAM, run again, and stop with a reason when it does not end.

use super::Attack;
use crate::snp::addr::Gpa;
use crate::snp::cpu::NestedLie;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// One fault in so many is lied about.
const PERIOD: u64 = 4;

pub(super) struct LieNpf {
    faults: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: LieNpf = LieNpf {
    faults: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for LieNpf {
    fn name(&self) -> &'static str {
        "lie-npf"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn on_nested_fault(&self, _vm: &Vm, _gpa: Gpa) -> Option<NestedLie> {
        if !self
            .faults
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(PERIOD)
        {
            return None;
        }
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        Some(if number.is_multiple_of(2) {
            NestedLie::Missing
        } else {
            NestedLie::Device
        })
    }
}
