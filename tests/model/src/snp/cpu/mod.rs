//! One processor with SEV-SNP, made of one with SVM: VMRUN with a VMSA, and all that hardware does until the host sees
//! an exit.
//!
//! [`Processor::run`] is VMRUN. Inside, [`entry`] prepares each entry of the real VMRUN and [`exits`] decides what each
//! of its exits is: nothing (the model finishes the instruction and goes on), #VC for the guest, or an exit for the host.

pub mod deliver;
mod entry;
mod exits;
pub mod extended;
mod injection;
mod instruction;
pub mod linear;
pub mod msr;
mod nested_fault;
pub mod rmp_instructions;
pub mod vmsa;

use super::addr::{Gpa, Phys};
use super::memory::{Memory, Who};
use super::npt::Layout;
use super::rmp::VMPLS;
use super::stats::Counters;
use super::walk::Paging;
use super::work::Spent;
use crate::machine::memory::PageBox;
use crate::svm::{self, ExtendedState, GuestRegisters, IoPermissionMap, MsrPermissionMap, Vmcb};
use alloc::boxed::Box;
use injection::Injection;
use linear::PageCache;
use spin::Mutex;
use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{EventInfo, SevFeatures};
use vmsa::Image;

/// What the processors share besides memory: how to make the others forget translations, and how to count.
pub trait Platform {
    /// The memory system.
    fn memory(&self) -> &Mutex<Memory>;
    /// The counters.
    fn counters(&self) -> &Counters;
    /// Takes every other processor out of its guest, so that it forgets translations.
    fn flush_others(&self);
    /// Marks this processor as being inside a guest, or not.
    fn set_in_guest(&self, is_in_guest: bool);
    /// Has the next entry end at once if an interrupt has come that the host has not looked at.
    fn recall(&self);
    /// Looks at a VMSA that vCPU `index` is about to be entered with.
    fn entering(&self, index: u32, image: &Image);
    /// The TSC's frequency in MHz.
    fn tsc_mhz(&self) -> u64;
    /// What a hostile host makes of a nested fault at memory that is there.
    fn nested_lie(&self, gpa: Gpa) -> Option<NestedLie>;
}

/// What a host can put into a nested entry of memory that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NestedLie {
    /// Nothing, and it stays so: an automatic exit.
    Missing,
    /// Reserved bits: #VC, as for a device.
    Device,
}

/// What the host writes into the VMCB of an SNP guest before VMRUN, as far as it matters to one (APM vol. 2, 15.35.8).
pub struct HostControl {
    /// Where the guest has the VMSA.
    pub vmsa: Gpa,
    /// The event to inject: #HV only under restricted injection, ignored under alternate injection.
    pub event: Option<EventInfo>,
    /// The virtual interrupt to offer; neither injection feature lets it through.
    pub interrupt: Option<u8>,
    /// CR8 and shadow, which without alternate injection live in the VMCB.
    pub state: HostHeldState,
}

/// Interrupt state of a VMSA without alternate injection: in the VMCB, so it is the host that keeps it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct HostHeldState {
    /// V_TPR.
    pub tpr: u8,
    /// Interrupt shadow.
    pub shadow: bool,
}

/// What the host sees of an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostExit {
    /// EXITCODE.
    pub code: ExitCode,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2.
    pub info2: u64,
    /// EXITINTINFO: an injected event that must be injected again.
    pub interrupted: Option<EventInfo>,
    /// The offered virtual interrupt was taken.
    pub interrupt_taken: bool,
    /// What the VMCB kept.
    pub state: HostHeldState,
}

/// The parts of the machine one processor runs guests with.
pub struct Processor {
    index: u32,
    vmcb: PageBox<Vmcb>,
    registers: GuestRegisters,
    extended: Box<ExtendedState>,
    image: Image,
    injection: Injection,
    /// Whose x87, SSE and AVX state `extended` holds.
    extended_of: Option<Phys>,
    /// Pages it touched for its guest, by VMPL.
    pages: [PageCache; VMPLS],
    ports: Box<IoPermissionMap>,
    msrs: Box<MsrPermissionMap>,
    /// Why the last VMRUN was refused.
    refusal: Option<vmsa::Refusal>,
    /// Time inside guests, until somebody takes it.
    spent: Spent,
}

