//! Processors: what each needs of its own, and how the others start (GHCB specification, section 4.1.9).
//!
//! The first processor prepares everything another needs (stacks, shared pages, save areas), because it alone changes the page
//! tables. It then makes a save area for VMPL0 whose registers lead into [`secondary_main`], and has the host run it.

use alloc::boxed::Box;
use core::ptr::{self, NonNull};

use stockade_abi::ghcb::{PscEntry, PscOperation};
use stockade_abi::ghcb_msr::GHCB_MSR;
use stockade_abi::rmp::{PageSize, RmpPermissions, VmsaPage};
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::{Segment, SegmentAttributes, SevFeatures, Vmsa, reset};
use stockade_boot::layout::PAGE_SIZE;

use super::space::{AddressSpace, ShareError};
use super::{exception_stacks, exchange, modules, stacks};
use crate::cpu::CpuArea;
use crate::cpuid;
use crate::doorbell::Doorbell;
use crate::error::HostError;
use crate::exception::descriptors;
use crate::extended;
use crate::ghcb::{Ghcb, Processor};
use crate::machine::Cpu;
use crate::msr_protocol;
use crate::paging::OutOfPages;
use crate::processor::{self, RmpFailure};
use crate::shared::SharedPage;
use crate::stop::refuse;
use crate::vmsa::{GUEST_VMPL, GuestVmsa, guest_features};

/// The program's stack on a further processor.
const STACK_PAGES: u64 = 12;
/// An exception's stack there.
const EXCEPTION_STACK_PAGES: u64 = 3;
/// EFER: SVME (or the save area cannot be run), NXE, LMA, LME.
const EFER: u64 = reset::EFER_SVME | 1 << 11 | 1 << 10 | 1 << 8;
/// x87 control word after FNINIT.
const FCW: u16 = 0x37F;
/// RMPADJUST needs a level below ours even where only the VMSA bit counts.
const VMPL1: u8 = 1;

/// The processors that are not started, and what starting them takes.
#[derive(Debug)]
pub struct Processors {
    space: AddressSpace,
    features: SevFeatures,
}

/// Why a processor did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// No page is left for what it needs.
    #[error("no page is left for another processor")]
    OutOfPages,
    /// A page could not be made a save area, or be shared.
    #[error("a page cannot change its state: {0}")]
    Page(RmpFailure),
    /// The host did not take part.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl From<OutOfPages> for StartError {
    fn from(_: OutOfPages) -> Self {
        Self::OutOfPages
    }
}

impl From<ShareError<HostError>> for StartError {
    fn from(error: ShareError<HostError>) -> Self {
        match error {
            ShareError::OutOfPages => Self::OutOfPages,
            ShareError::Rmp(failure) => Self::Page(failure),
            ShareError::Host(error) => Self::Host(error),
        }
    }
}

/// What a processor finds when it starts.
struct Start {
    apic_id: u32,
    area: &'static CpuArea,
    has_modules: bool,
    ghcb: SharedPage,
    doorbell: SharedPage,
    vmsa: GuestVmsa,
    entry: fn(Cpu) -> !,
}

impl Processors {
    pub(super) fn new(space: AddressSpace, features: SevFeatures) -> Self {
        Self { space, features }
    }

    /// Starts processor `apic_id`, which calls `entry` on a stack of its own; `ghcb` is the caller's.
    pub fn start(
        &mut self,
        ghcb: &Ghcb,
        apic_id: u32,
        entry: fn(Cpu) -> !,
    ) -> Result<(), StartError> {
        let stack = stacks::allocate(&mut self.space, STACK_PAGES)?;
        let exception_stacks = exception_stacks(&mut self.space, EXCEPTION_STACK_PAGES)?;
        let area = CpuArea::allocate(exception_stacks);
        let doorbell = share(&mut self.space, ghcb)?;
        if self.space.has_modules() {
            let stacks = (exception_stacks, EXCEPTION_STACK_PAGES);
            modules::open(&mut self.space, area, stacks, &doorbell)?;
        }
        let start = Box::new(Start {
            apic_id,
            area,
            has_modules: self.space.has_modules(),
            ghcb: share(&mut self.space, ghcb)?,
            doorbell,
            vmsa: guest_vmsa(&mut self.space, guest_features(self.features))?,
            entry,
        });
        let page = self.space.small_page()?;
        let start = Box::into_raw(start).expose_provenance() as u64;
        let state = self.start_state(stack, area.address(), start);
        // SAFETY: the page is mapped one to one and comes from the pool, so nothing else uses it.
        unsafe { vmsa_at(page).write(state) };
        make_vmsa(page, VMPL1)?;
        Ok(ghcb.create_vcpu(apic_id, 0, self.features, page)?)
    }

