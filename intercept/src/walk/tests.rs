//! Each paging mode, each right, each reserved bit.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

extern crate std;

use super::control::{
    CR0_PE, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PKE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA,
    EFER_NXE, RFLAGS_AC,
};
use super::{Access, PageFaultCode as Code, WalkContext, WalkError, probe, translate};
use core::cell::Cell;
use std::vec;
use std::vec::Vec;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory, MemoryError};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;
const ALL: u64 = P | W | U;

const LEVELS: [u64; 5] = [0x1000, 0x2000, 0x3000, 0x4000, 0x5000];

fn long() -> WalkContext {
    WalkContext {
        cr0: CR0_PE | CR0_PG | CR0_WP,
        cr3: LEVELS[0],
        cr4: CR4_PAE,
        efer: EFER_LMA | EFER_NXE,
        phys_bits: 40,
        ..WalkContext::default()
    }
}

fn user(context: WalkContext) -> WalkContext {
    WalkContext { cpl: 3, ..context }
}

/// A chain of tables for one address: `entries` from the root on, each pointing to the next table unless it says otherwise.
struct Tables {
    memory: FakeMemory,
    width: usize,
    places: Vec<u64>,
}

impl Tables {
    fn new(address: u64, shifts: &[u32], width: usize, entries: &[u64]) -> Self {
        let memory = FakeMemory::new(0x10_0000);
        let index_mask = if width == 4 { 0x3FF } else { 0x1FF };
        let mut places = vec![];
        for (level, (&shift, &entry)) in shifts.iter().zip(entries).enumerate() {
            let place = LEVELS[level] + ((address >> shift) & index_mask) * width as u64;
            places.push(place);
            let is_last = level + 1 == entries.len();
            let value = if is_last {
                entry
            } else {
                entry | LEVELS[level + 1]
            };
            memory
                .write(Gpa(place), &value.to_le_bytes()[..width])
                .unwrap();
        }
        Self {
            memory,
            width,
            places,
        }
    }

    fn long(address: u64, entries: &[u64]) -> Self {
        Self::new(address, &[39, 30, 21, 12], 8, entries)
    }

    fn entry(&self, level: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory
            .read(Gpa(self.places[level]), &mut bytes[..self.width])
            .unwrap();
        u64::from_le_bytes(bytes)
    }

    fn go(&self, context: &WalkContext, address: u64, access: Access) -> Result<u64, WalkError> {
        translate(context, &self.memory, address, access).map(|found| found.gpa.0)
    }

    fn fault(&self, context: &WalkContext, address: u64, access: Access) -> Code {
        match translate(context, &self.memory, address, access) {
            Err(WalkError::PageFault(fault)) => {
                assert_eq!(fault.address, address);
                fault.code
            }
            other => unreachable!("{other:?}"),
        }
    }
}

const VA: u64 = 0x0000_1234_5678_9ABC;

#[test]
fn without_paging_an_address_is_its_own_translation() {
    let context = WalkContext::default();
    let found = translate(&context, &FakeMemory::new(16), 0x1_0000_1234, Access::Write);
    assert_eq!(found.unwrap().gpa, Gpa(0x1234));
}

#[test]
fn four_levels_lead_to_small_and_large_pages() {
    let small = Tables::long(VA, &[ALL, ALL, ALL, ALL | 0x7_7000]);
    assert_eq!(small.go(&long(), VA, Access::Read), Ok(0x7_7ABC));
    let two_mega = Tables::long(
        VA,
        &[ALL, ALL, ALL | PS | 0x1234_0020_0000 & 0xFF_FFFF_FFFF],
    );
    let found = translate(&long(), &two_mega.memory, VA, Access::Read).unwrap();
    assert_eq!(found.page_bytes, 0x20_0000);
    assert_eq!(found.gpa.0, 0x34_0020_0000 | (VA & 0x1F_FFFF));
    let giga = Tables::long(VA, &[ALL, ALL | PS | 0x40_0000_0000]);
    let found = translate(&long(), &giga.memory, VA, Access::Read).unwrap();
    assert_eq!(found.page_bytes, 0x4000_0000);
    assert_eq!(found.gpa.0, 0x40_0000_0000 | (VA & 0x3FFF_FFFF));
}