/// What the inner loop does next.
enum Next {
    /// Enter the guest again.
    Resume,
    /// Let the host see this.
    Leave(Leaving),
}

/// An exit on its way to the host.
struct Leaving {
    /// What goes into the VMSA.
    report: vmsa::ExitReport,
    /// What the host sees.
    code: ExitCode,
    info1: u64,
    info2: u64,
    busy: vmsa::Busy,
}

impl Processor {
    /// A processor; `None` without memory.
    pub fn try_new(index: u32) -> Option<Self> {
        let mut processor = Self {
            index,
            vmcb: PageBox::try_new_zeroed()?,
            registers: GuestRegisters::default(),
            extended: ExtendedState::new_reset(),
            image: Image::new(),
            injection: Injection::default(),
            extended_of: None,
            pages: Default::default(),
            ports: IoPermissionMap::intercept_all(),
            msrs: MsrPermissionMap::pass_swapped(),
            refusal: None,
            spent: Spent::default(),
        };
        processor.set_intercepts();
        Some(processor)
    }

    /// VMRUN: enters the guest by the VMSA at `control.vmsa` and comes back with an exit for the host. `ghcb` is the
    /// VMCB's copy of the GHCB MSR.
    pub fn run(
        &mut self,
        platform: &impl Platform,
        control: HostControl,
        ghcb: &mut u64,
    ) -> HostExit {
        let page = match self.enter(platform, &control) {
            Ok(page) => page,
            Err(refusal) => {
                self.refusal = Some(refusal);
                return HostExit::refused(refusal.exit_code(), &control);
            }
        };
        platform.entering(self.index, &self.image);
        let leaving = loop {
            if let Next::Leave(leaving) = self.run_once(platform, ghcb) {
                break leaving;
            }
            // An interrupt that came with an exit the host never sees was taken all the same, and the guest might not leave again.
            platform.recall();
        };
        self.leave(page, leaving)
    }

    /// Why the last VMRUN ended as busy or invalid before it began.
    pub const fn refusal(&self) -> Option<vmsa::Refusal> {
        self.refusal
    }

    /// Returns the time inside guests since the last call.
    pub fn take_spent(&mut self) -> Spent {
        core::mem::take(&mut self.spent)
    }

    /// The guest's registers at the last exit, for the host's last words.
    pub fn image(&self) -> &Image {
        &self.image
    }

    fn run_once(&mut self, platform: &impl Platform, ghcb: &mut u64) -> Next {
        if let Some(next) = self.prepare(platform) {
            return next;
        }
        platform.set_in_guest(true);
        // SAFETY: 1. the nested tables are the memory system's, which maps guest memory only. 2. `set_intercepts` and
        // `prepare` see to it. 3. The maps are this processor's; they pass what VMLOAD swaps. 4. The loop that calls
        // this runs with interrupts off, and the VMCB is this processor's own.
        let exit = unsafe { svm::run(&mut self.vmcb, &mut self.registers, &mut self.extended) };
        self.spent
            .add(self.registers.ended.wrapping_sub(self.registers.begun));
        platform.set_in_guest(false);
        self.take_back();
        self.decide(platform, exit, ghcb)
    }

    /// Whose accesses the guest's are, just now.
    fn who(&self) -> Who {
        let paging = self.paging();
        let vmpl = self.image.vmpl();
        if self.image.has(SevFeatures::VTOM) {
            return Who {
                vmpl,
                layout: Layout::Flat,
                top: self.image.vmsa().virtual_tom,
            };
        }
        let layout = if paging.has_c_bit() {
            Layout::CBit
        } else {
            Layout::Flat
        };
        Who {
            vmpl,
            layout,
            top: u64::MAX,
        }
    }

    fn pages(&self) -> &PageCache {
        &self.pages[self.image.vmpl().index()]
    }

    fn paging(&self) -> Paging {
        let save = &self.vmcb.save;
        Paging {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer,
        }
    }
}

impl HostExit {
    fn refused(code: ExitCode, control: &HostControl) -> Self {
        Self {
            code,
            info1: 0,
            info2: 0,
            interrupted: control.event,
            interrupt_taken: false,
            state: control.state,
        }
    }
}
