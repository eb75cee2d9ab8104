//! The instruction emulator: any bytes, any registers, any memory.

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::{SegmentAttributes, Vmsa};
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::emulate::{Done, Emulator, Hint, MmioBus, Stop};
use zerocopy::FromZeros;

use crate::Input;

const MEMORY_BYTES: usize = 0x1_0000;
const PHYS_BITS: u8 = 46;
const CODE: u64 = 0x1000;
const TABLES: u64 = 0x8000;
const LONG: u64 = 1 << 10 | 1 << 8;

/// Where an instruction may point: RAM, its end, a device, nowhere.
const ADDRESSES: [u64; 6] = [
    0x2000,
    0xFFF8,
    0xFEC0_0000,
    0xFEE0_0FFC,
    0x3FFF_FFF8,
    0x8000_0000_0000_0000,
];

/// Answers with what was written last.
struct Device {
    last: u8,
}

impl MmioBus for Device {
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
        check_access(gpa, data.len());
        data.fill(self.last);
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        check_access(gpa, data.len());
        self.last = data.iter().fold(self.last, |sum, byte| sum ^ byte);
    }
}

/// What the bus promises its devices.
fn check_access(gpa: Gpa, len: usize) {
    assert!((1..=16).contains(&len), "{len} bytes at {gpa}");
    assert!(
        gpa.page_offset() + len as u64 <= 0x1000,
        "{len} bytes at {gpa}"
    );
    assert!(
        gpa.0 >= MEMORY_BYTES as u64,
        "RAM at {gpa} goes to a device"
    );
}

/// Emulates a few instructions in a row. One that fails leaves RIP where it was.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = FakeMemory::new(MEMORY_BYTES);
    let mut vmsa = registers(&mut input);
    let hint = input.bool().then(|| NpfInfo::from_bits_retain(input.u64()));
    let _ = memory.write(Gpa(TABLES), &tables());
    let code = input.bytes(64);
    let _ = memory.write(Gpa(CODE), code);
    let data = input.bytes(0x400);
    let _ = memory.write(Gpa(0x2000), data);
    let (mut emulator, mut device) = (Emulator::new(PHYS_BITS), Device { last: 0x5A });
    for _ in 0..8 {
        let rip = vmsa.rip;
        let hint = hint.and_then(|info| Hint::from_exit(info, Gpa(0xFEC0_0000)));
        match emulator.emulate(&mut vmsa, &memory, &mut device, hint) {
            Ok(Done::Completed | Done::Trapped) => {}
            Ok(Done::Again) => assert_eq!(vmsa.rip, rip),
            Err(stop) => {
                assert_eq!(vmsa.rip, rip, "{stop}");
                assert_ne!(stop, Stop::MalformedPortExit);
                return;
            }
        }
    }
}

fn registers(input: &mut Input<'_>) -> Vmsa {
    let mut vmsa = Vmsa::new_zeroed();
    let mode = input.below(4);
    vmsa.cr0 = 1;
    match mode {
        // Real mode, 32-bit, 64-bit by page tables, and 64-bit with what the input says.
        0 => vmsa.cr0 = 0,
        1 => {}
        _ => {
            vmsa.cr0 = 0x8000_0001;
            vmsa.cr3 = TABLES;
            vmsa.cr4 = 0x620;
            vmsa.efer = LONG;
        }
    }
    let code = [0x9B, 0xC9B, 0xA9B, 0xA9B][mode];
    let limit = if mode == 0 { 0xFFFF } else { u32::MAX };
    vmsa.cs.attributes = SegmentAttributes::from_bits(code);
    vmsa.cs.limit = limit;
    for segment in [
        &mut vmsa.ds,
        &mut vmsa.es,
        &mut vmsa.ss,
        &mut vmsa.fs,
        &mut vmsa.gs,
    ] {
        segment.attributes = SegmentAttributes::from_bits(if mode == 0 { 0x93 } else { 0xC93 });
        segment.limit = limit;
    }
    vmsa.rip = CODE;
    vmsa.rflags = 2 | u64::from(input.u16());
    vmsa.cpl = if input.u8() < 32 { 3 } else { 0 };
    for register in [
        &mut vmsa.rax,
        &mut vmsa.rcx,
        &mut vmsa.rdx,
        &mut vmsa.rbx,
        &mut vmsa.rsp,
        &mut vmsa.rbp,
        &mut vmsa.rsi,
        &mut vmsa.rdi,
        &mut vmsa.r8,
        &mut vmsa.r15,
    ] {
        let choice = input.u8();
        *register = ADDRESSES
            .get(usize::from(choice & 7))
            .copied()
            .unwrap_or_else(|| u64::from(choice >> 3));
    }
    if mode == 3 {
        let bytes = input.array::<8>();
        vmsa.cr4 ^= u64::from(bytes[0]) << 8 | u64::from(bytes[1]) << 16;
        vmsa.cr0 ^= u64::from(bytes[2]) | u64::from(bytes[3]) << 16;
        vmsa.cs.attributes = SegmentAttributes::from_bits(u16::from_le_bytes([bytes[4], bytes[5]]));
        vmsa.ds.limit = u32::from(bytes[6]) << 8;
        vmsa.fs.base = u64::from(bytes[7]) << 56;
    }
    vmsa
}

/// The first 4 GiB one to one, by four large pages of 1 GiB each.
fn tables() -> Vec<u8> {
    let mut tables = vec![0_u64; 1024];
    tables[0] = (TABLES + 0x1000) | 7;
    for (index, entry) in (0_u64..).zip(&mut tables[512..516]) {
        *entry = index << 30 | 0xE7;
    }
    tables
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect()
}

/// The forms stock guests use on devices, and some that they do not.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    const CODES: [&[u8]; 26] = [
        &[0x8B, 0x07],
        &[0x89, 0x07],
        &[0x8A, 0x06],
        &[0x88, 0x06],
        &[0x66, 0x8B, 0x07],
        &[0x48, 0x8B, 0x07],
        &[0x48, 0x89, 0x47, 0x08],
        &[0xC7, 0x07, 1, 2, 3, 4],
        &[0xC6, 0x06, 5],
        &[0xA1, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
        &[0xF3, 0xA4],
        &[0xF3, 0xA5],
        &[0x66, 0xA5],
        &[0xF3, 0xAA],
        &[0x0F, 0xB6, 0x07],
        &[0x0F, 0xBF, 0x06],
        &[0xF0, 0x0F, 0xB1, 0x0F],
        &[0x87, 0x07],
        &[0x01, 0x07],
        &[0x81, 0x27, 0xFF, 0, 0, 0],
        &[0x0F, 0xAB, 0x0F],
        &[0xC1, 0x2F, 3],
        &[0xFF, 0x37],
        &[0x8F, 0x07],
        &[0x0F, 0x10, 0x07],
        &[0xF7, 0x37],
    ];
    let seed = |mode: u8, code: &[u8]| {
        // Mode, flags, privilege; registers: counts small, RSI and RDI at RAM or a device; no hint.
        let mut seed = vec![mode, 0, 0, 0xFF, 0x0F, 0x1F, 0x0F, 0x0F, 0, 0, 0, 2, 2, 0];
        if mode == 3 {
            seed.extend([0; 8]);
        }
        seed.push(0);
        seed.extend(code);
        seed.extend([0x90; 16]);
        seed
    };
    let modes = [0, 1, 2, 3];
    let codes = CODES.iter();
    codes
        .flat_map(|code| modes.map(|mode| seed(mode, code)))
        .collect()
}
