//! `drop-page`: after some exits of the guest the host takes away a page of its RAM that is in use.
//!
//! The page comes back assigned but not validated: the guest's next access is an exit the paravisor must not mistake for
//! a device access, and must not heal by validating again (its content is lost).

use super::Attack;
use crate::snp::addr::Gpa;
use crate::snp::cpu::{HostExit, Platform, Processor};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The exit of the guest at which it happens.
const AT_EXIT: u64 = 500;

pub(super) struct DropPage {
    exits: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: DropPage = DropPage {
    exits: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for DropPage {
    fn name(&self) -> &'static str {
        "drop-page"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn after_exit(
        &self,
        vm: &Vm,
        _vcpu: &mut Vcpu,
        vmpl: Vmpl,
        _exit: &mut HostExit,
        processor: &mut Processor,
    ) {
        if vmpl == Vmpl::ZERO || self.exits.fetch_add(1, Ordering::Relaxed) != AT_EXIT {
            return;
        }
        // A host would have to guess a page in use; the model may know: the root of the guest's tables.
        let gpa = Gpa::new(processor.image().vmsa().cr3).page();
        if vm.memory.lock().steal(gpa).is_some() {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            vm.flush_others();
            log::warn!("dropped the guest's page at {:#x}", gpa.get());
        }
    }
}
