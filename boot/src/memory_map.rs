//! The memory map a guest is told: e820 entries made from its RAM.
//!
//! The paravisor's own memory is far above guest RAM and is in no entry at all: to the guest it is address space without memory.

use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{self, guest};
use crate::ram::RamMap;

/// An entry as firmware hands it over (ACPI 6.5, 15.1; Linux `struct boot_e820_entry`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct E820Entry {
    /// The first address.
    pub address: U64,
    /// The length in bytes.
    pub len_bytes: U64,
    /// What the range is.
    pub kind: E820Kind,
}

const _: () = assert!(size_of::<E820Entry>() == 20);

impl E820Entry {
    fn new(range: Range<u64>, kind: E820Kind) -> Self {
        Self {
            address: range.start.into(),
            len_bytes: (range.end - range.start).into(),
            kind,
        }
    }

    /// Returns one past the last address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address.get().saturating_add(self.len_bytes.get())
    }
}

/// The type of an entry (ACPI 6.5, table 15.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct E820Kind(pub U32);

impl E820Kind {
    /// Usable memory.
    pub const RAM: Self = Self(U32::new(1));
    /// Not to be used.
    pub const RESERVED: Self = Self(U32::new(2));
    /// ACPI tables: usable once read.
    pub const ACPI_RECLAIM: Self = Self(U32::new(3));
    /// ACPI structures that must stay.
    pub const ACPI_NVS: Self = Self(U32::new(4));
}

/// Returns the guest's memory map: ascending, without overlaps, never more than 8 entries.
#[must_use]
pub fn e820(ram: &RamMap) -> Vec<E820Entry> {
    let mut map = Vec::with_capacity(8);
    map.push(E820Entry::new(0..guest::CONVENTIONAL_END, E820Kind::RAM));
    map.push(E820Entry::new(
        guest::CONVENTIONAL_END..0xA_0000,
        E820Kind::RESERVED,
    ));
    // The RSDP lies here, where guests without a hand-over structure scan for it.
    map.push(E820Entry::new(
        guest::RSDP..guest::EXTENDED_START,
        E820Kind::RESERVED,
    ));
    map.push(E820Entry::new(
        guest::EXTENDED_START..ram.acpi_tables().start,
        E820Kind::RAM,
    ));
    map.push(E820Entry::new(ram.acpi_tables(), E820Kind::ACPI_RECLAIM));
    map.push(E820Entry::new(ram.acpi_nvs(), E820Kind::ACPI_NVS));
    let ecam = layout::ECAM_BASE..layout::ECAM_BASE + layout::ECAM_SIZE;
    map.push(E820Entry::new(ecam, E820Kind::RESERVED));
    map.extend(
        ram.ranges()
            .skip(1)
            .map(|range| E820Entry::new(range, E820Kind::RAM)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_sane(bytes: u64) {
        let ram = RamMap::of_size(bytes).unwrap();
        let map = e820(&ram);
        assert!(map.len() <= 8);
        for pair in map.windows(2) {
            assert!(pair[0].end() <= pair[1].address.get(), "{pair:x?}");
        }
        for entry in &map {
            assert_ne!(entry.len_bytes.get(), 0);
            if entry.kind != E820Kind::RESERVED {
                assert!(
                    ram.contains(entry.address.get(), entry.len_bytes.get()),
                    "{entry:x?}"
                );
            }
        }
    }

    #[test]
    fn map_is_ascending_and_names_only_memory_as_memory() {
        for mib in [32, 64, 256, 1024, 2815, 2816, 2817, 4096, 65536, 400_000] {
            assert_sane(mib << 20);
        }
    }

    #[test]
    fn guest_is_not_told_of_the_paravisor() {
        let map = e820(&RamMap::of_size(8 << 30).unwrap());
        assert!(
            map.iter()
                .all(|entry| entry.end() <= layout::paravisor::BASE)
        );
    }

    #[test]
    fn acpi_tables_stand_at_the_top_of_low_memory() {
        let map = e820(&RamMap::of_size(256 << 20).unwrap());
        let tables = map
            .iter()
            .find(|entry| entry.kind == E820Kind::ACPI_RECLAIM)
            .unwrap();
        let nvs = map
            .iter()
            .find(|entry| entry.kind == E820Kind::ACPI_NVS)
            .unwrap();
        assert_eq!(tables.end(), nvs.address.get());
        assert_eq!(nvs.end(), 256 << 20);
    }
}
