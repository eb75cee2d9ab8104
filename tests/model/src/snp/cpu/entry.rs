//! Into the guest and back: intercepts, the VMSA's way into the VMCB, and what QEMU changed there.

use super::deliver::{self, Nested};
use super::injection::{Injection, Source, Stepping};
use super::linear::Linear;
use super::vmsa::{Busy, ExitReport, Refusal};
use super::{HostControl, HostExit, HostHeldState, Leaving, Next, Platform, Processor, extended};
use crate::machine::{lapic, processor};
use crate::snp::addr::Phys;
use crate::snp::npt::View;
use crate::snp::vm::MachineFrames;
use crate::svm::{
    Event, Intercepts1, Intercepts2, InterruptControl, InterruptShadow, NestedControl,
};
use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{EventInfo, EventType, SevFeatures, VintrControl};

/// The exceptions intercepted, by vector: #UD for the instructions of SNP, #TS, #NP, #SS, #GP for their error codes.
const FAULTS: u32 = 1 << 6 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13;
const PAGE_FAULT: u8 = 14;
const CR8_WRITE: u16 = 1 << 8;
pub(super) const FLAG_TF: u64 = 1 << 8;
/// The vector of #HV.
const HV_VECTOR: u8 = 28;
/// Exceptions whose error code QEMU pushes when it is injected.
pub(super) const PUSHED_BY_QEMU: [u8; 7] = [8, 10, 11, 12, 13, 14, 17];

impl Processor {
    /// What the host intercepts of an SNP guest. Ports and CPUID hardware intercepts by itself (APM vol. 2, 15.36.12);
    /// #UD is for the SNP instructions, which QEMU does not know, VMMCALL for VMGEXIT.
    pub(super) fn set_intercepts(&mut self) {
        let control = &mut self.vmcb.control;
        control.intercepts1 = Intercepts1::INTR
            | Intercepts1::NMI
            | Intercepts1::SMI
            | Intercepts1::INIT
            | Intercepts1::RDPMC
            | Intercepts1::CPUID
            | Intercepts1::INVD
            | Intercepts1::HLT
            | Intercepts1::INVLPGA
            | Intercepts1::IOIO_PROT
            | Intercepts1::MSR_PROT
            | Intercepts1::SHUTDOWN;
        control.intercepts2 = Intercepts2::VMRUN
            | Intercepts2::VMMCALL
            | Intercepts2::VMLOAD
            | Intercepts2::VMSAVE
            | Intercepts2::STGI
            | Intercepts2::CLGI
            | Intercepts2::SKINIT
            | Intercepts2::WBINVD
            | Intercepts2::MONITOR
            | Intercepts2::MWAIT;
        control.iopm_base = self.ports.address().as_u64();
        control.msrpm_base = self.msrs.address().as_u64();
        control.asid = 1;
        control.nested_control = NestedControl::new().with_nested_paging(true);
    }

    /// Loads the VMSA; the processor then holds the guest's state. Returns the VMSA's page.
    pub(super) fn enter(
        &mut self,
        platform: &impl Platform,
        control: &HostControl,
    ) -> Result<Phys, Refusal> {
        let memory = platform.memory().lock();
        let page = memory.map.translate(control.vmsa).ok_or(Refusal::NotVmsa)?;
        self.image
            .load(&memory.rmp, memory.owner(), control.vmsa, page, self.index)?;
        drop(memory);
        self.set_injection(control)?;
        if self.extended_of != Some(page) {
            extended::load(page, &self.image, &mut self.extended);
            self.extended_of = Some(page);
        }
        self.image.enter(&mut self.vmcb.save, &mut self.registers);
        self.vmcb.control.tsc_offset = if self.image.has(SevFeatures::SECURE_TSC) {
            self.image.vmsa().guest_tsc_offset
        } else {
            0
        };
        Ok(page)
    }

    /// Takes events from where the VMSA's features say (APM vol. 2, 15.36.16).
    fn set_injection(&mut self, control: &HostControl) -> Result<(), Refusal> {
        self.injection = Injection::default();
        if self.image.has(SevFeatures::ALTERNATE_INJECTION) {
            self.injection.source = Source::Vmsa;
            self.injection.control = self.image.vmsa().vintr_ctrl;
            self.injection.event = self.image.take_event();
            return Ok(());
        }
        let refuse = |event: EventInfo| Err(Refusal::Event(event.into_bits()));
        let restricted = self.image.has(SevFeatures::RESTRICTED_INJECTION);
        if let Some(event) = control.event {
            let is_hv = event.event_type() == EventType::EXCEPTION
                && event.vector() == HV_VECTOR
                && !event.error_code_valid();
            // Nor may the host of any encrypted guest inject INT n, #BP or #OF (APM vol. 2, 15.35.8).
            let is_software = event.event_type() == EventType::SOFTWARE
                || (event.event_type() == EventType::EXCEPTION && matches!(event.vector(), 3 | 4));
            if is_software || (restricted && !is_hv) {
                return refuse(event);
            }
            super::vmsa::check_event(event)?;
        }
        if restricted && control.interrupt.is_some() {
            return refuse(EventInfo::new());
        }
        self.injection.event = control.event;
        self.injection.control = VintrControl::new()
            .with_v_gif(true)
            .with_ignore_tpr(true)
            .with_v_tpr(control.state.tpr)
            .with_int_shadow(control.state.shadow)
            .with_v_irq(control.interrupt.is_some())
            .with_vector(control.interrupt.unwrap_or(0));
        Ok(())
    }

