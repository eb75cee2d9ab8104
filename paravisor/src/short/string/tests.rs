use std::vec;
use std::vec::Vec;

use stockade_bus::fake::FakeMemory;
use stockade_intercept::emulate::{Emulator, Hint, MmioBus};
use zerocopy::IntoBytes;

use super::*;
use crate::short::tests::{CODE_AT, guest};

/// Where [`guest`] maps its device, and where that is.
const DEVICE: u64 = 0xFFFF_FFFF_FF5F_D000;
const DEVICE_GPA: Gpa = Gpa(0xFEE0_0000);
/// Where it maps RAM, the start of which this is.
const RAM: u64 = 0xFFFF_8000_0120_0000;
const RAM_GPA: u64 = 0x20_0000;
const BUFFER: u64 = 0x80;

/// What follows the elements in Linux, with BL tested.
const LINUX: [u8; 15] = [
    0xF3, 0xA5, 0xF6, 0xC3, 2, 0x74, 2, 0x66, 0xA5, 0xF6, 0xC3, 1, 0x74, 1, 0xA4,
];
const AUXILIARY_CARRY: u64 = 1 << 4;

fn pattern(len: u32, seed: u32) -> Vec<u8> {
    let byte = |at: u32| (at + seed).wrapping_mul(0x9E37_79B1).to_le_bytes()[3];
    (0..len).map(byte).collect()
}

/// A device of one page that is memory.
struct Page(Vec<u8>);

impl Page {
    fn new() -> Self {
        Self(pattern(4096, 7))
    }

    fn range(gpa: Gpa, len: usize) -> core::ops::Range<usize> {
        assert_eq!(gpa.page(), DEVICE_GPA);
        let start = usize::try_from(gpa.page_offset()).unwrap();
        start..start + len
    }
}

impl MmioBus for Page {
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
        data.copy_from_slice(&self.0[Self::range(gpa, data.len())]);
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        self.0[Self::range(gpa, data.len())].copy_from_slice(data);
    }
}

fn info(way: Way) -> NpfInfo {
    match way {
        Way::Out => NpfInfo::FINAL_GPA | NpfInfo::WRITE,
        Way::In => NpfInfo::FINAL_GPA,
    }
}

/// A driver about to move `bytes` bytes between RAM at `ram` and the device's buffer.
fn driver(code: &[u8], way: Way, ram: u64, bytes: u64) -> (Vmsa, FakeMemory) {
    let (mut vmsa, memory) = guest(code);
    memory.write(Gpa(RAM_GPA), &pattern(0x2000, 13)).unwrap();
    (vmsa.rcx, vmsa.rbx, vmsa.rdx, vmsa.rax) = (bytes / 4, bytes, bytes, bytes);
    (vmsa.rsi, vmsa.rdi) = match way {
        Way::Out => (ram, DEVICE + BUFFER),
        Way::In => (DEVICE + BUFFER, ram),
    };
    (vmsa, memory)
}

fn decoded(vmsa: &Vmsa, memory: &FakeMemory, way: Way) -> Option<StringMove> {
    decode(vmsa, memory, Gpa(DEVICE_GPA.0 + BUFFER), info(way))
}

fn ram(memory: &FakeMemory) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    memory.read(Gpa(RAM_GPA), &mut bytes).unwrap();
    bytes
}

/// Moves it the short way.
fn short(vmsa: &mut Vmsa, memory: &FakeMemory, device: &mut Page, way: Way) -> StringMove {
    let string = decoded(vmsa, memory, way).expect("a short form");
    let at = |offset| Gpa(DEVICE_GPA.0 + BUFFER + offset);
    let moved = string.carry_out(memory, |offset, part| match way {
        Way::Out => device.mmio_write(at(offset), part),
        Way::In => device.mmio_read(at(offset), part),
    });
    assert_eq!(moved, Ok(()));
    string.complete(vmsa);
    string
}

/// Executes as many bytes of code by the emulator, with the conditional jumps done here.
fn emulate(vmsa: &mut Vmsa, memory: &FakeMemory, device: &mut Page, len: u8) {
    let mut emulator = Emulator::new(46);
    let end = vmsa.rip + u64::from(len);
    while vmsa.rip < end {
        let mut code = [0; 2];
        memory
            .read(Gpa(CODE_AT + vmsa.rip % 4096), &mut code)
            .unwrap();
        if code[0] == 0x74 {
            let is_taken = vmsa.rflags & RFLAGS_ZF != 0;
            vmsa.rip += 2 + u64::from(code[1]) * u64::from(is_taken);
        } else {
            let done = emulator.emulate(vmsa, memory, device, None::<Hint>);
            assert!(done.is_ok(), "{code:x?}: {done:?}");
        }
    }
}

