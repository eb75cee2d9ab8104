//! `run-busy-vmsa`: while the paravisor works on an exit of its guest, the host runs the guest's VMSA again.
//!
//! The paravisor marks a VMSA busy while it edits it; hardware must refuse, and an entry that succeeds is a breach: either
//! the model's, or the paravisor forgot the mark.

use super::Attack;
use crate::snp::cpu::{HostControl, HostExit, Processor};
use crate::snp::rmp::{VMPLS, Vmpl};
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};
use stockade_abi::exit::ExitCode;

pub(super) struct RunBusyVmsa {
    attempts: AtomicU64,
    breaches: AtomicU64,
}

pub(super) static ATTACK: RunBusyVmsa = RunBusyVmsa {
    attempts: AtomicU64::new(0),
    breaches: AtomicU64::new(0),
};

impl Attack for RunBusyVmsa {
    fn name(&self) -> &'static str {
        "run-busy-vmsa"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn breaches(&self) -> u64 {
        self.breaches.load(Ordering::Relaxed)
    }

    fn after_exit(
        &self,
        vm: &Vm,
        vcpu: &mut Vcpu,
        vmpl: Vmpl,
        exit: &mut HostExit,
        processor: &mut Processor,
    ) {
        // Between two calls VMPL0 has the guest's VMSA in hand; its own exits are when the host gets the processor.
        // A call is the moment it lets go.
        if vmpl != Vmpl::ZERO || exit.code != ExitCode::VMGEXIT || is_call(vm, vcpu) {
            return;
        }
        for lower in 1..VMPLS {
            let context = vcpu.contexts[lower];
            let Some(vmsa) = context.vmsa else {
                continue;
            };
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let control = HostControl {
                vmsa,
                event: None,
                interrupt: None,
                state: context.held,
            };
            let mut ghcb = context.ghcb_msr;
            let result = processor.run(vm, control, &mut ghcb);
            if result.code != ExitCode::BUSY && result.code != ExitCode::INVALID {
                self.breaches.fetch_add(1, Ordering::Relaxed);
                log::warn!("the guest ran during its paravisor's work: {}", result.code);
            }
        }
    }
}

/// Whether the exit is a call of a lower VMPL.
fn is_call(vm: &Vm, vcpu: &mut Vcpu) -> bool {
    use stockade_abi::ghcb::{GhcbField, NaeExit};
    let gpa = vcpu.context().ghcb_msr;
    let is_page = gpa & 0xFFF == 0;
    is_page
        && vm.shared_page(gpa).is_some_and(|page| {
            page.in_page(GhcbField::SW_EXIT_CODE.offset() as u64)
                .read_u64()
                == NaeExit::RUN_VMPL.0
        })
}
