//! `spurious-return`: the host comes back from a call of the guest's VMPL whenever a physical interrupt ended it, with no
//! event to show, and makes such interrupts itself.
//!
//! Legitimate but useless: the paravisor must call again and lose nothing.

use super::Attack;
use crate::machine::{clock, lapic};
use crate::snp::cpu::{HostExit, Processor};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};
use stockade_abi::exit::ExitCode;

/// How long the guest runs between two returns.
const PERIOD_NS: u64 = 200_000;

pub(super) struct SpuriousReturn {
    attempts: AtomicU64,
}

pub(super) static ATTACK: SpuriousReturn = SpuriousReturn {
    attempts: AtomicU64::new(0),
};

impl Attack for SpuriousReturn {
    fn name(&self) -> &'static str {
        "spurious-return"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn on_events(&self, _vm: &Vm, vcpu: &mut Vcpu) {
        let soon = clock::tsc() + clock::ns_to_ticks(PERIOD_NS);
        if vcpu.current != Vmpl::ZERO
            && vcpu
                .lapic
                .next_deadline_tsc()
                .is_none_or(|deadline| deadline > soon)
        {
            lapic::arm_timer(soon);
        }
    }

    fn after_exit(
        &self,
        _vm: &Vm,
        _vcpu: &mut Vcpu,
        vmpl: Vmpl,
        exit: &mut HostExit,
        _processor: &mut Processor,
    ) {
        if vmpl != Vmpl::ZERO && exit.code == ExitCode::INTR {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            // A reflected exit and this look alike to the loop: the caller is answered.
            exit.code = ExitCode::EXCP_VC;
        }
    }
}
