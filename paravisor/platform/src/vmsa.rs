//! The guest's save area and the entry into VMPL2 (APM vol. 2, 15.36.7, 15.36.9 and 15.36.15).
//!
//! While the busy bit is set no host can run the save area, so the registers in it are ours to read and write; it is set
//! whenever a [`GuestVmsa`] can be borrowed. [`GuestVmsa::enter`] alone clears it, lets the guest run, and sets it again.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{SevFeatures, VintrControl, Vmsa, reset};
use stockade_boot::layout::VTOM;

use crate::cpuid::CpuidTable;
use crate::doorbell::Doorbell;
use crate::error::HostError;
use crate::ghcb::{Gate, Ghcb};
use crate::processor;

/// The privilege level of the guest.
pub const GUEST_VMPL: u8 = 2;

const BUSY: u64 = VintrControl::new().with_busy(true).into_bits();

/// What the guest's save area takes over from ours if it is on: protections against the host.
const INHERITED: SevFeatures = SevFeatures::DEBUG_SWAP
    .union(SevFeatures::PREVENT_HOST_IBS)
    .union(SevFeatures::BTB_ISOLATION)
    .union(SevFeatures::SECURE_TSC)
    .union(SevFeatures::VMSA_REG_PROT)
    .union(SevFeatures::SMT_PROTECTION)
    .union(SevFeatures::IBPB_ON_ENTRY);

/// Returns the features a guest at VMPL2 runs with, ours being `own`.
#[must_use]
pub fn guest_features(own: SevFeatures) -> SevFeatures {
    own.intersection(INHERITED)
        .union(SevFeatures::SNP_ACTIVE)
        .union(SevFeatures::VTOM)
        .union(SevFeatures::REFLECT_VC)
        .union(SevFeatures::ALTERNATE_INJECTION)
}

/// Why the host gave the processor back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReturn {
    /// The guest may have run: look at its exit code, then at the doorbell.
    Ran,
    /// The doorbell was signalled before the guest was entered.
    EventPending,
}

/// The save area of one guest processor.
#[derive(Debug)]
pub struct GuestVmsa {
    page: NonNull<Vmsa>,
    gpa: u64,
    features: SevFeatures,
}

// SAFETY: the page belongs to this value alone; whoever owns it may use it from any processor.
unsafe impl Send for GuestVmsa {}

impl GuestVmsa {
    /// Returns the save area in `page`, in reset state and busy.
    ///
    /// # Safety
    /// 1. `page` is a mapped, private 4 KiB page that nothing else uses, for ever; `gpa` is its guest-physical address.
    /// 2. It becomes a VMSA (RMPADJUST) only after this returns, and is not 2 MiB-aligned (an erratum).
    pub unsafe fn new(page: NonNull<Vmsa>, gpa: u64, features: SevFeatures) -> Self {
        let mut vmsa = Self {
            page,
            gpa,
            features,
        };
        vmsa.reset();
        vmsa
    }

    /// Returns the guest-physical address of the save area.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Returns the features the guest runs with.
    #[must_use]
    pub fn features(&self) -> SevFeatures {
        self.features
    }

    /// Returns the guest's registers.
    #[must_use]
    pub fn vmsa(&self) -> &Vmsa {
        // SAFETY: the page is mapped and ours (`new`, 1.); busy is set, so neither guest nor host writes it.
        unsafe { self.page.as_ref() }
    }

    /// Returns the guest's registers to be changed.
    pub fn vmsa_mut(&mut self) -> &mut Vmsa {
        // SAFETY: as for reading; `&mut self` makes it the only reference.
        unsafe { self.page.as_mut() }
    }

    /// Puts the processor into the state after RESET (APM vol. 2, 14.1.3), not runnable by the host.
    pub fn reset(&mut self) {
        let features = self.features;
        let mut vmsa = reset_state();
        vmsa.sev_features = features;
        vmsa.vintr_ctrl = VintrControl::new().with_v_gif(true).with_busy(true);
        *self.vmsa_mut() = vmsa;
    }

