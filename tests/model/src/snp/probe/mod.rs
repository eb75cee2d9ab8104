//! The model's own hardware, probed from inside: a guest at VMPL0 made of the model itself.
//!
//! With the word `probe` on the command line no image is needed. The model's image is copied into a guest's private memory
//! at the same virtual addresses, and its second life begins at `guest`: it accepts memory, talks to the host by both
//! protocols, takes #VC and #HV, drives a disk of the host's if there is one, runs a lower VMPL and a second vCPU, and notes what held in a [`report`]. When it is done,
//! the model prints the report and ends as "powered off" if nothing failed.

mod cpu;
mod device;
mod guest;
mod lower;
mod report;
mod second;

use super::addr::{C_BIT, Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use super::bus;
use super::gpa_map::{MapError, RangeKind};
use super::launch::{BootError, VM, attack, rmp, run_here, start_others};
use super::memory::Memory;
use super::rmp::{PageSize, Permissions, Vmpl};
use super::vcpu::Vcpu;
use super::vm::{Host, MachineFrames, OWNER, Vm};
use crate::host::ioapic::IoApic;
use crate::host::lapic::{Role, Start};
use crate::machine::exit::{Ending, fail};
use crate::machine::memory::{HostPa, read};
use crate::machine::paging::is_mapped;
use crate::machine::{Boot, console, smp};
use crate::psp::chip::Chip;
use crate::psp::cpuid;
use crate::psp::launch::Launch;
use crate::psp::message::GuestContext;
use alloc::vec::Vec;
use stockade_abi::vmsa::{SegmentAttributes, SevFeatures, Vmsa};
use zerocopy::IntoBytes;

/// Where the guest has the first 8 MiB of its virtual addresses.
const BASE: u64 = 0x80_0000_0000;
/// Bytes there.
const SIZE: u64 = 0x80_0000;
/// The page tables, below the image.
const TABLES: u64 = 0x1000;
/// The launch VMSA; not at a 2 MiB boundary.
const LAUNCH_VMSA: u64 = 0x8000;
/// Where the loader puts the model, and one past where it must end.
const IMAGE: u64 = 0x10_0000;
const IMAGE_END: u64 = 0x30_0000;
/// Memory the guest works in, not validated at launch.
const WORK: u64 = 0x60_0000;
/// The same 8 MiB without the C-bit.
const SHARED_VIEW: u64 = 1 << 30;
/// Guest RAM, for the lower VMPL.
const RAM_VIEW: u64 = 2 << 30;
/// Bytes of guest RAM.
const RAM_SIZE: u64 = 64 << 20;
/// The guest policy.
const POLICY: u64 = 0x3_0000;

/// Bytes of a stack of the probe's.
const STACK_SIZE: usize = 0x8000;

/// A stack.
#[repr(C, align(16))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: it is only ever a stack, of one processor.
unsafe impl Sync for Stack {}

impl Stack {
    const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; STACK_SIZE]))
    }
}

/// Makes the guest and runs it.
pub fn start(boot: &Boot) -> ! {
    let vcpus = smp::runners().min(2);
    match build(vcpus, boot) {
        Ok(vm) => VM.call_once(|| vm),
        Err(error) => fail(Ending::Refused, error),
    };
    start_others();
    run_here()
}