#[test]
fn upper_half_addresses_translate_and_holes_are_not_canonical() {
    let high = VA | 0xFFFF_8000_0000_0000;
    let tables = Tables::long(high, &[ALL, ALL, ALL, ALL | 0x7_7000]);
    assert_eq!(tables.go(&long(), high, Access::Read), Ok(0x7_7ABC));
    for hole in [0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 1 << 63] {
        let error = tables.go(&long(), hole, Access::Read);
        assert_eq!(error, Err(WalkError::NonCanonical(hole)));
    }
}

#[test]
fn five_levels_widen_the_canonical_range() {
    let address = 0x00FE_1234_5678_9ABC;
    let context = WalkContext {
        cr4: CR4_PAE | CR4_LA57,
        ..long()
    };
    let shifts = [48, 39, 30, 21, 12];
    let tables = Tables::new(address, &shifts, 8, &[ALL, ALL, ALL, ALL, ALL | 0x7_7000]);
    assert_eq!(tables.go(&context, address, Access::Read), Ok(0x7_7ABC));
    assert!(matches!(
        tables.go(&context, 1 << 56, Access::Read),
        Err(WalkError::NonCanonical(_))
    ));
}

#[test]
fn legacy_tables_have_four_byte_entries() {
    let context = WalkContext {
        cr0: CR0_PE | CR0_PG,
        cr3: LEVELS[0] | 0x18,
        phys_bits: 40,
        ..WalkContext::default()
    };
    let address = 0xC123_4567;
    let tables = Tables::new(address, &[22, 12], 4, &[ALL, ALL | 0x7_7000]);
    assert_eq!(tables.go(&context, address, Access::Write), Ok(0x7_7567));
    assert_eq!(tables.entry(0) & (A | D), A);
    assert_eq!(tables.entry(1) & (A | D), A | D);
}

#[test]
fn legacy_large_pages_need_pse_and_carry_high_bits() {
    let address = 0xC123_4567;
    // Bits 20:13 of the entry are bits 39:32 of the address.
    let entry = ALL | PS | 0x0080_0000 | (0x5A << 13);
    let tables = Tables::new(address, &[22], 4, &[entry]);
    let mut context = WalkContext {
        cr0: CR0_PE | CR0_PG,
        cr3: LEVELS[0],
        cr4: CR4_PSE,
        phys_bits: 40,
        ..WalkContext::default()
    };
    let found = tables.go(&context, address, Access::Read);
    assert_eq!(found, Ok(0x5A_0080_0000 | (address & 0x3F_FFFF)));
    context.phys_bits = 36;
    let code = tables.fault(&context, address, Access::Read);
    assert_eq!(code, Code::PRESENT | Code::RESERVED);
    let reserved = Tables::new(address, &[22], 4, &[ALL | PS | (1 << 21)]);
    let code = reserved.fault(&context, address, Access::Read);
    assert_eq!(code, Code::PRESENT | Code::RESERVED);
}

#[test]
fn without_pse_the_size_bit_means_nothing() {
    let address = 0xC123_4567;
    let context = WalkContext {
        cr0: CR0_PE | CR0_PG,
        cr3: LEVELS[0],
        phys_bits: 40,
        ..WalkContext::default()
    };
    let tables = Tables::new(address, &[22, 12], 4, &[ALL | PS, ALL | 0x7_7000]);
    assert_eq!(tables.go(&context, address, Access::Read), Ok(0x7_7567));
}

fn pae() -> WalkContext {
    WalkContext {
        cr0: CR0_PE | CR0_PG,
        // Bits 31:5 hold the address: the four pointers need not lie at a page's start.
        cr3: LEVELS[0],
        cr4: CR4_PAE,
        efer: EFER_NXE,
        phys_bits: 40,
        ..WalkContext::default()
    }
}

#[test]
fn pae_pointers_have_no_rights_and_no_accessed_bit() {
    let address = 0xC123_4567;
    let tables = Tables::new(address, &[30, 21, 12], 8, &[P, ALL, ALL | 0x7_7000]);
    assert_eq!(tables.go(&pae(), address, Access::Write), Ok(0x7_7567));
    assert_eq!(tables.entry(0), P | LEVELS[1]);
    assert_eq!(tables.entry(1) & (A | D), A);
    assert_eq!(tables.entry(2) & (A | D), A | D);
    let user_fetch = tables.go(&user(pae()), address, Access::Fetch);
    assert_eq!(user_fetch, Ok(0x7_7567));
    // QEMU's processor marks them all the same.
    let tables = Tables::new(address, &[30, 21, 12], 8, &[P | A, ALL, ALL | 0x7_7000]);
    assert_eq!(tables.go(&pae(), address, Access::Read), Ok(0x7_7567));
}

