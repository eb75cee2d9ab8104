//! What each processor does for ever: look what happened, run its vCPU, answer its exit.

use super::addr::C_BIT_POSITION;
use super::calls::After;
use super::cpu::{HostControl, HostExit, Platform, Processor};
use super::devices::MachineCpuid;
use super::npt::Unmapped;
use super::rmp::Vmpl;
use super::vcpu::Asked;
use super::vcpu::OfferedBy;
use super::vm::Vm;
use super::work::Cause;
use crate::host::ghcb::page_state::{Change, PageSize};
use crate::host::msr_protocol::{OFFERED, Request, Response};
use crate::hostile::Instead;
use crate::machine::exit::Ending;
use crate::machine::sleep;
use crate::psp::cpuid;
use stockade_abi::exit::ExitCode;

/// Protocol versions this host speaks: SNP needs 2.
const PROTOCOL: u16 = 2;

impl Vm {
    /// Runs vCPU `index` on this processor, for ever.
    pub fn run(&self, index: u32, mut processor: Processor) -> ! {
        loop {
            self.attend(index);
            let Some((vmpl, control, mut ghcb)) = self.next_entry(index) else {
                sleep::until_interrupt();
                continue;
            };
            let mut exit = processor.run(self, control, &mut ghcb);
            self.counters.count_exit(vmpl, exit.code);
            if let Some(mut vcpu) = self.vcpu(index) {
                vcpu.contexts[vmpl.index()].ghcb_msr = ghcb;
                let cause = Cause::of(exit.code, processor.image().vmsa());
                vcpu.work
                    .note(vmpl, processor.take_spent(), cause, &self.counters.work);
                if let Some(attack) = self.attack {
                    attack.after_exit(self, &mut vcpu, vmpl, &mut exit, &mut processor);
                }
            }
            self.keep(index, vmpl, &exit);
            match self.answer(index, vmpl, &exit, &processor) {
                After::Resume => {}
                After::End(ending) => self.finish(ending),
            }
        }
    }

    /// What to run next; `None` when there is nothing.
    fn next_entry(&self, index: u32) -> Option<(Vmpl, HostControl, u64)> {
        let mut vcpu = self.vcpu(index)?;
        // Something waits for VMPL0 while a lower one runs: VMPL0 goes first.
        let is_wanted = vcpu.must_signal
            || (vcpu.contexts[0].offered.is_some() && !vcpu.is_restricted(Vmpl::ZERO));
        // So it does when the lower one's VMSA was taken away meanwhile.
        let is_gone = vcpu.context().vmsa.is_none();
        if (is_wanted || is_gone) && vcpu.current != Vmpl::ZERO {
            self.give_back(&mut vcpu);
        }
        if let Some(attack) = self.attack
            && attack.before_entry(self, &mut vcpu) == Instead::GiveBack
        {
            self.give_back(&mut vcpu);
        }
        vcpu.raise_signal();
        if !vcpu.is_runnable() {
            return None;
        }
        let vmpl = vcpu.current;
        let context = vcpu.context();
        let control = HostControl {
            vmsa: context.vmsa?,
            event: context.event.take(),
            interrupt: context.offered.map(|offer| offer.vector),
            state: context.held,
        };
        Some((vmpl, control, context.ghcb_msr))
    }

    /// Ends the call of a lower VMPL: its caller runs on with an answer.
    fn give_back(&self, vcpu: &mut super::vcpu::Vcpu) -> bool {
        let Some(caller) = vcpu.take_caller() else {
            return false;
        };
        if let Some(msr) = self.complete_call(caller) {
            vcpu.context().ghcb_msr = msr;
        }
        true
    }

    /// Keeps what the VMCB kept.
    fn keep(&self, index: u32, vmpl: Vmpl, exit: &HostExit) {
        let Some(mut vcpu) = self.vcpu(index) else {
            return;
        };
        let vcpu = &mut *vcpu;
        let context = &mut vcpu.contexts[vmpl.index()];
        context.held = exit.state;
        context.event = exit.interrupted;
        if exit.interrupt_taken
            && let Some(offer) = context.offered.take()
            && offer.from == OfferedBy::LocalApic
        {
            vcpu.lapic.begin(offer.vector);
        }
    }

