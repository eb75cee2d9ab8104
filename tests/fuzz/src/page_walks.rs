//! The guest's page tables, as the guest wrote them.

use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::walk::{Access, WalkContext, WalkError, control, probe, translate};

use crate::Input;

const MEMORY_BYTES: usize = 0x1_0000;
const PHYS_BITS: u8 = 46;
const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Fetch];

/// Control registers of the paging modes; the input flips bits in them.
const MODES: [(u64, u64, u64); 5] = [
    (0, 0, 0),
    (control::CR0_PG, 0, 0),
    (control::CR0_PG, control::CR4_PAE, 0),
    (control::CR0_PG, control::CR4_PAE, control::EFER_LMA),
    (
        control::CR0_PG,
        control::CR4_PAE | control::CR4_LA57,
        control::EFER_LMA,
    ),
];

/// Walks tables of any content. What is found keeps its offset and its width, and a mere look finds what a walk does.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (cr0, cr4, efer) = input.pick(&MODES);
    let context = WalkContext {
        cr0: cr0 | 1 | u64::from(input.u32()) & !control::CR0_PG,
        cr3: u64::from(input.u8() & 0xF) << 12,
        cr4: cr4 ^ u64::from(input.u8()) << 16,
        efer: efer | u64::from(input.u8() & 8) << 8,
        rflags: u64::from(input.u8()) << 12,
        pkru: input.u32(),
        cpl: input.u8() & 3,
        phys_bits: PHYS_BITS,
    };
    let address = input.u64();
    let memory = FakeMemory::new(MEMORY_BYTES);
    while !input.is_empty() {
        let slot = u64::from(input.u16()) & !7;
        // Entries that lead on are rare among random ones.
        let entry = u64::from(input.u8()) | u64::from(input.u8() & 0xF) << 12;
        let entry = entry | u64::from(input.u8()) << 56;
        let _ = memory.write(Gpa(slot), &entry.to_le_bytes());
    }
    for address in [address, address & 0xFFFF, address >> 16] {
        for access in ACCESSES {
            look(&context, &memory, address, access);
        }
    }
}

fn look(context: &WalkContext, memory: &FakeMemory, address: u64, access: Access) {
    // Marking an entry accessed changes tables that map themselves; once it is marked nothing changes any more.
    let _ = translate(context, memory, address, access);
    let found = translate(context, memory, address, access);
    assert_eq!(probe(context, memory, address, access), found);
    match found {
        Ok(found) => {
            assert_eq!(found.gpa.page_offset(), address & 0xFFF);
            assert!(found.page_bytes.is_power_of_two());
            assert!(found.gpa.0 >> 52 == 0, "{:#x}", found.gpa.0);
        }
        Err(WalkError::PageFault(fault)) => assert_eq!(fault.address & 0xFFF, address & 0xFFF),
        Err(WalkError::NonCanonical(found)) => assert_eq!(found, address),
        Err(error) => panic!("nobody else is here: {error}"),
    }
}

/// Four levels to a small and to a large page.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |mode: u8, address: u64| {
        let mut seed = vec![mode, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0];
        seed.extend(address.to_le_bytes());
        seed
    };
    let entry = |slot: u16, low: u8, page: u8| {
        let [a, b] = slot.to_le_bytes();
        [a, b, low, page, 0]
    };
    let chain = [
        entry(0x1000, 0x67, 2),
        entry(0x2000, 0x67, 3),
        entry(0x3000, 0x67, 4),
        entry(0x4000, 0x67, 5),
    ]
    .concat();
    let large = [
        entry(0x1000, 0x67, 2),
        entry(0x2000, 0x67, 3),
        entry(0x3000, 0xE7, 0),
    ]
    .concat();
    vec![
        [header(3, 0x123), chain.clone()].concat(),
        [header(3, 0x1_2345), large.clone()].concat(),
        [header(4, 0x123), chain.clone()].concat(),
        [header(1, 0x123), chain].concat(),
        [header(2, 0x123), large].concat(),
        header(0, 0x4567),
    ]
}