#[test]
fn pae_large_pages_and_reserved_bits() {
    let address = 0xC123_4567;
    let large = Tables::new(address, &[30, 21], 8, &[P, ALL | PS | 0x60_0000]);
    let found = large.go(&pae(), address, Access::Read);
    assert_eq!(found, Ok(0x60_0000 | (address & 0x1F_FFFF)));
    for (pointer, entry) in [
        (P | W, ALL),
        (P | NX, ALL),
        (P | 1 << 40, ALL),
        (P, ALL | 1 << 52),
        (P, ALL | 1 << 40),
        (P, ALL | PS | 1 << 13),
    ] {
        let tables = Tables::new(address, &[30, 21], 8, &[pointer, entry]);
        let code = tables.fault(&pae(), address, Access::Read);
        assert_eq!(
            code,
            Code::PRESENT | Code::RESERVED,
            "{pointer:#x} {entry:#x}"
        );
    }
}

#[test]
fn an_absent_entry_of_any_level_faults_and_marks_nothing() {
    for absent in 0..4 {
        let mut entries = [ALL, ALL, ALL, ALL | 0x7_7000];
        entries[absent] &= !P;
        let tables = Tables::long(VA, &entries);
        assert_eq!(tables.fault(&long(), VA, Access::Read), Code::empty());
        assert_eq!(tables.fault(&long(), VA, Access::Write), Code::WRITE);
        let code = tables.fault(&user(long()), VA, Access::Fetch);
        assert_eq!(code, Code::USER | Code::FETCH);
        assert!((0..4).all(|level| tables.entry(level) & A == 0));
    }
}

#[test]
fn a_right_missing_at_any_level_is_missing() {
    for level in 0..4 {
        let mut entries = [ALL, ALL, ALL, ALL | 0x7_7000];
        entries[level] &= !W;
        let read_only = Tables::long(VA, &entries);
        let code = read_only.fault(&long(), VA, Access::Write);
        assert_eq!(code, Code::PRESENT | Code::WRITE);
        assert!(read_only.go(&user(long()), VA, Access::Read).is_ok());

        entries = [ALL, ALL, ALL, ALL | 0x7_7000];
        entries[level] &= !U;
        let supervisor = Tables::long(VA, &entries);
        let code = supervisor.fault(&user(long()), VA, Access::Read);
        assert_eq!(code, Code::PRESENT | Code::USER);
        assert!(supervisor.go(&long(), VA, Access::Write).is_ok());

        entries = [ALL, ALL, ALL, ALL | 0x7_7000];
        entries[level] |= NX;
        let data = Tables::long(VA, &entries);
        let code = data.fault(&long(), VA, Access::Fetch);
        assert_eq!(code, Code::PRESENT | Code::FETCH);
        assert!(data.go(&long(), VA, Access::Write).is_ok());
    }
}

#[test]
fn without_wp_a_supervisor_writes_read_only_pages() {
    let tables = Tables::long(VA, &[ALL, ALL, ALL, P | U | 0x7_7000]);
    let context = WalkContext {
        cr0: CR0_PE | CR0_PG,
        ..long()
    };
    assert_eq!(tables.go(&context, VA, Access::Write), Ok(0x7_7ABC));
    let code = tables.fault(&user(context), VA, Access::Write);
    assert_eq!(code, Code::PRESENT | Code::WRITE | Code::USER);
}