    /// The host's policy for each exit.
    fn answer(&self, index: u32, vmpl: Vmpl, exit: &HostExit, processor: &Processor) -> After {
        match exit.code {
            ExitCode::INTR | ExitCode::NMI | ExitCode::SMI | ExitCode::INIT | ExitCode::PAUSE => {
                After::Resume
            }
            ExitCode::VMGEXIT => self.vmgexit(index),
            ExitCode::HLT => {
                let Some(mut vcpu) = self.vcpu(index) else {
                    return After::Resume;
                };
                if !self.give_back(&mut vcpu) {
                    vcpu.context().is_halted = true;
                }
                After::Resume
            }
            // Its cause is told in the VMSA, to the more privileged VMPL. A page a lower VMPL may not touch, a shutdown and
            // a busy VMSA are that VMPL's to see to as well: only it can.
            ExitCode::EXCP_VC | ExitCode::NPF | ExitCode::SHUTDOWN | ExitCode::BUSY => {
                let given_back = self
                    .vcpu(index)
                    .is_some_and(|mut vcpu| self.give_back(&mut vcpu));
                if given_back {
                    After::Resume
                } else {
                    self.dead(index, vmpl, exit, processor)
                }
            }
            _ => self.dead(index, vmpl, exit, processor),
        }
    }

    /// No host could go on.
    fn dead(&self, index: u32, vmpl: Vmpl, exit: &HostExit, processor: &Processor) -> After {
        let vmsa = processor.image().vmsa();
        if let Some(refusal) = processor.refusal() {
            log::error!("vcpu {index} VMPL{}: VMRUN refused: {refusal}", vmpl.get());
        }
        crate::machine::console::line(format_args!(
            "model-error: vcpu {index} VMPL{} stopped by {}: info1 {:#x} info2 {:#x} rip {:#x} rsp {:#x} cr3 {:#x} cr2 {:#x} efer {:#x} cr0 {:#x} cr4 {:#x} rflags {:#x} rax {:#x}",
            vmpl.get(),
            exit.code,
            exit.info1,
            exit.info2,
            vmsa.rip,
            vmsa.rsp,
            vmsa.cr3,
            vmsa.cr2,
            vmsa.efer,
            vmsa.cr0,
            vmsa.cr4,
            vmsa.rflags,
            vmsa.rax,
        ));
        After::End(Ending::Stopped)
    }

    fn vmgexit(&self, index: u32) -> After {
        let Some(value) = self.vcpu(index).map(|mut vcpu| vcpu.context().ghcb_msr) else {
            return After::Resume;
        };
        let response = match Request::decode(value) {
            Request::GhcbPage { gpa } => return self.serve_page(index, gpa),
            Request::SevInformation => {
                let c_bit = u8::try_from(C_BIT_POSITION).unwrap_or(51);
                Response::SevInformation {
                    max: PROTOCOL,
                    min: 1,
                    c_bit,
                }
            }
            Request::Cpuid { leaf, register } => {
                use crate::host::msr_protocol::CpuidRegister;
                let found = cpuid::run_time(leaf, 0, 1, index, &MachineCpuid, &self.cpuid);
                let value = match register {
                    CpuidRegister::Eax => found.eax,
                    CpuidRegister::Ebx => found.ebx,
                    CpuidRegister::Ecx => found.ecx,
                    CpuidRegister::Edx => found.edx,
                };
                Response::Cpuid { value, register }
            }
            Request::ApResetHold => {
                if let Some(mut vcpu) = self.vcpu(index) {
                    vcpu.context().is_halted = true;
                }
                Response::ApResetHold
            }
            Request::PreferredGhcb => Response::PreferredGhcb(None),
            Request::RegisterGhcb { gpa } => {
                // Linux registers before it makes the page shared.
                if let Some(mut vcpu) = self.vcpu(index) {
                    vcpu.context().ghcb = Some(gpa);
                }
                Response::RegisterGhcb(Some(gpa))
            }
            Request::PageState { gpa, operation } => {
                let change = Change {
                    gpa,
                    size: PageSize::Small,
                    first: 0,
                    operation,
                };
                self.counters.count_page_state(1);
                let result = self.change_pages(change);
                if result == Ok(Unmapped::Something) {
                    self.flush_others();
                }
                Response::PageState {
                    error: u32::from(result.is_err()),
                }
            }
            Request::RunVmpl { vmpl } => {
                if self.call(index, vmpl, Asked::Msr) {
                    return After::Resume;
                }
                Response::RunVmpl { error: 1 }
            }
            Request::HypervisorFeatures => Response::HypervisorFeatures(OFFERED),
            Request::Terminate { set, code } => return self.terminated(set, code),
            Request::Unknown { value } => {
                log::error!("vcpu {index}: GHCB MSR {value:#x} is no request");
                return After::End(Ending::Stopped);
            }
        };
        if let Some(mut vcpu) = self.vcpu(index) {
            vcpu.context().ghcb_msr = response.encode();
        }
        After::Resume
    }
}
