//! Whole instructions, assembled, fetched through page tables and executed on RAM and on a device.
//!
//! [`Rig`] is a 64-bit guest with identity-mapped memory; [`check`] runs an instruction twice, with all flags clear and all set, on RAM and
//! on a device, and wants the same from all four.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

extern crate std;

mod arithmetic;
mod breakpoints;
mod faults;
mod moves;
mod ports;
mod random;
mod segments;
mod strings;

use super::flags::Flags;
use super::{Done, Emulator, MmioBus, PortBus, Stop};
use crate::walk::control;
use iced_x86::code_asm::CodeAssembler;
use std::boxed::Box;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;
use stockade_abi::vmsa::{Segment, SegmentAttributes, Vmsa};
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};

/// How much RAM the guest has.
const RAM: usize = 0x8_0000;
const PML4: u64 = 0x1000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x3_0000;
/// A page of RAM for operands.
const DATA: u64 = 0x4_0000;
/// Where the device is, linear and physical.
const DEVICE: u64 = 0x4000_0000;
const DEVICE_BYTES: usize = 0x4000;
/// A linear page that is not mapped; those on both sides are RAM.
const HOLE: u64 = 0x6_0000;

const LARGE: u64 = 0x80;
const RIGHTS: u64 = 0x67;

type Assembled = Result<(), iced_x86::IcedError>;

/// What a device saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    In(u16, usize),
    Out(u16, Vec<u8>),
}

/// A device that is memory and remembers what was done to it; ports give what was queued.
struct FakeBus {
    cells: Vec<u8>,
    ports: VecDeque<u8>,
    events: Vec<Event>,
}

impl FakeBus {
    fn range(&self, gpa: Gpa, len: usize) -> core::ops::Range<usize> {
        assert!(len > 0 && gpa.page_offset() + len as u64 <= 0x1000);
        let start = gpa.0.wrapping_sub(DEVICE);
        match usize::try_from(start) {
            Ok(start) if start < self.cells.len() => start..start + len,
            _ => 0..0,
        }
    }
}

impl MmioBus for FakeBus {
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
        self.events.push(Event::Read(gpa.0, data.len()));
        let range = self.range(gpa, data.len());
        data.fill(0xFF);
        if !range.is_empty() {
            data.copy_from_slice(&self.cells[range]);
        }
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        self.events.push(Event::Write(gpa.0, data.to_vec()));
        let range = self.range(gpa, data.len());
        if !range.is_empty() {
            self.cells[range].copy_from_slice(data);
        }
    }
}

impl PortBus for FakeBus {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.events.push(Event::In(port, data.len()));
        data.fill_with(|| self.ports.pop_front().unwrap_or(0xFF));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.events.push(Event::Out(port, data.to_vec()));
    }
}

struct Rig {
    vmsa: Box<Vmsa>,
    memory: FakeMemory,
    bus: FakeBus,
    emulator: Emulator,
}

fn flat(attributes: u16) -> Segment {
    Segment {
        selector: 0x10,
        attributes: SegmentAttributes::from_bits(attributes),
        limit: 0xFFFF_FFFF,
        base: 0,
    }
}

const CODE64: u16 = 0xA9B;
const CODE32: u16 = 0xC9B;
const CODE16: u16 = 0x09B;
const DATA32: u16 = 0xC93;

impl Rig {
    /// Returns a guest in 64-bit mode at CPL 0.
    fn new() -> Self {
        let mut vmsa = Box::new(Vmsa::zeroed());
        vmsa.cr0 = control::CR0_PE | control::CR0_PG | control::CR0_WP;
        vmsa.cr3 = PML4;
        vmsa.cr4 = control::CR4_PAE | control::CR4_OSFXSR;
        vmsa.efer = control::EFER_LMA | control::EFER_NXE | 0x100;
        vmsa.cs = flat(CODE64);
        for segment in [
            &mut vmsa.ss,
            &mut vmsa.ds,
            &mut vmsa.es,
            &mut vmsa.fs,
            &mut vmsa.gs,
        ] {
            *segment = flat(DATA32);
        }
        vmsa.rip = CODE;
        vmsa.rsp = STACK;
        vmsa.rflags = 2;
        let rig = Self {
            vmsa,
            memory: FakeMemory::new(RAM),
            bus: FakeBus {
                cells: vec![0; DEVICE_BYTES],
                ports: VecDeque::new(),
                events: vec![],
            },
            emulator: Emulator::new(40),
        };
        rig.map();
        rig
    }

