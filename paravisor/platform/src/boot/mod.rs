//! The start: from the first Rust instruction to a [`Platform`] in the program's hands.
//!
//! [`stockade_boot_main`] runs on the launch's page tables and boot stack: it reads the CPUID page, builds the real page
//! tables and the heap, and changes to a proper stack. [`main_stack`] then checks, step by step, all that the architecture
//! demands of processor and host; the first demand not met stops the machine with its reason. Nothing here trusts the host:
//! what it is asked, it is asked by the checked calls of [`crate::ghcb`] and [`crate::msr_protocol`].

mod checks;
pub mod heap;
pub(crate) mod image;
mod launch;
mod modules;
mod processors;
mod space;
pub(crate) mod stacks;

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::AtomicU64;

use log::LevelFilter;
use spin::Mutex;
use stockade_abi::ghcb_msr::GHCB_MSR;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::SevFeatures;
use stockade_boot::layout::STAGING_BASE;
use stockade_boot::manifest::Manifest;
use stockade_boot::ram::RamMap;

pub use processors::{Processors, StartError};

use crate::console;
use crate::cpu::CpuArea;
use crate::cpuid::CpuidTable;
use crate::exception::descriptors;
use crate::extended;
use crate::ghcb::Ghcb;
use crate::machine::{Launch, Platform};
use crate::memory::{GuestRam, accept};
use crate::module::ModuleMemory;
use crate::msr_protocol;
use crate::paging::{LargestPage, OutOfPages};
use crate::processor;
use crate::psp::Psp;
use crate::shared::SharedPage;
use crate::stop::refuse;
use crate::time::TscClock;
use crate::vmsa::guest_features;
use space::{AddressSpace, HEAP, RAM_WINDOW};

/// The program's stack on the first processor, which starts the guest.
const MAIN_STACK_PAGES: u64 = 32;
/// An exception's stack: enough to print and stop.
const EXCEPTION_STACK_PAGES: u64 = 4;
/// Leaf 8000_0001h, EDX: 1 GiB pages.
const GIGANTIC_PAGES: u32 = 1 << 26;
/// The vCPU the machine starts with.
const FIRST_APIC_ID: u32 = 0;

unsafe extern "Rust" {
    /// The program, defined by the binary.
    safe fn paravisor_main(platform: Platform) -> !;
}

/// What the first part of the start leaves to the second, which runs on another stack.
static EARLY: Mutex<Option<(AddressSpace, &'static CpuidTable)>> = Mutex::new(None);

/// The first Rust function: called once by the entry code.
#[expect(unsafe_code, reason = "the entry code calls it by name")]
#[unsafe(no_mangle)]
extern "C" fn stockade_boot_main() -> ! {
    let cpuid = launch::cpuid_table();
    extended::enable(cpuid);
    let (space, stack) = address_space(cpuid).unwrap_or_else(|error| out_of_pages(error));
    *EARLY.lock() = Some((space, cpuid));
    // SAFETY: the stack is mapped and new; `main_stack` never returns, so nothing of the old one is needed again.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {main}",
            "ud2",
            stack = in(reg) stack,
            main = sym main_stack,
            options(noreturn)
        );
    }
}

/// Builds and enters the address space, starts the heap, and returns the top of the program's stack.
fn address_space(cpuid: &CpuidTable) -> Result<(AddressSpace, u64), OutOfPages> {
    let largest = match cpuid.lookup(0x8000_0001, 0)[3] & GIGANTIC_PAGES {
        0 => LargestPage::Large,
        _ => LargestPage::Gigantic,
    };
    // SAFETY: 1. this is the only call, before anything uses free memory.
    let mut space = unsafe { AddressSpace::build(largest) }?;
    space.enter();
    // SAFETY: 1. the range is mapped by the tables just entered and used by nothing else. 2. this is the only call.
    unsafe { heap::init(HEAP) };
    let stack = stacks::allocate(&mut space, MAIN_STACK_PAGES)?;
    Ok((space, stack))
}

extern "C" fn main_stack() -> ! {
    let (space, cpuid) = EARLY.lock().take().expect("the first part has just run");
    paravisor_main(start(space, cpuid))
}

/// The start proper: one demand after the other.
fn start(mut space: AddressSpace, cpuid: &'static CpuidTable) -> Platform {
    let stacks = exception_stacks(&mut space, EXCEPTION_STACK_PAGES)
        .unwrap_or_else(|error| out_of_pages(error));
    let area = CpuArea::allocate(stacks);
    descriptors::install(area.descriptors());
    area.install();
    let sev_features = checks::sev_features();
    checks::c_bit(cpuid);
    let hypervisor_features = checks::hypervisor_features(&mut exchange);
    let page = space.share_page(|gpa| msr_protocol::share_page(&mut exchange, gpa));
    let page = page.unwrap_or_else(|error| refuse(StopReason::GHCB_REFUSED, &error));
    let ghcb = processors::register_ghcb(area, page);
    console::init(LevelFilter::Info);
    log::info!("stockade paravisor {}", env!("CARGO_PKG_VERSION"));
    let doorbell = share_by_ghcb(&mut space, &ghcb);
    let psp = open_psp(&mut space, &ghcb);
    let manifest = launch::manifest();
    extend_heap(&mut space, manifest.extra_bytes());
    let parameters = launch::parameters(manifest.max_vcpus());
    let modules = module_memory(&mut space, &manifest);
    if modules.is_some() {
        let pages = EXCEPTION_STACK_PAGES;
        let opened = modules::open(&mut space, area, (stacks, pages), &doorbell);
        opened.unwrap_or_else(|error| out_of_pages(error));
    }
    let clock = start_clock(sev_features, cpuid);
    let ram = accept_ram(&mut space, &parameters.ram);
    let ram = match manifest.rom_range() {
        Some(rom) => accept_rom(&mut space, ram, rom),
        None => ram,
    };
    let bounce = space
        .map_bounce(manifest.devices().bounce_bytes())
        .unwrap_or_else(|error| out_of_pages(error));
    let features = guest_features(sev_features);
    let vmsa = processors::guest_vmsa(&mut space, features)
        .unwrap_or_else(|error| refuse(StopReason::VMSA_CREATE_FAILED, &error));
    Platform {
        cpu: processors::register(FIRST_APIC_ID, ghcb, doorbell, vmsa),
        ram,
        clock,
        psp,
        bounce,
        modules,
        launch: Launch {
            cpuid,
            manifest,
            parameters,
            sev_features,
            hypervisor_features,
        },
        processors: Processors::new(space, sev_features),
    }
}

