//! What VMRUN and #VMEXIT do with a VMSA: the checks, the load, the save (APM vol. 2, 15.5.1, 15.36.12, table B-4).
//!
//! [`Image`] is a private copy of the page's first KiB, so that the guest's other processors cannot change a value
//! between check and use; the floating-point part is [`extended`](super::extended)'s.

use crate::snp::addr::{Gpa, Phys};
use crate::snp::rmp::{Owner, Rmp, Vmpl};
use crate::snp::walk::{CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, EFER_SVME};
use crate::svm::{GuestRegisters, SaveArea, Segment};
use alloc::boxed::Box;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{self, EventInfo, SevFeatures, VintrControl, Vmsa};
use zerocopy::IntoBytes;

/// Bytes of the VMSA that are not floating-point state.
const HEAD: usize = offset_of!(Vmsa, x87_dp);
const VINTR: usize = offset_of!(Vmsa, vintr_ctrl);
const BUSY: u64 = VintrControl::new().with_busy(true).into_bits();

/// Features this processor has.
pub const SUPPORTED: SevFeatures = SevFeatures::SNP_ACTIVE
    .union(SevFeatures::VTOM)
    .union(SevFeatures::REFLECT_VC)
    .union(SevFeatures::RESTRICTED_INJECTION)
    .union(SevFeatures::ALTERNATE_INJECTION)
    .union(SevFeatures::DEBUG_SWAP)
    .union(SevFeatures::PREVENT_HOST_IBS)
    .union(SevFeatures::BTB_ISOLATION)
    .union(SevFeatures::SECURE_TSC);

/// EFER bits that are defined (APM vol. 2, 3.1.7).
const EFER_DEFINED: u64 = 0x3F_FD01 & !0x200;
/// Parts of VINTR_CTRL that #VMEXIT writes back (APM vol. 2, 15.36.16).
const VINTR_WRITTEN_BACK: u64 = VintrControl::new()
    .with_v_tpr(0xFF)
    .with_v_irq(true)
    .with_v_nmi(true)
    .with_v_nmi_mask(true)
    .with_int_shadow(true)
    .into_bits();

/// Why VMRUN fails, for the host's log; the exit code says less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The RMP does not know the page as a VMSA of this guest at this address.
    #[error("the page is no VMSA of this guest")]
    NotVmsa,
    /// The busy bit is set.
    #[error("the VMSA is busy")]
    Busy,
    /// Features this processor lacks or that exclude each other.
    #[error("SEV features {0:#x}")]
    Features(u64),
    /// EFER.SVME is clear: the VMSA is not ready.
    #[error("EFER.SVME is clear")]
    NotReady,
    /// A register has a value it cannot have.
    #[error("{0} = {1:#x}")]
    Register(&'static str, u64),
    /// An event that cannot be injected.
    #[error("event injection {0:#x}")]
    Event(u64),
}

impl Refusal {
    /// The exit code VMRUN ends with.
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Busy => ExitCode::BUSY,
            _ => ExitCode::INVALID,
        }
    }
}

/// What the processor reports of an automatic exit in the VMSA (APM vol. 2, 15.36.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitReport {
    /// GUEST_EXITCODE.
    pub code: ExitCode,
    /// GUEST_EXITINFO1.
    pub info1: u64,
    /// GUEST_EXITINFO2.
    pub info2: u64,
    /// GUEST_EXITINTINFO.
    pub int_info: EventInfo,
    /// GUEST_NRIP.
    pub nrip: u64,
}

/// A private copy of a VMSA's registers.
pub struct Image {
    vmsa: Box<Vmsa>,
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// An image of zeros.
    pub fn new() -> Self {
        Self {
            vmsa: Box::new(Vmsa::zeroed()),
        }
    }

    /// The copy.
    pub fn vmsa(&self) -> &Vmsa {
        &self.vmsa
    }

    /// The features of the VMSA.
    pub fn has(&self, feature: SevFeatures) -> bool {
        self.vmsa.sev_features.contains(feature)
    }

    /// The VMPL of the VMSA.
    pub fn vmpl(&self) -> Vmpl {
        Vmpl::try_new(self.vmsa.vmpl).unwrap_or(Vmpl::ZERO)
    }