    /// Maps RAM in small pages but for the hole, and the device's gigabyte as one page.
    fn map(&self) {
        self.poke(PML4, &(0x2000 | RIGHTS).to_le_bytes());
        self.poke(0x2000, &(0x3000 | RIGHTS).to_le_bytes());
        self.poke(0x2008, &(DEVICE | LARGE | RIGHTS).to_le_bytes());
        self.poke(0x3000, &(0x4000 | RIGHTS).to_le_bytes());
        for page in 0..512_u64 {
            let present = u64::from(page << 12 != HOLE);
            let entry = (page << 12) | (RIGHTS & !1) | present;
            self.poke(0x4000 + 8 * page, &entry.to_le_bytes());
        }
    }

    /// Makes the guest one without paging or long mode; code segments say how wide it is.
    fn unpaged(code: u16, cr0: u64) -> Self {
        let mut rig = Self::new();
        rig.vmsa.cr0 = cr0;
        rig.vmsa.cr4 = control::CR4_OSFXSR;
        rig.vmsa.efer = 0;
        rig.vmsa.cs = flat(code);
        rig
    }

    fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write(Gpa(address), bytes).unwrap();
    }

    fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(Gpa(address), &mut bytes).unwrap();
        bytes
    }

    /// Writes to RAM or to the device's cells.
    fn set(&mut self, address: u64, bytes: &[u8]) {
        if address < DEVICE {
            return self.poke(address, bytes);
        }
        let start = usize::try_from(address - DEVICE).unwrap();
        self.bus.cells[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Reads from RAM or from the device's cells.
    fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        if address < DEVICE {
            return self.peek(address);
        }
        let start = usize::try_from(address - DEVICE).unwrap();
        self.bus.cells[start..start + N].try_into().unwrap()
    }

    fn get64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.get(address))
    }

    /// Puts bytes at RIP and executes one instruction.
    fn run(&mut self, code: &[u8]) -> Result<Done, Stop> {
        let at = self.vmsa.cs.base + self.vmsa.rip;
        self.poke(at, code);
        self.step()
    }

    fn step(&mut self) -> Result<Done, Stop> {
        self.emulator
            .emulate(&mut self.vmsa, &self.memory, &mut self.bus, None)
    }

    /// Assembles an instruction and executes it, to its end.
    fn asm(&mut self, write: impl Fn(&mut CodeAssembler) -> Assembled) -> Result<Done, Stop> {
        let code = assemble(64, self.vmsa.rip, write);
        self.run(&code)
    }
}

fn assemble(bitness: u32, rip: u64, write: impl Fn(&mut CodeAssembler) -> Assembled) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bitness).unwrap();
    write(&mut assembler).unwrap();
    assembler.assemble(rip).unwrap()
}

/// Runs an instruction whose memory operand is at RBX, with all flags clear and all set, on RAM and on the device.
///
/// `prepare` sets registers and the operand at the address it is given; `reads` are the flags whose value before matters, which are clear in
/// every run. Returns the rig of the last run, the operand's address in it.
fn check(
    reads: Flags,
    write: impl Fn(&mut CodeAssembler) -> Assembled,
    prepare: impl Fn(&mut Rig, u64),
) -> (Rig, u64) {
    let code = assemble(64, CODE, write);
    let mut results = vec![];
    for address in [DATA + 0x100, DEVICE + 0x100] {
        for flags in [Flags::empty(), Flags::STATUS] {
            let mut rig = Rig::new();
            rig.vmsa.rbx = address;
            rig.vmsa.rflags = 2 | (flags - reads).bits();
            prepare(&mut rig, address);
            assert_eq!(rig.run(&code), Ok(Done::Completed), "{code:02x?}");
            assert_eq!(rig.vmsa.rip, CODE + code.len() as u64);
            results.push((rig, address));
        }
    }
    let (last, last_address) = results.pop().unwrap();
    for (rig, address) in &results {
        let mut vmsa = rig.vmsa.clone();
        vmsa.rbx = last.vmsa.rbx;
        vmsa.rflags = last.vmsa.rflags;
        assert_eq!(vmsa, last.vmsa, "registers depend on flags or place");
        assert_eq!(rig.get::<64>(*address), last.get::<64>(last_address));
    }
    // Flags that were written agree between runs that began with all clear and all set; the others kept what they had.
    let status = |rig: &Rig| Flags::from_bits_truncate(rig.vmsa.rflags) & Flags::STATUS;
    let (clear, set) = (status(&results[0].0), status(&last));
    assert_eq!(status(&results[2].0), clear);
    assert_eq!(status(&results[1].0), set);
    assert_eq!(
        clear & set,
        clear,
        "a flag was set that had been clear before, only then"
    );
    (last, last_address)
}

/// Returns the status flags after the last instruction.
fn status(rig: &Rig) -> Flags {
    Flags::from_bits_truncate(rig.vmsa.rflags) & Flags::STATUS
}