/// Prints what the guest noted; `false` when something did not hold or nothing was noted.
pub fn print(memory: &Memory) -> bool {
    let at = Gpa::new(BASE + report::address());
    let mut text = Vec::from([0; report::SIZE]);
    let mut done = 0;
    while done < text.len() {
        let Some(page) = memory.map.translate(Gpa::new(at.get() + done as u64)) else {
            return false;
        };
        done += page.read_bytes(&mut text[done..]);
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let lines = core::str::from_utf8(text).unwrap_or("the report is no text");
    for line in lines.lines() {
        console::line(format_args!("probe: {line}"));
    }
    lines.contains("done") && !lines.contains("FAIL")
}

fn build(vcpus: u32, boot: &Boot) -> Result<Vm, BootError> {
    let mut memory = Memory::new(rmp(), OWNER, 0x0F0E_0D0C_0B0A_0908);
    let mut add = |start, len, kind| {
        let result = memory
            .map
            .add_blocks(Gpa::new(start), len, kind, &mut MachineFrames);
        result.map_err(|error| BootError::Memory(start, error))
    };
    add(0, RAM_SIZE, RangeKind::Ram)?;
    add(BASE, SIZE, RangeKind::Service)?;
    memory.assign_all(RangeKind::Ram);
    memory.assign_all(RangeKind::Service);
    launch(&mut memory).ok_or(BootError::Memory(BASE, MapError::OutOfMemory))?;
    let mut chip = Chip::new(0);
    let keys = chip.launch_keys();
    let options = cpuid::Options::paravisor(vcpus);
    let launched = Launch::start(POLICY)
        .and_then(|launch| launch.finish(None, [0; 32]))
        .map_err(BootError::Launch)?;
    let host = Host {
        ioapic: IoApic::new(),
        pci: bus::attach(&mut memory)?,
        chip,
        guest: GuestContext::new(launched, keys, options.clone()),
    };
    let role = |index| {
        if index == 0 {
            Role::Boot
        } else {
            Role::Application
        }
    };
    let mut states: Vec<Vcpu> = (0..vcpus)
        .map(|index| Vcpu::new(index, role(index), Start::X2Apic))
        .collect();
    let features = features();
    states[0].install(Vmpl::ZERO, Gpa::new(BASE + LAUNCH_VMSA), features.bits());
    let mut vm = Vm::new(memory, host, states, options);
    vm.attack_by(attack(boot.options.attack)?);
    vm.is_probe = true;
    Ok(vm)
}

fn features() -> SevFeatures {
    SevFeatures::SNP_ACTIVE | SevFeatures::RESTRICTED_INJECTION | SevFeatures::DEBUG_SWAP
}

/// Puts tables, VMSA and image into the guest's memory, validated.
fn launch(memory: &mut Memory) -> Option<()> {
    for address in (IMAGE..IMAGE_END).step_by(0x1000) {
        let page = page(memory, address)?;
        if !is_mapped(HostPa::new(address)) {
            continue;
        }
        let mut bytes = [0; 0x1000];
        // SAFETY: the page is mapped memory; what is not the image is copied for nothing.
        unsafe { read(HostPa::new(address), &mut bytes) };
        page.write_bytes(&bytes);
    }
    for (table, index, entry) in table_entries() {
        page(memory, TABLES + table * PAGE_SIZE)?
            .in_page(index * 8)
            .write_u64(entry);
    }
    let vmsa = page(memory, LAUNCH_VMSA)?;
    vmsa.write_bytes(context(guest::entry(), features()).as_bytes());
    let permissions = [
        Permissions::ALL,
        Permissions::NONE,
        Permissions::NONE,
        Permissions::NONE,
    ];
    memory
        .rmp
        .launch(vmsa, OWNER, Gpa::new(BASE + LAUNCH_VMSA), permissions, true);
    Some(())
}

/// The page of the guest's memory at virtual `address`, launched.
fn page(memory: &mut Memory, address: u64) -> Option<Phys> {
    let gpa = Gpa::new(BASE + address);
    let host = memory.map.translate(gpa)?;
    if memory.rmp.entry(host).size() == PageSize::Large {
        memory.rmp.psmash(host).ok()?;
    }
    let permissions = [
        Permissions::ALL,
        Permissions::NONE,
        Permissions::NONE,
        Permissions::NONE,
    ];
    memory.rmp.launch(host, OWNER, gpa, permissions, false);
    Some(host)
}

/// Table, index and value: PML4, PDPT, and a directory each for the image, its shared view, and guest RAM.
fn table_entries() -> impl Iterator<Item = (u64, u64, u64)> {
    let table = |number: u64| (BASE + TABLES + number * PAGE_SIZE) | 3 | C_BIT;
    let directory = move |number, count, base: u64, c_bit| {
        (0..count).map(move |index| {
            (
                number,
                index,
                (base + index * LARGE_PAGE_SIZE) | 0x83 | c_bit,
            )
        })
    };
    let heads = [
        (0, 0, table(1)),
        (1, 0, table(2)),
        (1, 1, table(3)),
        (1, 2, table(4)),
    ];
    let pages = SIZE / LARGE_PAGE_SIZE;
    heads
        .into_iter()
        .chain(directory(2, pages, BASE, C_BIT))
        .chain(directory(3, pages, BASE, 0))
        .chain(directory(4, RAM_SIZE / LARGE_PAGE_SIZE, 0, C_BIT))
}

/// A VMSA in 64-bit mode at `rip`, which sets up its own stack and descriptor tables.
fn context(rip: u64, features: SevFeatures) -> Vmsa {
    let mut vmsa = Vmsa::zeroed();
    let segment = |attributes| stockade_abi::vmsa::Segment {
        attributes: SegmentAttributes::from_bits(attributes),
        limit: u32::MAX,
        ..Default::default()
    };
    vmsa.cs = segment(0xA9B);
    vmsa.cs.selector = cpu::CODE;
    (vmsa.ds, vmsa.es, vmsa.ss) = (segment(0xC93), segment(0xC93), segment(0xC93));
    (vmsa.fs, vmsa.gs) = (segment(0xC93), segment(0xC93));
    vmsa.ldtr = segment(0x82);
    vmsa.tr = segment(0x8B);
    vmsa.efer = 0x1D00;
    vmsa.cr0 = 0x8001_0033;
    vmsa.cr3 = (BASE + TABLES) | C_BIT;
    vmsa.cr4 = 0x6A0;
    vmsa.dr6 = 0xFFFF_0FF0;
    vmsa.dr7 = 0x400;
    vmsa.rflags = 2;
    vmsa.rip = rip;
    vmsa.g_pat = 0x0007_0406_0007_0406;
    vmsa.xcr0 = 1;
    vmsa.mxcsr = 0x1F80;
    vmsa.x87_fcw = 0x37F;
    vmsa.x87_ftw = 0xFFFF;
    vmsa.sev_features = features;
    vmsa
}