    /// Returns registers that call [`secondary_main`] with `argument`.
    fn start_state(&self, stack: u64, gs_base: u64, argument: u64) -> Vmsa {
        let data = flat(descriptors::DATA_SELECTOR, 0xC93);
        let mut vmsa = Vmsa::zeroed();
        vmsa.cs = flat(descriptors::CODE_SELECTOR, 0xA9B);
        (vmsa.ds, vmsa.es, vmsa.ss, vmsa.fs) = (data, data, data, data);
        vmsa.gs = Segment {
            base: gs_base,
            ..data
        };
        (vmsa.ldtr, vmsa.tr) = (reset::LDTR, reset::TR);
        (vmsa.gdtr, vmsa.idtr) = (reset::TABLE, reset::TABLE);
        vmsa.efer = EFER;
        // SAFETY: reading control registers changes nothing.
        vmsa.cr0 = unsafe { x86::controlregs::cr0() }.bits() as u64;
        // SAFETY: as above.
        vmsa.cr4 = unsafe { x86::controlregs::cr4() }.bits() as u64;
        vmsa.cr3 = self.space.cr3();
        (vmsa.dr6, vmsa.dr7) = (reset::DR6, reset::DR7);
        (vmsa.rflags, vmsa.rip) = (reset::RFLAGS, secondary_main as *const () as u64);
        // As after a call: the stack is 8 off its alignment.
        (vmsa.rsp, vmsa.rdi) = (stack - 8, argument);
        vmsa.g_pat = reset::PAT;
        vmsa.xcr0 = cpuid::installed().map_or(reset::XCR0, extended::xcr0);
        (vmsa.mxcsr, vmsa.x87_fcw) = (reset::MXCSR, FCW);
        vmsa.sev_features = self.features;
        vmsa
    }
}

/// The first function of every processor but the first.
extern "C" fn secondary_main(start: *mut Start) -> ! {
    // SAFETY: the pointer is the argument `Processors::start` made from a box for this processor alone.
    let start = unsafe { Box::from_raw(start) };
    let Start {
        apic_id,
        area,
        has_modules,
        ghcb,
        doorbell,
        vmsa,
        entry,
    } = *start;
    descriptors::install(area.descriptors());
    if has_modules {
        modules::prepare_processor();
    }
    let ghcb = register_ghcb(area, ghcb);
    entry(register(apic_id, ghcb, doorbell, vmsa))
}

/// Makes `page` the GHCB of the processor that executes this.
pub(super) fn register_ghcb(area: &'static CpuArea, page: SharedPage) -> Ghcb {
    // Shared pages are mapped one to one.
    let gpa = page.address();
    if let Err(error) = msr_protocol::register_ghcb(&mut exchange, gpa) {
        refuse(StopReason::GHCB_REFUSED, &error);
    }
    // SAFETY: 1. every SNP processor has the register. 2. it holds no address Rust relies on. From here on it keeps naming
    // the page, for `Processor`.
    unsafe { processor::write_msr(GHCB_MSR, gpa) };
    let ghcb = Ghcb::new(page, gpa, Processor);
    area.set_ghcb(ghcb);
    ghcb
}

/// Tells the host what this processor has: its doorbell, the guest's save area, its timer.
pub(super) fn register(apic_id: u32, ghcb: Ghcb, doorbell: SharedPage, vmsa: GuestVmsa) -> Cpu {
    if let Err(error) = ghcb.set_doorbell(doorbell.address()) {
        refuse(StopReason::GHCB_PROTOCOL, &error);
    }
    if let Err(error) = ghcb.create_vcpu(apic_id, GUEST_VMPL, vmsa.features(), vmsa.gpa()) {
        refuse(StopReason::VMSA_CREATE_FAILED, &error);
    }
    if let Err(error) = ghcb.prepare_timer() {
        refuse(StopReason::GHCB_PROTOCOL, &error);
    }
    Cpu {
        apic_id,
        ghcb,
        doorbell: Doorbell::new(doorbell),
        vmsa,
    }
}

/// Returns a page shared with the host.
pub(super) fn share(
    space: &mut AddressSpace,
    ghcb: &Ghcb,
) -> Result<SharedPage, ShareError<HostError>> {
    space.share_page(|gpa| {
        ghcb.change_page_state(&[PscEntry::new()
            .with_gfn(gpa / PAGE_SIZE)
            .with_operation(PscOperation::SHARED)])
    })
}

/// Returns a new save area of the guest, in reset state.
pub(super) fn guest_vmsa(
    space: &mut AddressSpace,
    features: SevFeatures,
) -> Result<GuestVmsa, StartError> {
    let gpa = space.small_page()?;
    let page = NonNull::new(vmsa_at(gpa)).expect("the pool does not hold address 0");
    // SAFETY: 1. the page comes from the pool, mapped one to one. 2. RMPADJUST follows; the pool's small pages are none of
    // those at a 2 MiB boundary, which is the paravisor's first page.
    let vmsa = unsafe { GuestVmsa::new(page, gpa, features) };
    make_vmsa(gpa, GUEST_VMPL)?;
    Ok(vmsa)
}

/// Makes a small page a save area, inaccessible to `vmpl`.
fn make_vmsa(page: u64, vmpl: u8) -> Result<(), StartError> {
    let none = RmpPermissions::empty();
    // SAFETY: 1. the page is mapped and was accepted at entry. 2. Nobody gets access, and this is how a VMSA is made.
    unsafe { processor::rmpadjust(page, PageSize::SIZE_4K, vmpl, none, VmsaPage::Yes) }
        .map_err(StartError::Page)
}

fn vmsa_at(page: u64) -> *mut Vmsa {
    let address = usize::try_from(page).expect("addresses are 64 bits");
    ptr::with_exposed_provenance_mut(address)
}

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes: SegmentAttributes::from_bits(attributes),
        limit: u32::MAX,
        base: 0,
    }
}
