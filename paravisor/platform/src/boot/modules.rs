//! What modules need of the start: memory, their share of the paravisor's address space, and each processor made ready for them.

use core::ops::Range;
use core::ptr;

use stockade_boot::layout::{MODULES_BASE, PAGE_SIZE};
use stockade_entry::copy;
use stockade_entry::module::{Gate, syscall_entry};

use super::image;
use super::space::AddressSpace;
use crate::cpu::CpuArea;
use crate::cpuid;
use crate::exception::descriptors::{self, CODE_SELECTOR, STACKS};
use crate::extended;
use crate::memory::accept::{self, AcceptError};
use crate::module::ModuleMemory;
use crate::paging::{Access, OutOfPages, Secrecy};
use crate::processor;
use crate::shared::SharedPage;

/// Registers of SYSCALL (APM vol. 2, 6.1.1), and EFER.
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const SFMASK: u32 = 0xC000_0084;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const EFER: u32 = 0xC000_0080;
const EFER_SCE: u64 = 1;
/// Everything but what is always set: no flag of a module's is there behind SYSCALL.
const ALL_FLAGS: u64 = 0x0024_7FD5;

/// Why there is no memory for modules.
#[derive(Debug, thiserror::Error)]
pub(super) enum ModulesError {
    /// No page is left for tables.
    #[error("no page is left")]
    OutOfPages(OutOfPages),
    /// The host did not give it properly.
    #[error(transparent)]
    Accept(#[from] AcceptError),
}

impl From<OutOfPages> for ModulesError {
    fn from(error: OutOfPages) -> Self {
        Self::OutOfPages(error)
    }
}

/// Accepts memory for modules, and maps what their page tables share besides what [`open`] adds.
pub(super) fn memory(space: &mut AddressSpace, bytes: u64) -> Result<ModuleMemory, ModulesError> {
    let range = MODULES_BASE..MODULES_BASE + bytes;
    space.map_modules(range.clone())?;
    // SAFETY: 1. just mapped so, large pages where aligned as the layout is; nothing else is told of it.
    unsafe { accept::accept_own(range.clone()) }?;
    zero(&range);
    space.map_in_modules(image::gate(), Access::Execute, Secrecy::Private)?;
    let idt = descriptors::idt_page();
    space.map_in_modules(page(idt), Access::Read, Secrecy::Private)?;
    prepare_processor();
    let entry = space.gate_entry().ok_or(OutOfPages)?;
    // SAFETY: 1. mapped one to one, accepted, zero and used by nothing else, as above. 2. the entry is that of what was just mapped.
    Ok(unsafe { ModuleMemory::new(range, entry) })
}

/// Adds a processor to what modules' page tables share: its area, its exception stacks and its doorbell.
pub(super) fn open(
    space: &mut AddressSpace,
    area: &'static CpuArea,
    (stacks, pages): ([u64; STACKS], u64),
    doorbell: &SharedPage,
) -> Result<(), OutOfPages> {
    space.map_in_modules(page(area.address()), Access::ReadWrite, Secrecy::Private)?;
    for top in stacks {
        let stack = top - pages * PAGE_SIZE..top;
        space.map_in_modules(stack, Access::ReadWrite, Secrecy::Private)?;
    }
    let doorbell = doorbell.address();
    let gate = Gate {
        doorbell,
        states: cpuid::installed().map_or(0, extended::xsave_states),
        ..Gate::new()
    };
    // SAFETY: the area was just made, or is this processor's; no module runs on it yet.
    unsafe { area.gate().write(gate) };
    space.map_in_modules(page(doorbell), Access::Read, Secrecy::Shared)
}

/// Has SYSCALL lead to the gate on the processor that executes this.
pub(super) fn prepare_processor() {
    let registers = [
        (STAR, u64::from(CODE_SELECTOR) << 32),
        (LSTAR, syscall_entry()),
        (SFMASK, ALL_FLAGS),
        (KERNEL_GS_BASE, 0),
    ];
    for (register, value) in registers {
        // SAFETY: 1. every 64-bit processor has the register. 2. SYSCALL and SWAPGS are used by modules' way in and out alone.
        unsafe { processor::write_msr(register, value) };
    }
    // SAFETY: 1. as above.
    let efer = unsafe { processor::read_msr(EFER) };
    // SAFETY: 1. as above. 2. The bit enables SYSCALL and nothing else.
    unsafe { processor::write_msr(EFER, efer | EFER_SCE) };
}

/// Zeroes what was just accepted: the host chose its content.
fn zero(range: &Range<u64>) {
    let start = usize::try_from(range.start).expect("addresses are 64 bits");
    let bytes = usize::try_from(range.end - range.start).expect("sizes are 64 bits");
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: 1. and 2. mapped one to one and writable, and nothing uses it. Memory the host takes back meanwhile is
    // missed at its next use, which stops the machine.
    let _ = unsafe { copy::zero(start, bytes) };
}

fn page(address: u64) -> Range<u64> {
    address..address + PAGE_SIZE
}
