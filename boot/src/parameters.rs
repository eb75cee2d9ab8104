//! What the host tells at launch: the parameters page, unmeasured and not to be believed.
//!
//! The page is copied to private memory first; [`Parameters::parse`] then refuses whatever is odd. A host that lies here can
//! only choose between guests the image allows: 1 to the manifest's vCPU count, RAM of the architecture's shape.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{self, HIGH_RAM_START, LOW_RAM_END, PAGE_SIZE, paravisor};
use crate::ram::{RamError, RamMap};

/// The type of a memory-map entry (IGVM: `MemoryMapEntryType`). The host chooses the number, so any number is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MemoryKind(pub U16);

impl MemoryKind {
    /// Ordinary memory.
    pub const MEMORY: Self = Self(U16::new(0));
    /// Reserved by the platform.
    pub const PLATFORM_RESERVED: Self = Self(U16::new(1));
}

/// An entry of the memory map (IGVM: `IGVM_VHS_MEMORY_MAP_ENTRY`); one of no pages ends the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryEntry {
    /// The number of the first page.
    pub first_page: U64,
    /// How many pages; 0 ends the map.
    pub pages: U64,
    /// What the range is.
    pub kind: MemoryKind,
    /// Zero.
    pub flags: U16,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<MemoryEntry>() == 24);

impl MemoryEntry {
    /// Returns the entry of a range of ordinary memory.
    #[must_use]
    pub fn memory(gpa: u64, len_bytes: u64) -> Self {
        Self {
            first_page: (gpa / PAGE_SIZE).into(),
            pages: (len_bytes / PAGE_SIZE).into(),
            kind: MemoryKind::MEMORY,
            flags: U16::ZERO,
            reserved: U32::ZERO,
        }
    }

    /// Returns the range in bytes, or `None` past the end of the address space.
    fn range(&self) -> Option<(u64, u64)> {
        let start = self.first_page.get().checked_mul(PAGE_SIZE)?;
        let end = self
            .pages
            .get()
            .checked_mul(PAGE_SIZE)?
            .checked_add(start)?;
        Some((start, end))
    }
}

/// How many entries the page has room for.
const MAX_ENTRIES: usize = 160;

/// The parameters page as the loader fills it.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ParametersPage {
    vcpu_count: U32,
    _unused: [u8; 0xFC],
    memory_map: [MemoryEntry; MAX_ENTRIES],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ParametersPage>() as u64 == PAGE_SIZE);
    assert!(offset_of!(ParametersPage, vcpu_count) as u64 == paravisor::PARAMETERS_VCPU_COUNT);
    assert!(offset_of!(ParametersPage, memory_map) as u64 == paravisor::PARAMETERS_MEMORY_MAP);
};

/// Why the host's parameters are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// Not a whole page.
    #[error("the parameters page is too short")]
    Length,
    /// No vCPU, or more than the image allows.
    #[error("the host offers {offered} vCPUs, this image allows 1 to {allowed}")]
    Vcpus {
        /// The host's number.
        offered: u32,
        /// The manifest's number.
        allowed: u32,
    },
    /// No entry of no pages up to the end of the page.
    #[error("the host's memory map has no end")]
    NoEnd,
    /// An entry that wraps around, or uses reserved bytes.
    #[error("entry {0} of the host's memory map is malformed")]
    Malformed(usize),
    /// An entry that begins before the previous one ends.
    #[error("entry {0} of the host's memory map is out of order")]
    Order(usize),
    /// Memory where the architecture has none, or with a hole before it.
    #[error("the host's memory map has memory from {start:#x} to {end:#x}")]
    Placement {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The memory is not enough, or not whole.
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// The host's parameters, as far as they are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// How many vCPUs the guest gets; their APIC ids are 0 to one less.
    pub vcpu_count: u32,
    /// The guest's RAM.
    pub ram: RamMap,
}