    /// Makes the next entry forget all of the guest's translations.
    pub fn flush_tlb(&mut self) {
        self.vmsa_mut().pcpu_id = 0;
    }

    /// Runs the guest until it exits or the host comes back for its own reasons.
    ///
    /// The caller has set the interrupt state; afterwards the save area is busy again whatever happened.
    pub fn enter<G: Gate>(
        &mut self,
        ghcb: &Ghcb<G>,
        doorbell: &Doorbell,
    ) -> Result<HostReturn, HostError> {
        self.interrupt_control().fetch_and(!BUSY, Ordering::SeqCst);
        let ran = ghcb.run_vmpl(GUEST_VMPL, doorbell);
        self.interrupt_control().fetch_or(BUSY, Ordering::SeqCst);
        match ran? {
            true => Ok(HostReturn::Ran),
            false => Ok(HostReturn::EventPending),
        }
    }

    fn interrupt_control(&self) -> &AtomicU64 {
        let offset = offset_of!(Vmsa, vintr_ctrl);
        let word = self.page.as_ptr().wrapping_byte_add(offset).cast();
        // SAFETY: the field is in the page and aligned; `enter` holds the value exclusively, so no other reference exists,
        // and the processor that runs the guest accesses it as a whole.
        unsafe { AtomicU64::from_ptr(word) }
    }
}

/// Bits of PRED_CMD (APM vol. 2, 3.2.9): indirect branch and selective branch prediction barrier.
const IBPB: u64 = 1 << 0;
const SBPB: u64 = 1 << 7;

/// Writes `bits` to PRED_CMD as far as the processor knows them, so that branches of the guest are predicted afresh.
pub fn prediction_barrier(cpuid: &CpuidTable, bits: u64) {
    let bits = bits & prediction_bits(cpuid);
    if bits != 0 {
        const PRED_CMD: u32 = 0x49;
        // SAFETY: 1. the CPUID page, vouched for by the PSP, names a bit of the register, so it exists. 2. It commands the
        // branch predictor only.
        unsafe { processor::write_msr(PRED_CMD, bits) };
    }
}

fn prediction_bits(cpuid: &CpuidTable) -> u64 {
    let ibpb = cpuid.lookup(0x8000_0008, 0)[1] & (1 << 12) != 0;
    let sbpb = cpuid.lookup(0x8000_0021, 0)[0] & (1 << 27) != 0;
    (u64::from(ibpb) * IBPB) | (u64::from(sbpb) * SBPB)
}