#[test]
fn smep_and_smap_keep_the_supervisor_out_of_user_pages() {
    let tables = Tables::long(VA, &[ALL, ALL, ALL, ALL | 0x7_7000]);
    let smep = WalkContext {
        cr4: CR4_PAE | CR4_SMEP,
        ..long()
    };
    let code = tables.fault(&smep, VA, Access::Fetch);
    assert_eq!(code, Code::PRESENT | Code::FETCH);
    assert!(tables.go(&smep, VA, Access::Read).is_ok());
    assert!(tables.go(&user(smep), VA, Access::Fetch).is_ok());

    let smap = WalkContext {
        cr4: CR4_PAE | CR4_SMAP,
        ..long()
    };
    assert_eq!(tables.fault(&smap, VA, Access::Read), Code::PRESENT);
    let code = tables.fault(&smap, VA, Access::Write);
    assert_eq!(code, Code::PRESENT | Code::WRITE);
    assert!(tables.go(&smap, VA, Access::Fetch).is_ok());
    assert!(tables.go(&user(smap), VA, Access::Write).is_ok());
    let overridden = WalkContext {
        rflags: RFLAGS_AC,
        ..smap
    };
    assert!(tables.go(&overridden, VA, Access::Write).is_ok());

    let supervisor = Tables::long(VA, &[ALL, ALL, ALL, P | W | 0x7_7000]);
    assert!(supervisor.go(&smap, VA, Access::Write).is_ok());
    assert!(supervisor.go(&smep, VA, Access::Fetch).is_ok());
}

#[test]
fn every_reserved_bit_of_every_level_faults() {
    let address_bits = (40..52).map(|bit| 1_u64 << bit);
    let cases: Vec<(usize, u64)> = (0..4)
        .flat_map(|level| address_bits.clone().map(move |bit| (level, bit)))
        .chain([(0, 1 << 7), (0, 1 << 8)])
        .collect();
    for (level, bit) in cases {
        let mut entries = [ALL, ALL, ALL, ALL | 0x7_7000];
        entries[level] |= bit;
        let tables = Tables::long(VA, &entries);
        let code = tables.fault(&long(), VA, Access::Read);
        assert_eq!(code, Code::PRESENT | Code::RESERVED, "{level} {bit:#x}");
    }
    for bit in 13..21 {
        let tables = Tables::long(VA, &[ALL, ALL, ALL | PS | 1 << bit]);
        let code = tables.fault(&long(), VA, Access::Read);
        assert_eq!(code, Code::PRESENT | Code::RESERVED);
    }
    for bit in 13..30 {
        let tables = Tables::long(VA, &[ALL, ALL | PS | 1 << bit]);
        let code = tables.fault(&long(), VA, Access::Read);
        assert_eq!(code, Code::PRESENT | Code::RESERVED);
    }
}

#[test]
fn without_nxe_the_no_execute_bit_is_reserved() {
    let tables = Tables::long(VA, &[ALL, ALL, ALL, ALL | NX | 0x7_7000]);
    let context = WalkContext {
        efer: EFER_LMA,
        ..long()
    };
    let code = tables.fault(&context, VA, Access::Fetch);
    assert_eq!(code, Code::PRESENT | Code::RESERVED);
}

#[test]
fn software_bits_are_ignored() {
    let software = 0x7F << 52 | 7 << 9;
    let tables = Tables::long(
        VA,
        &[
            ALL | software,
            ALL | software,
            ALL | software,
            ALL | software | 0x7_7000,
        ],
    );
    assert_eq!(tables.go(&long(), VA, Access::Write), Ok(0x7_7ABC));
}

#[test]
fn protection_keys_deny_data_on_user_pages_only() {
    let key = 5_u64 << 59;
    let tables = Tables::long(VA, &[ALL, ALL, ALL, ALL | key | 0x7_7000]);
    let keys = |pkru, cr0| WalkContext {
        cr0,
        cr4: CR4_PAE | CR4_PKE,
        pkru,
        ..long()
    };
    let deny_all = keys(1 << 10, long().cr0);
    let code = tables.fault(&user(deny_all), VA, Access::Read);
    assert_eq!(code, Code::PRESENT | Code::USER | Code::PROTECTION_KEY);
    assert!(tables.go(&user(deny_all), VA, Access::Fetch).is_ok());
    assert_eq!(
        tables.fault(&deny_all, VA, Access::Read),
        Code::PRESENT | Code::PROTECTION_KEY
    );

    let deny_write = keys(2 << 10, long().cr0);
    assert!(tables.go(&user(deny_write), VA, Access::Read).is_ok());
    let code = tables.fault(&deny_write, VA, Access::Write);
    assert_eq!(code, Code::PRESENT | Code::WRITE | Code::PROTECTION_KEY);
    let without_wp = keys(2 << 10, CR0_PE | CR0_PG);
    assert!(tables.go(&without_wp, VA, Access::Write).is_ok());

    let other_key = keys(3 << 8, long().cr0);
    assert!(tables.go(&user(other_key), VA, Access::Write).is_ok());
    let supervisor = Tables::long(VA, &[ALL, ALL, ALL, P | W | key | 0x7_7000]);
    assert!(supervisor.go(&deny_all, VA, Access::Write).is_ok());
}