impl Parameters {
    /// Reads the private copy of the parameters page; `max_vcpus` is the manifest's.
    pub fn parse(page: &[u8], max_vcpus: u32) -> Result<Self, ParameterError> {
        let (page, _) =
            ParametersPage::ref_from_prefix(page).map_err(|_| ParameterError::Length)?;
        let vcpu_count = page.vcpu_count.get();
        if vcpu_count == 0 || vcpu_count > max_vcpus {
            return Err(ParameterError::Vcpus {
                offered: vcpu_count,
                allowed: max_vcpus,
            });
        }
        Ok(Self {
            vcpu_count,
            ram: parse_memory_map(&page.memory_map)?,
        })
    }
}

fn parse_memory_map(map: &[MemoryEntry]) -> Result<RamMap, ParameterError> {
    let mut ends = Ends {
        low: 0,
        high: HIGH_RAM_START,
    };
    let mut previous_end = 0;
    for (index, entry) in map.iter().enumerate() {
        if entry.pages == U64::ZERO {
            return Ok(RamMap::try_new(ends.low, ends.high)?);
        }
        if entry.flags != U16::ZERO || entry.reserved != U32::ZERO {
            return Err(ParameterError::Malformed(index));
        }
        let (start, end) = entry.range().ok_or(ParameterError::Malformed(index))?;
        if start < previous_end {
            return Err(ParameterError::Order(index));
        }
        previous_end = end;
        // What is no ordinary memory is no concern of the guest: it is given the machine we build.
        if entry.kind == MemoryKind::MEMORY {
            ends.add(start, end)?;
        }
    }
    Err(ParameterError::NoEnd)
}

/// Where the RAM seen so far ends.
struct Ends {
    low: u64,
    high: u64,
}