fn reset_state() -> Vmsa {
    let mut vmsa = Vmsa::zeroed();
    vmsa.cs = reset::CS;
    for data in [
        &mut vmsa.ds,
        &mut vmsa.es,
        &mut vmsa.fs,
        &mut vmsa.gs,
        &mut vmsa.ss,
    ] {
        *data = reset::DATA;
    }
    vmsa.ldtr = reset::LDTR;
    vmsa.tr = reset::TR;
    vmsa.gdtr = reset::TABLE;
    vmsa.idtr = reset::TABLE;
    vmsa.rip = reset::RIP;
    vmsa.rflags = reset::RFLAGS;
    vmsa.cr0 = reset::CR0;
    vmsa.dr6 = reset::DR6;
    vmsa.dr7 = reset::DR7;
    vmsa.g_pat = reset::PAT;
    vmsa.xcr0 = reset::XCR0;
    vmsa.mxcsr = reset::MXCSR;
    vmsa.x87_fcw = reset::FCW;
    vmsa.x87_ftw = reset::FTW;
    vmsa.efer = reset::EFER_SVME;
    vmsa.vmpl = GUEST_VMPL;
    vmsa.virtual_tom = VTOM;
    vmsa.guest_exit_code = ExitCode::INTR;
    vmsa
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::tests::FakeHost;
    use crate::shared::tests::page;
    use std::boxed::Box;
    use stockade_abi::cpuid_page::CpuidPage;

    fn vmsa() -> GuestVmsa {
        let page = NonNull::from(Box::leak(Box::new(Vmsa::zeroed())));
        let features = guest_features(SevFeatures::SNP_ACTIVE | SevFeatures::DEBUG_SWAP);
        // SAFETY: 1. the page is leaked and used by nothing else. 2. The host has no RMPADJUST.
        unsafe { GuestVmsa::new(page, 0x5000, features) }
    }

    #[test]
    fn features_of_the_guest_never_mix_the_two_injection_modes() {
        let own = SevFeatures::SNP_ACTIVE
            | SevFeatures::RESTRICTED_INJECTION
            | SevFeatures::DEBUG_SWAP
            | SevFeatures::SECURE_AVIC;
        let expected = SevFeatures::SNP_ACTIVE
            | SevFeatures::VTOM
            | SevFeatures::REFLECT_VC
            | SevFeatures::ALTERNATE_INJECTION
            | SevFeatures::DEBUG_SWAP;
        assert_eq!(guest_features(own), expected);
    }

    /// A host that runs a save area while we edit it would see the guest half changed.
    #[test]
    fn busy_is_clear_exactly_while_the_host_runs() {
        let mut vmsa = vmsa();
        assert!(vmsa.vmsa().vintr_ctrl.busy());
        let control = vmsa.interrupt_control() as *const AtomicU64 as usize;
        let host = FakeHost::with(move |_| {
            // SAFETY: the page is leaked; the word is only accessed atomically meanwhile.
            let control = unsafe { AtomicU64::from_ptr(control as *mut u64) };
            assert_eq!(control.load(Ordering::SeqCst) & BUSY, 0);
        });
        let doorbell = Doorbell::new(page());
        assert_eq!(vmsa.enter(&host.ghcb(), &doorbell), Ok(HostReturn::Ran));
        assert_eq!(host.events(), [0x8000_0018]);
        assert!(vmsa.vmsa().vintr_ctrl.busy());
    }

    /// A bit the processor does not know would be #GP at VMPL0.
    #[test]
    fn prediction_commands_are_those_the_processor_knows() {
        let mut page = CpuidPage::zeroed();
        let bits = |page: &CpuidPage| prediction_bits(&CpuidTable::parse(page).unwrap());
        assert_eq!(bits(&page), 0);
        page.count = 2;
        page.entries[0].eax_in = 0x8000_0008;
        page.entries[0].ebx = 1 << 12;
        assert_eq!(bits(&page), IBPB);
        page.entries[1].eax_in = 0x8000_0021;
        page.entries[1].eax = 1 << 27;
        assert_eq!(bits(&page), IBPB | SBPB);
    }

    #[test]
    fn a_signalled_doorbell_keeps_the_guest_out() {
        let (mut vmsa, host) = (vmsa(), FakeHost::new());
        let shared = page();
        shared.write(1, &[0x80]);
        let outcome = vmsa.enter(&host.ghcb(), &Doorbell::new(shared));
        assert_eq!(outcome, Ok(HostReturn::EventPending));
        assert!(vmsa.vmsa().vintr_ctrl.busy());
    }

    #[test]
    fn a_refused_entry_leaves_the_save_area_busy() {
        let (mut vmsa, host) = (vmsa(), FakeHost::refusing());
        let outcome = vmsa.enter(&host.ghcb(), &Doorbell::new(page()));
        assert!(outcome.is_err());
        assert!(vmsa.vmsa().vintr_ctrl.busy());
    }

    #[test]
    fn reset_state_is_runnable_and_starts_at_the_reset_vector() {
        let mut vmsa = vmsa();
        vmsa.vmsa_mut().rip = 7;
        vmsa.reset();
        let state = vmsa.vmsa();
        assert_eq!((state.cs.base, state.rip), (0xFFFF_0000, 0xFFF0));
        assert_ne!(state.efer & reset::EFER_SVME, 0);
        assert!(state.vintr_ctrl.v_gif());
        assert_eq!(state.virtual_tom, VTOM);
    }
}