    /// Copies and checks the VMSA at `page`, which the host says is the guest's page at `gpa`, and marks the processor
    /// in it.
    pub fn load(
        &mut self,
        rmp: &Rmp,
        owner: Owner,
        gpa: Gpa,
        page: Phys,
        processor: u32,
    ) -> Result<(), Refusal> {
        let entry = rmp.entry(page);
        if !entry.is_assigned()
            || !entry.is_owned_by(owner)
            || entry.gpa() != gpa
            || !entry.is_vmsa()
        {
            return Err(Refusal::NotVmsa);
        }
        page.read_bytes(&mut self.vmsa.as_mut_bytes()[..HEAD]);
        self.check()?;
        // Hardware leaves where it ran; software asks for a TLB flush by zeroing it. Each entry flushes here.
        page.in_page(offset_of!(Vmsa, pcpu_id) as u64)
            .write_u64(u64::from(processor) + 1);
        self.vmsa.pcpu_id = u64::from(processor) + 1;
        Ok(())
    }

    fn check(&self) -> Result<(), Refusal> {
        let vmsa = &*self.vmsa;
        if vmsa.vintr_ctrl.busy() {
            return Err(Refusal::Busy);
        }
        let features = vmsa.sev_features;
        let both = SevFeatures::RESTRICTED_INJECTION.union(SevFeatures::ALTERNATE_INJECTION);
        if !SUPPORTED.contains(features)
            || !features.contains(SevFeatures::SNP_ACTIVE)
            || features.contains(both)
        {
            return Err(Refusal::Features(features.bits()));
        }
        if vmsa.efer & EFER_SVME == 0 {
            return Err(Refusal::NotReady);
        }
        check_registers(vmsa)?;
        if features.contains(SevFeatures::ALTERNATE_INJECTION) {
            check_event(vmsa.event_inj)?;
        }
        Ok(())
    }

    /// Puts the registers where SVM takes them from.
    pub fn enter(&self, save: &mut SaveArea, registers: &mut GuestRegisters) {
        let vmsa = &*self.vmsa;
        for (to, from) in segments(save).into_iter().zip(vmsa_segments(vmsa)) {
            *to = Segment {
                selector: from.selector,
                attributes: from.attributes.into_bits(),
                limit: from.limit,
                base: from.base,
            };
        }
        // QEMU takes the CPL from here.
        save.ss.attributes = save.ss.attributes & !0x60 | u16::from(vmsa.cpl & 3) << 5;
        save.cpl = vmsa.cpl;
        macro_rules! copy {
            ($($field:ident)*) => { $(save.$field = vmsa.$field;)* };
        }
        copy! { efer cr4 cr3 cr0 dr7 dr6 rflags rip rsp rax star lstar cstar sfmask kernel_gs_base
        sysenter_cs sysenter_esp sysenter_eip cr2 g_pat dbgctl }
        macro_rules! copy_general {
            ($($field:ident)*) => { $(registers.$field = vmsa.$field;)* };
        }
        copy_general! { rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15 }
    }

    /// Takes the registers back after the guest ran.
    pub fn leave(&mut self, save: &mut SaveArea, registers: &GuestRegisters) {
        let vmsa = &mut *self.vmsa;
        for (from, to) in segments(save).into_iter().zip(vmsa_segments_mut(vmsa)) {
            to.selector = from.selector;
            to.attributes = vmsa::SegmentAttributes::from_bits(from.attributes);
            to.limit = from.limit;
            to.base = from.base;
        }
        vmsa.cpl = save.cpl;
        macro_rules! copy {
            ($($field:ident)*) => { $(vmsa.$field = save.$field;)* };
        }
        copy! { efer cr4 cr3 cr0 dr7 dr6 rflags rip rsp rax star lstar cstar sfmask kernel_gs_base
        sysenter_cs sysenter_esp sysenter_eip cr2 g_pat dbgctl }
        macro_rules! copy_general {
            ($($field:ident)*) => { $(vmsa.$field = registers.$field;)* };
        }
        copy_general! { rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15 }
        vmsa.efer |= EFER_SVME;
    }

    /// Changes registers that no SVM structure holds (XSS, SPEC_CTRL, XCR0 …).
    pub fn edit(&mut self) -> &mut Vmsa {
        &mut self.vmsa
    }

    /// The event the more privileged VMPL wants injected; taken, so that it happens once.
    pub fn take_event(&mut self) -> Option<EventInfo> {
        let event = core::mem::take(&mut self.vmsa.event_inj);
        event.valid().then_some(event)
    }

    /// Reports the exit in the image.
    pub fn report(&mut self, report: ExitReport) {
        self.vmsa.guest_exit_code = report.code;
        self.vmsa.guest_exit_info1 = report.info1;
        self.vmsa.guest_exit_info2 = report.info2;
        self.vmsa.guest_exit_int_info = report.int_info;
        self.vmsa.guest_nrip = report.nrip;
    }