/// What differs would be a driver whose commands or responses are not what it wrote or the device said.
#[test]
fn strings_of_every_length_are_what_the_emulator_moves() {
    for way in [Way::Out, Way::In] {
        for bytes in (4..24)
            .chain([255, 256, 259, 519])
            .chain(4096 - BUFFER - 4..=4096 - BUFFER)
        {
            // Within a page, and over the end of one.
            for at in [RAM + 0x10, RAM + 0xFEE] {
                let (mut vmsa, memory) = driver(&LINUX, way, at, bytes);
                let (mut other, other_memory) = driver(&LINUX, way, at, bytes);
                let (mut device, mut other_device) = (Page::new(), Page::new());
                let string = short(&mut vmsa, &memory, &mut device, way);
                assert_eq!((string.code.moves, string.code.len), (bytes, 15));
                emulate(&mut other, &other_memory, &mut other_device, 15);
                assert_eq!((vmsa.rip, vmsa.rcx), (other.rip, other.rcx));
                vmsa.rflags |= AUXILIARY_CARRY;
                other.rflags |= AUXILIARY_CARRY;
                assert!(vmsa.as_bytes() == other.as_bytes(), "{way:?} {bytes}");
                assert!(device.0 == other_device.0, "{way:?} {bytes}");
                assert!(ram(&memory) == ram(&other_memory), "{way:?} {bytes}");
            }
        }
    }
}

#[test]
fn each_byte_register_can_be_tested_but_cl() {
    for (tested, is_whole) in [
        (0xC0, true),
        (0xC1, false),
        (0xC2, true),
        (0xC3, true),
        (0xC4, false),
    ] {
        let mut code = LINUX;
        (code[3], code[10]) = (tested, tested);
        let (vmsa, memory) = driver(&code, Way::Out, RAM, 7);
        let string = decoded(&vmsa, &memory, Way::Out).unwrap();
        let expected = if is_whole { (7, 15) } else { (4, 2) };
        assert_eq!(
            (string.code.moves, string.code.len),
            expected,
            "{tested:#x}"
        );
    }
}

/// Any other code behind the elements is the guest's to execute.
#[test]
fn one_bit_of_other_code_and_only_the_elements_are_taken() {
    for bit in (16..15 * 8).step_by(3) {
        let mut code = LINUX;
        code[bit / 8] ^= 1 << (bit % 8);
        let (mut vmsa, memory) = driver(&code, Way::Out, RAM, 7);
        let (mut other, other_memory) = driver(&code, Way::Out, RAM, 7);
        let (mut device, mut other_device) = (Page::new(), Page::new());
        let string = short(&mut vmsa, &memory, &mut device, Way::Out);
        assert_eq!(string.code.len, 2, "bit {bit}");
        emulate(&mut other, &other_memory, &mut other_device, 2);
        assert!(vmsa.as_bytes() == other.as_bytes() && device.0 == other_device.0);
    }
}

#[test]
fn a_string_that_leaves_the_page_is_left_to_the_emulator() {
    let longest = 4096 - BUFFER;
    for (bytes, expected) in [
        (longest, Some((longest, 15))),
        (longest + 3, Some((longest, 2))),
        (longest + 4, None),
        (3, None),
        (u64::MAX, None),
    ] {
        let (vmsa, memory) = driver(&LINUX, Way::Out, RAM, bytes);
        let string = decoded(&vmsa, &memory, Way::Out);
        let found = string.map(|string| (string.code.moves, string.code.len));
        assert_eq!(found, expected, "{bytes}");
    }
}

#[test]
fn other_directions_modes_and_memory_are_left_to_the_emulator() {
    type Change = fn(&mut Vmsa);
    let changes: [Change; 8] = [
        |vmsa| vmsa.rflags |= RFLAGS_DF,
        |vmsa| vmsa.rflags |= 1 << 8,
        |vmsa| vmsa.cpl = 3,
        |vmsa| vmsa.dr7 |= 1,
        // Not where the fault was; nothing there; the device itself; the end of RAM.
        |vmsa| vmsa.rdi += 4,
        |vmsa| vmsa.rsi = 0x1000,
        |vmsa| vmsa.rsi = DEVICE,
        |vmsa| vmsa.rsi = RAM + 0x3_4FFC,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let (mut vmsa, memory) = driver(&LINUX, Way::Out, RAM, 16);
        assert!(decoded(&vmsa, &memory, Way::Out).is_some());
        change(&mut vmsa);
        assert_eq!(decoded(&vmsa, &memory, Way::Out), None, "{index}");
    }
}

/// Memory a driver may not write is not written for it.
#[test]
fn read_only_memory_is_not_written() {
    let (vmsa, memory) = driver(&LINUX, Way::In, RAM, 16);
    assert!(decoded(&vmsa, &memory, Way::In).is_some());
    // The large page of code and RAM, read-only from now on.
    memory
        .write(Gpa(0x3000 + 9 * 8), &0x20_0081_u64.to_le_bytes())
        .unwrap();
    assert_eq!(decoded(&vmsa, &memory, Way::In), None);
    let (vmsa, memory) = driver(&LINUX, Way::Out, RAM, 16);
    memory
        .write(Gpa(0x3000 + 9 * 8), &0x20_0081_u64.to_le_bytes())
        .unwrap();
    assert!(decoded(&vmsa, &memory, Way::Out).is_some());
}
