use std::vec::Vec;

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::{EventInfo, SegmentAttributes, Vmsa};
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::emulate::{Emulator, Hint, MmioBus};

use super::write::decode;

pub(crate) const EOI: Gpa = Gpa(0xFEE0_00B0);
/// Where the code of [`guest`] lies.
pub(crate) const CODE_AT: u64 = 0x23_4000;
const CODE: u64 = 0xFFFF_8000_0123_4000;
const APIC: u64 = 0xFFFF_FFFF_FF5F_D000;

pub(crate) fn write() -> NpfInfo {
    NpfInfo::FINAL_GPA | NpfInfo::WRITE
}

/// A kernel at [`CODE`], in a large page, with its APIC at [`APIC`] in small ones.
pub(crate) fn guest(code: &[u8]) -> (Vmsa, FakeMemory) {
    let memory = FakeMemory::new(0x23_5000);
    let put = |at: u64, value: u64| memory.write(Gpa(at), &value.to_le_bytes()).unwrap();
    // CODE: PML4 256, PDPT 0, PD 9 → 2 MiB page at 20_0000.
    put(0x1000 + 256 * 8, 0x2003);
    put(0x2000, 0x3003);
    put(0x3000 + 9 * 8, 0x20_0083);
    // APIC: PML4 511, PDPT 511, PD 506, PT 509.
    put(0x1000 + 511 * 8, 0x4003);
    put(0x4000 + 511 * 8, 0x5003);
    put(0x5000 + 506 * 8, 0x6003);
    put(0x6000 + 509 * 8, 0xFEE0_0003);
    memory.write(Gpa(0x23_4000), code).unwrap();
    let mut vmsa = Vmsa::zeroed();
    vmsa.cs.attributes = SegmentAttributes::from_bits(0x29B);
    (vmsa.efer, vmsa.cr0, vmsa.cr4) = (0xD00, 0x8001_0033, 0x20);
    (vmsa.cr3, vmsa.rip, vmsa.rflags) = (0x1000, CODE, 0x2);
    (vmsa.rdi, vmsa.rsi) = (0xB0, 0x1234_5678);
    (vmsa.r10, vmsa.r9, vmsa.rax) = (APIC + 0xB0, 0x99, APIC);
    (vmsa, memory)
}

struct Recorder(Vec<(Gpa, Vec<u8>)>);

impl MmioBus for Recorder {
    fn mmio_read(&mut self, _: Gpa, data: &mut [u8]) {
        data.fill(0);
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        self.0.push((gpa, data.to_vec()));
    }
}

/// What the emulator makes of it.
fn emulated(code: &[u8]) -> (Vec<(Gpa, Vec<u8>)>, u64) {
    let (mut vmsa, memory) = guest(code);
    let mut bus = Recorder(Vec::new());
    let _ = Emulator::new(46).emulate(&mut vmsa, &memory, &mut bus, Hint::from_exit(write(), EOI));
    (bus.0, vmsa.rip)
}

/// The instructions stock kernels write their APIC with, and others.
const SHORT: [&[u8]; 7] = [
    // mov %esi, -0xa03000(%rdi), as Linux has it.
    &[0x89, 0xB7, 0x00, 0xD0, 0x5F, 0xFF],
    // mov %eax, 0xb0(%rax); movl $0, 0xb0(%rax); mov %r9d, (%r10); movl $5, (%r10); mov %ecx, (%r10).
    &[0x89, 0x80, 0xB0, 0, 0, 0],
    &[0xC7, 0x80, 0xB0, 0, 0, 0, 0, 0, 0, 0],
    &[0x45, 0x89, 0x0A],
    &[0x41, 0xC7, 0x02, 5, 0, 0, 0],
    &[0x41, 0x89, 0x0A],
    // mov %r9d, 0x0(%r10) with an 8-bit displacement.
    &[0x45, 0x89, 0x4A, 0x00],
];

#[test]
fn short_forms_do_what_the_emulator_does() {
    for code in SHORT {
        let (mut vmsa, memory) = guest(code);
        let write = decode(&vmsa, &memory, EOI, write());
        let write = write.expect("a short form");
        write.complete(&mut vmsa);
        let bytes = write.value.to_le_bytes().to_vec();
        assert_eq!(
            emulated(code),
            (std::vec![(EOI, bytes)], vmsa.rip),
            "{code:x?}"
        );
    }
}

/// Of all two-byte beginnings, what is taken is what the emulator would do.
#[test]
fn nothing_is_taken_that_the_emulator_does_otherwise() {
    let mut taken = 0;
    let (fresh, memory) = guest(&[]);
    for first in 0..=255 {
        for second in 0..=255 {
            for rex in [None, Some(0x41), Some(0x44), Some(0x48), Some(0x42)] {
                let mut code: Vec<u8> = rex.into_iter().collect();
                code.extend([first, second, 0, 0, 0, 0, 7, 0, 0, 0]);
                memory.write(Gpa(0x23_4000), &code).unwrap();
                let mut vmsa = fresh.clone();
                let Some(write) = decode(&vmsa, &memory, EOI, write()) else {
                    continue;
                };
                taken += 1;
                write.complete(&mut vmsa);
                let bytes = write.value.to_le_bytes().to_vec();
                assert_eq!(
                    emulated(&code),
                    (std::vec![(EOI, bytes)], vmsa.rip),
                    "{code:x?}"
                );
            }
        }
    }
    assert!(taken > 20, "{taken}");
}

#[test]
fn other_modes_and_events_are_left_to_the_emulator() {
    type Change = fn(&mut Vmsa);
    let changes: [Change; 7] = [
        |vmsa| vmsa.efer = 0,
        |vmsa| vmsa.cs.attributes = SegmentAttributes::from_bits(0xC9B),
        |vmsa| vmsa.cpl = 3,
        |vmsa| vmsa.rflags |= 1 << 8,
        |vmsa| vmsa.dr7 |= 1 << 6,
        |vmsa| vmsa.event_inj = EventInfo::new().with_valid(true),
        |vmsa| vmsa.rip |= 0xFF5,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let (mut vmsa, memory) = guest(SHORT[0]);
        change(&mut vmsa);
        assert_eq!(decode(&vmsa, &memory, EOI, write()), None, "{index}");
    }
    let (vmsa, memory) = guest(SHORT[0]);
    for info in [
        NpfInfo::FINAL_GPA,
        NpfInfo::WRITE,
        write() | NpfInfo::PAGE_TABLE_WALK,
    ] {
        assert_eq!(decode(&vmsa, &memory, EOI, info), None);
    }
    assert_eq!(decode(&vmsa, &memory, Gpa(0xFEE0_0300), write()), None);
}

/// A guest that takes its own page tables away gets what the emulator gives it.
#[test]
fn absent_tables_end_the_short_way() {
    for entry in [0x1000 + 256 * 8, 0x2000, 0x3000 + 9 * 8] {
        let (vmsa, memory) = guest(SHORT[0]);
        memory.write(Gpa(entry), &[0; 8]).unwrap();
        assert_eq!(decode(&vmsa, &memory, EOI, write()), None);
        memory.write(Gpa(entry), &[0xFF; 8]).unwrap();
        assert_eq!(decode(&vmsa, &memory, EOI, write()), None);
    }
}