    /// Writes the image back to the page. VINTR_CTRL keeps what hardware does not write; with `busy` its busy bit is
    /// set.
    pub fn store(&self, page: Phys, busy: Busy) {
        let bytes = &self.vmsa.as_bytes()[..HEAD];
        page.in_page(0).write_bytes(&bytes[..VINTR]);
        let after = VINTR + 8;
        page.in_page(after as u64).write_bytes(&bytes[after..]);
        let word = page.in_page(VINTR as u64).atomic();
        let written = match busy {
            Busy::Set => VINTR_WRITTEN_BACK | BUSY,
            Busy::Keep => VINTR_WRITTEN_BACK,
        };
        let new = self.vmsa.vintr_ctrl.into_bits() & VINTR_WRITTEN_BACK
            | if busy == Busy::Set { BUSY } else { 0 };
        let merge = |old| Some(old & !written | new);
        // The closure never refuses.
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, merge);
    }
}

/// What becomes of the busy bit at an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Busy {
    /// It stays.
    Keep,
    /// Hardware sets it: the exit interrupted an event under alternate injection (APM vol. 2, 15.36.9).
    Set,
}

/// The register checks of VMRUN (APM vol. 2, 15.5.1, "canonicalization and consistency checks").
fn check_registers(vmsa: &Vmsa) -> Result<(), Refusal> {
    let Vmsa {
        cr0,
        cr3,
        cr4,
        efer,
        dr6,
        dr7,
        ..
    } = *vmsa;
    let refuse = |wrong: bool, name, value| {
        if wrong {
            Err(Refusal::Register(name, value))
        } else {
            Ok(())
        }
    };
    let (not_write_through, cache_disable) = (cr0 >> 29 & 1, cr0 >> 30 & 1);
    refuse(
        cr0 >> 32 != 0 || (not_write_through == 1 && cache_disable == 0),
        "CR0",
        cr0,
    )?;
    refuse(cr0 & CR0_PG != 0 && cr0 & CR0_PE == 0, "CR0", cr0)?;
    refuse(efer & !EFER_DEFINED != 0, "EFER", efer)?;
    refuse(cr3 >> 52 != 0, "CR3", cr3)?;
    refuse(cr4 >> 32 != 0, "CR4", cr4)?;
    refuse(dr6 >> 32 != 0, "DR6", dr6)?;
    refuse(dr7 >> 32 != 0, "DR7", dr7)?;
    let long = efer & EFER_LME != 0 && cr0 & CR0_PG != 0;
    refuse(long && cr4 & CR4_PAE == 0, "CR4", cr4)?;
    refuse(long != (efer & EFER_LMA != 0), "EFER", efer)?;
    let code = vmsa.cs.attributes;
    refuse(
        long && code.long() && code.default_big(),
        "CS",
        u64::from(code.into_bits()),
    )?;
    refuse(vmsa.xcr0 & 1 == 0, "XCR0", vmsa.xcr0)?;
    refuse(vmsa.vmpl > 3, "VMPL", u64::from(vmsa.vmpl))?;
    refuse(vmsa.cpl > 3, "CPL", u64::from(vmsa.cpl))
}

/// Events EVENTINJ takes (APM vol. 2, 15.20): INTR, NMI, exceptions but vector 2, software interrupts.
pub fn check_event(event: EventInfo) -> Result<(), Refusal> {
    let legal = match (event.event_type().0, event.vector()) {
        (0 | 2 | 4, _) => true,
        (3, vector) => vector < 32 && vector != 2,
        _ => false,
    };
    if event.valid() && !legal {
        Err(Refusal::Event(event.into_bits()))
    } else {
        Ok(())
    }
}

fn segments(save: &mut SaveArea) -> [&mut Segment; 10] {
    let SaveArea {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        gdtr,
        ldtr,
        idtr,
        tr,
        ..
    } = save;
    [es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr]
}

fn vmsa_segments(vmsa: &Vmsa) -> [&vmsa::Segment; 10] {
    let Vmsa {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        gdtr,
        ldtr,
        idtr,
        tr,
        ..
    } = vmsa;
    [es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr]
}

fn vmsa_segments_mut(vmsa: &mut Vmsa) -> [&mut vmsa::Segment; 10] {
    let Vmsa {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        gdtr,
        ldtr,
        idtr,
        tr,
        ..
    } = vmsa;
    [es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr]
}

#[cfg(test)]
mod tests;