#[test]
fn reads_mark_accessed_and_writes_mark_dirty_at_the_leaf() {
    let tables = Tables::long(VA, &[ALL, ALL, ALL, ALL | 0x7_7000]);
    probe(&long(), &tables.memory, VA, Access::Write).unwrap();
    assert!((0..4).all(|level| tables.entry(level) & (A | D) == 0));
    tables.go(&long(), VA, Access::Read).unwrap();
    assert!((0..4).all(|level| tables.entry(level) & (A | D) == A));
    tables.go(&long(), VA, Access::Write).unwrap();
    assert!((0..3).all(|level| tables.entry(level) & (A | D) == A));
    assert_eq!(tables.entry(3) & (A | D), A | D);
}

#[test]
fn a_table_outside_memory_reads_as_ones() {
    let tables = Tables::long(VA, &[ALL, ALL, ALL | 0x3F_0000_0000]);
    // The last table is nowhere; ones have reserved address bits set while the guest's addresses are short.
    tables
        .memory
        .write(Gpa(tables.places[2]), &(ALL | 0x3F_0000_0000).to_le_bytes())
        .unwrap();
    let code = tables.fault(&long(), VA, Access::Read);
    assert_eq!(code, Code::PRESENT | Code::RESERVED);
    let wide = WalkContext {
        phys_bits: 52,
        ..long()
    };
    let found = tables.go(&wide, VA, Access::Write);
    assert_eq!(found, Ok(0x000F_FFFF_FFFF_FABC));
}

/// Memory in which another processor changes entries: each exchange finds `lost` changes before it succeeds.
struct Contended {
    memory: FakeMemory,
    lost: Cell<usize>,
    withdrawn: bool,
}

impl GuestMemory for Contended {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        if self.withdrawn {
            return Err(MemoryError::Withdrawn(gpa));
        }
        self.memory.read(gpa, buffer)
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(gpa, bytes)
    }
    fn is_ram(&self, gpa: Gpa) -> bool {
        self.memory.is_ram(gpa)
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        if self.lost.get() > 0 {
            self.lost.set(self.lost.get() - 1);
            return Ok(false);
        }
        self.memory.compare_exchange(gpa, width, expected, new)
    }
}

#[test]
fn a_lost_mark_walks_again_and_gives_up_in_the_end() {
    let contended = |lost| Contended {
        memory: Tables::long(VA, &[ALL, ALL, ALL, ALL | 0x7_7000]).memory,
        lost: Cell::new(lost),
        withdrawn: false,
    };
    let found = translate(&long(), &contended(5), VA, Access::Write);
    assert_eq!(found.unwrap().gpa, Gpa(0x7_7ABC));
    let error = translate(&long(), &contended(1000), VA, Access::Write);
    assert_eq!(error, Err(WalkError::Contended));
}

#[test]
fn a_withdrawn_table_is_the_hosts_fault() {
    let memory = Contended {
        memory: FakeMemory::new(0x1_0000),
        lost: Cell::new(0),
        withdrawn: true,
    };
    let error = translate(&long(), &memory, VA, Access::Read).unwrap_err();
    assert!(matches!(
        error,
        WalkError::Memory(MemoryError::Withdrawn(_))
    ));
}

#[test]
fn any_tables_and_any_registers_are_walked_without_panic() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let memory = FakeMemory::new(0x1_0000);
    for _ in 0..0x2000 {
        // Entries that often point back into these tables, with random bits.
        let entry = (next() & 0xF0FF) | if next() & 3 == 0 { next() } else { 1 };
        memory
            .write(Gpa(next() & 0xFFF8), &entry.to_le_bytes())
            .unwrap();
    }
    for _ in 0..200_000 {
        let context = WalkContext {
            cr0: next(),
            cr3: next() & 0xFFFF,
            cr4: next(),
            efer: next(),
            rflags: next(),
            pkru: 0,
            cpl: (next() & 3) as u8,
            phys_bits: next() as u8,
        };
        for access in [Access::Read, Access::Write, Access::Fetch] {
            let _ = translate(&context, &memory, next(), access);
        }
    }
}