/// Returns the tops of a processor's exception stacks.
fn exception_stacks(
    space: &mut AddressSpace,
    pages: u64,
) -> Result<[u64; descriptors::STACKS], OutOfPages> {
    let mut stacks = [0; descriptors::STACKS];
    for top in &mut stacks {
        *top = stacks::allocate(space, pages)?;
    }
    Ok(stacks)
}

/// Returns a page shared with the host, which must agree.
fn share_by_ghcb(space: &mut AddressSpace, ghcb: &Ghcb) -> SharedPage {
    let page = processors::share(space, ghcb);
    page.unwrap_or_else(|error| refuse(StopReason::GHCB_PROTOCOL, &error))
}

/// Accepts the memory of modules, if the image has any, and makes ready what their page tables share.
fn module_memory(space: &mut AddressSpace, manifest: &Manifest) -> Option<ModuleMemory> {
    let bytes = manifest.module_memory_bytes();
    if bytes == 0 {
        return None;
    }
    let memory = modules::memory(space, bytes).unwrap_or_else(|error| match error {
        modules::ModulesError::OutOfPages(error) => out_of_pages(error),
        modules::ModulesError::Accept(error) => refuse(StopReason::ACCEPT_FAILED, &error),
    });
    log::info!("accepted {} MiB for modules", bytes >> 20);
    Some(memory)
}

fn out_of_pages(_: OutOfPages) -> ! {
    refuse(StopReason::OUT_OF_MEMORY, &"no page is left")
}

/// One word to the host and one back, before there is a GHCB.
fn exchange(word: u64) -> u64 {
    // SAFETY: 1. every SNP processor has the register. 2. it holds no address Rust relies on.
    unsafe { processor::write_msr(GHCB_MSR, word) };
    processor::vmgexit();
    // SAFETY: 1. as above.
    unsafe { processor::read_msr(GHCB_MSR) }
}

fn open_psp(space: &mut AddressSpace, ghcb: &Ghcb) -> Psp {
    let key = launch::take_vmpck();
    let [request, response] = [(); 2].map(|()| share_by_ghcb(space, ghcb));
    Psp::new(key, request, response)
}

fn start_clock(features: SevFeatures, cpuid: &CpuidTable) -> TscClock {
    static LATEST: AtomicU64 = AtomicU64::new(0);
    let Some(hz) = launch::tsc_hz(features, cpuid) else {
        let why =
            "neither the processor nor the CPUID page tells the time-stamp counter's frequency";
        refuse(StopReason::CPUID_PAGE_INVALID, &why)
    };
    log::info!("time-stamp counter at {} MHz", hz / 1_000_000);
    TscClock::new(hz, &LATEST)
}

/// Takes over what memory the manifest gives us beyond our first.
fn extend_heap(space: &mut AddressSpace, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let range = space.map_extra(bytes);
    let range = range.unwrap_or_else(|error| out_of_pages(error));
    // SAFETY: 1. just mapped so; nothing lies there yet.
    unsafe { accept::accept_own(range) }
        .unwrap_or_else(|error| refuse(StopReason::ACCEPT_FAILED, &error));
    // SAFETY: 1. the range is mapped and accepted, follows the heap, and nothing else uses it.
    unsafe { heap::extend(bytes) };
}

/// Takes over the memory for firmware.
fn accept_rom(space: &mut AddressSpace, ram: GuestRam, rom: Range<u64>) -> GuestRam {
    space
        .map_rom(rom.clone())
        .unwrap_or_else(|error| out_of_pages(error));
    // SAFETY: 1. just mapped so, and nothing lies there.
    unsafe { accept::accept_rom(rom.clone(), RAM_WINDOW) }
        .unwrap_or_else(|error| refuse(StopReason::ACCEPT_FAILED, &error));
    // SAFETY: 1. mapped for ever and accepted above; the manifest puts it below 4 GiB, where no RAM is, and no Rust object lies there.
    unsafe { ram.with_rom(rom) }
}

fn accept_ram(space: &mut AddressSpace, map: &RamMap) -> GuestRam {
    space.map_guest(map).unwrap_or_else(|e| out_of_pages(e));
    // SAFETY: 1. `map_guest` has just mapped it so.
    let states = unsafe { accept::accept(map, RAM_WINDOW) };
    let states = states.unwrap_or_else(|error| refuse(StopReason::ACCEPT_FAILED, &error));
    log::info!("accepted {} MiB of guest memory", map.bytes() >> 20);
    // SAFETY: 1. and 2. `map_guest` mapped both for ever, and the exception handler does fix-ups. 3. the window lies where no
    // Rust object is. 4. `accept` returns what it accepted.
    unsafe { GuestRam::new(*map, states, RAM_WINDOW, STAGING_BASE) }
}