impl Ends {
    fn add(&mut self, start: u64, end: u64) -> Result<(), ParameterError> {
        let is_ours = |base, limit| base <= start && end <= limit;
        if start == self.low && end <= LOW_RAM_END {
            self.low = end;
        } else if start == self.high && end <= layout::HIGH_RAM_END {
            self.high = end;
        } else if !is_ours(paravisor::BASE, paravisor::END + paravisor::EXTRA_MAX_SIZE)
            && !is_ours(layout::STAGING_BASE, layout::BOUNCE_END)
        {
            return Err(ParameterError::Placement { start, end });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn page(vcpus: u32, entries: &[MemoryEntry]) -> [u8; 4096] {
        let mut page = [0; 4096];
        page[..4].copy_from_slice(&vcpus.to_le_bytes());
        entries.write_to_prefix(&mut page[0x100..]).unwrap();
        page
    }

    fn parse(entries: &[MemoryEntry]) -> Result<RamMap, ParameterError> {
        Parameters::parse(&page(1, entries), 8).map(|parameters| parameters.ram)
    }

    #[test]
    fn honest_map_is_taken() {
        let entries = [
            MemoryEntry::memory(0, 0xB000_0000),
            MemoryEntry::memory(HIGH_RAM_START, 512 * MIB),
            MemoryEntry::memory(paravisor::BASE, paravisor::SIZE),
        ];
        let parameters = Parameters::parse(&page(3, &entries), 8).unwrap();
        assert_eq!(parameters.vcpu_count, 3);
        assert_eq!(parameters.ram.low_end(), 0xB000_0000);
        assert_eq!(parameters.ram.high_end(), HIGH_RAM_START + 512 * MIB);
    }

    #[test]
    fn neighbours_are_joined_and_reserved_ranges_skipped() {
        let mut reserved = MemoryEntry::memory(0xFEFF_C000, 0x4000);
        reserved.kind = MemoryKind::PLATFORM_RESERVED;
        let ram = parse(&[
            MemoryEntry::memory(0, 64 * MIB),
            MemoryEntry::memory(64 * MIB, 64 * MIB),
            reserved,
        ]);
        assert_eq!(ram, Ok(RamMap::of_size(128 * MIB).unwrap()));
    }

    #[test]
    fn vcpu_count_beyond_the_manifest_is_refused() {
        let entries = [MemoryEntry::memory(0, 64 * MIB)];
        for offered in [0, 9, u32::MAX] {
            let error = Parameters::parse(&page(offered, &entries), 8).unwrap_err();
            assert_eq!(
                error,
                ParameterError::Vcpus {
                    offered,
                    allowed: 8
                }
            );
        }
    }

    #[test]
    fn memory_outside_the_architecture_is_refused() {
        for (gpa, len) in [
            (0x1000, 64 * MIB),
            (0, LOW_RAM_END + 0x1000),
            (0xC000_0000, MIB),
            (HIGH_RAM_START + 0x1000, MIB),
            (HIGH_RAM_START, layout::HIGH_RAM_END),
            (paravisor::END + paravisor::EXTRA_MAX_SIZE, 0x1000),
            (layout::VTOM, MIB),
        ] {
            let error = parse(&[MemoryEntry::memory(gpa, len)]).unwrap_err();
            assert!(
                matches!(error, ParameterError::Placement { .. }),
                "{gpa:#x}: {error}"
            );
        }
    }

    /// Overlapping entries would make one guest page two.
    #[test]
    fn overlap_and_disorder_are_refused() {
        let low = MemoryEntry::memory(0, 64 * MIB);
        assert_eq!(parse(&[low, low]), Err(ParameterError::Order(1)));
        let inside = MemoryEntry::memory(63 * MIB, 2 * MIB);
        assert_eq!(parse(&[low, inside]), Err(ParameterError::Order(1)));
        let high = MemoryEntry::memory(HIGH_RAM_START, MIB);
        assert_eq!(parse(&[high, low]), Err(ParameterError::Order(1)));
    }

    #[test]
    fn hole_in_low_memory_is_refused() {
        let entries = [
            MemoryEntry::memory(0, 64 * MIB),
            MemoryEntry::memory(65 * MIB, MIB),
        ];
        assert!(matches!(
            parse(&entries),
            Err(ParameterError::Placement { .. })
        ));
    }

    #[test]
    fn wrapping_and_flagged_entries_are_refused() {
        let huge = MemoryEntry {
            pages: u64::MAX.into(),
            ..MemoryEntry::memory(0, 0x1000)
        };
        assert_eq!(parse(&[huge]), Err(ParameterError::Malformed(0)));
        let far = MemoryEntry {
            first_page: u64::MAX.into(),
            ..MemoryEntry::memory(0, 0x1000)
        };
        assert_eq!(parse(&[far]), Err(ParameterError::Malformed(0)));
        let flagged = MemoryEntry {
            flags: 1.into(),
            ..MemoryEntry::memory(0, 64 * MIB)
        };
        assert_eq!(parse(&[flagged]), Err(ParameterError::Malformed(0)));
    }

    #[test]
    fn endless_map_is_refused() {
        let reserved = MemoryEntry {
            kind: MemoryKind(7.into()),
            ..MemoryEntry::memory(0, 0x1000)
        };
        let mut entries = [reserved; MAX_ENTRIES];
        for (index, entry) in entries.iter_mut().enumerate() {
            entry.first_page = (index as u64).into();
        }
        assert_eq!(parse(&entries), Err(ParameterError::NoEnd));
    }

    #[test]
    fn empty_and_short_pages_are_refused() {
        assert_eq!(parse(&[]), Err(ParameterError::Ram(RamError::TooLittle(0))));
        assert_eq!(
            Parameters::parse(&[1; 0x800], 8),
            Err(ParameterError::Length)
        );
    }

    #[test]
    fn every_byte_may_be_anything() {
        for byte in 0..=u8::MAX {
            assert!(Parameters::parse(&[byte; 4096], u32::MAX).is_err());
        }
    }
}