    /// Prepares one entry of the real VMRUN. `Some` when the guest cannot be entered.
    pub(super) fn prepare(&mut self, platform: &impl Platform) -> Option<Next> {
        let who = self.who();
        let mut memory = platform.memory().lock();
        let view: View = who.view();
        let Some(root) = memory.tables.root(view, &mut MachineFrames) else {
            return Some(self.automatic(ExitCode::INVALID, 0, 0));
        };
        drop(memory);
        self.vmcb.control.nested_cr3 = root.get();
        if let Some(next) = self.deliver_by_software(platform) {
            return Some(next);
        }
        self.put_plan();
        None
    }

    /// Writes into the VMCB what the coming entry delivers and waits for.
    fn put_plan(&mut self) {
        let save = &mut self.vmcb.save;
        let plan = self.injection.plan(save.rflags, save.rip);
        if let Some(over) = plan.step {
            self.injection.stepping = Some(Stepping {
                trap_flag: save.rflags & FLAG_TF != 0,
                dr6: save.dr6,
                over,
            });
            save.rflags |= FLAG_TF;
        }
        let control = &mut self.vmcb.control;
        control.intercept_exceptions = match (plan.step, plan.event) {
            // What cuts the step short must not leave our TF on the guest's stack.
            (Some(_), _) => !(1 << 2),
            (None, Some(event)) if event.vector() == PAGE_FAULT => FAULTS | 1 << PAGE_FAULT,
            _ => FAULTS,
        };
        control.intercept_cr_write = CR8_WRITE;
        control.intercepts1.set(Intercepts1::VINTR, plan.window);
        control.intercepts1.set(Intercepts1::IRET, plan.watch_iret);
        control.interrupt_control = InterruptControl::new()
            .with_masking(true)
            .with_tpr(self.injection.control.v_tpr())
            .with_irq(plan.window)
            .with_priority(0xF)
            .with_ignore_tpr(true);
        control.interrupt_shadow =
            InterruptShadow::new().with_shadow(self.injection.control.int_shadow());
        let event = plan.event.map(|event| Event::from_bits(event.into_bits()));
        control.event_injection = event.unwrap_or_default();
        if plan.at_once {
            // Held pending until VMRUN, it ends the guest right behind the event.
            lapic::kick(processor::current());
        }
    }

    /// An exception with an error code QEMU would not push.
    fn deliver_by_software(&mut self, platform: &impl Platform) -> Option<Next> {
        let event = self.injection.event.filter(|event| {
            event.event_type() == EventType::EXCEPTION
                && event.error_code_valid()
                && !PUSHED_BY_QEMU.contains(&event.vector())
        })?;
        self.injection.event = None;
        self.raise(platform, event.vector(), event.error_code())
    }

    /// Delivers an exception by software; what goes wrong becomes #PF, #DF or a shutdown, the last one for the host.
    pub(super) fn raise(
        &mut self,
        platform: &impl Platform,
        vector: u8,
        error_code: u32,
    ) -> Option<Next> {
        let who = self.who();
        let paging = self.paging();
        let memory = platform.memory().lock();
        let linear = Linear::new(&memory, who, paging, &self.pages[who.vmpl.index()]);
        let result = deliver::deliver(&mut self.vmcb.save, &linear, vector, error_code);
        drop(memory);
        let exception = |vector, code| {
            EventInfo::new()
                .with_vector(vector)
                .with_event_type(EventType::EXCEPTION)
                .with_error_code_valid(true)
                .with_error_code(code)
                .with_valid(true)
        };
        match result {
            Ok(()) => {
                self.injection.control.set_int_shadow(false);
                None
            }
            Err(Nested::PageFault { code, address }) => {
                self.vmcb.save.cr2 = address;
                self.injection.event = Some(exception(14, code));
                None
            }
            Err(Nested::DoubleFault) => {
                self.injection.event = Some(exception(8, 0));
                None
            }
            Err(Nested::Shutdown) => Some(self.automatic(ExitCode::SHUTDOWN, 0, 0)),
        }
    }

    /// Takes back from the VMCB what QEMU changed at the exit.
    pub(super) fn take_back(&mut self) {
        let control = &self.vmcb.control;
        let tpr = control.interrupt_control.tpr();
        let shadow = control.interrupt_shadow.shadow();
        self.injection.take_back(tpr, shadow, self.vmcb.save.rip);
    }

    /// Saves the guest's state into its VMSA: what #VMEXIT does.
    pub(super) fn leave(&mut self, page: Phys, leaving: Leaving) -> HostExit {
        self.image.leave(&mut self.vmcb.save, &self.registers);
        extended::leave(&self.extended, &mut self.image);
        extended::store(&self.extended, page);
        let report: ExitReport = leaving.report;
        self.image.report(report);
        let from_vmsa = self.injection.source == Source::Vmsa;
        let control = self.injection.control;
        if from_vmsa {
            self.image.edit().vintr_ctrl = control;
            self.image.edit().event_inj = self.injection.event.unwrap_or_default();
        }
        self.image
            .store(page, if from_vmsa { leaving.busy } else { Busy::Keep });
        let interrupted = (!from_vmsa && report.int_info.valid()).then_some(report.int_info);
        HostExit {
            code: leaving.code,
            info1: leaving.info1,
            info2: leaving.info2,
            interrupted: interrupted.or(if from_vmsa {
                None
            } else {
                self.injection.event
            }),
            interrupt_taken: !control.v_irq(),
            state: HostHeldState {
                tpr: control.v_tpr(),
                shadow: control.int_shadow(),
            },
        }
    }
}
