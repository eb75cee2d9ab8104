//! Where a kernel, its modules and what it is told go in guest memory.
//!
//! The kernel says where it wants to be. What it is told goes to the lowest free place above [`HAND_OVER_FLOOR`], where small
//! kernels expect it, its modules behind it, and the copy of its file to the top of low RAM, which is free again once the
//! segments are in their places.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Image, Segment};
use crate::layout::{PAGE_SIZE, guest};
use crate::ram::RamMap;

/// The lowest address of what the kernel is told: above what kernels use for starting further processors.
const HAND_OVER_FLOOR: u64 = 0x9000;

/// Why a kernel does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The file itself does not fit into memory.
    #[error(
        "the kernel's file has {needed} bytes, {available} bytes of memory are there below 4 GiB"
    )]
    File {
        /// The file's length.
        needed: u64,
        /// Usable low RAM.
        available: u64,
    },
    /// A segment where there is no memory for it.
    #[error("the kernel wants to be at {start:#x} to {end:#x}, where it cannot be")]
    Segment {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Modules, or what the kernel is told, do not fit behind it.
    #[error("modules and command lines need {needed} bytes, {available} bytes are left")]
    Modules {
        /// Their length in pages.
        needed: u64,
        /// What is left.
        available: u64,
    },
}

/// The places of everything, fixed before the first segment is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where what the kernel is told begins; page-aligned.
    pub hand_over: u64,
    /// Where the modules lie; page-aligned, in the kernel's order.
    pub modules: Vec<Range<u64>>,
}

/// Returns where the copy of a kernel file of `file_bytes` goes: as high as possible below the ACPI tables.
pub fn scratch(ram: &RamMap, file_bytes: u64) -> Result<Range<u64>, PlaceError> {
    let usable = ram.acpi_tables().start;
    let start = usable.checked_sub(file_bytes).map(|s| s & !(PAGE_SIZE - 1));
    match start {
        Some(start) if start >= guest::EXTENDED_START => Ok(start..start + file_bytes),
        _ => Err(PlaceError::File {
            needed: file_bytes,
            available: usable - guest::EXTENDED_START,
        }),
    }
}

impl Places {
    /// Places what goes with an image whose file of `file_bytes` lies in its [`scratch`] place.
    pub fn try_new(
        image: &Image,
        file_bytes: u64,
        hand_over_bytes: u64,
        module_bytes: &[u64],
        ram: &RamMap,
    ) -> Result<Self, PlaceError> {
        let scratch = scratch(ram, file_bytes)?;
        for segment in &image.segments {
            check_segment(segment, scratch.start)?;
        }
        let kernel_end = image.segments.iter().map(|part| part.place.end).max();
        let behind = kernel_end
            .unwrap_or(0)
            .max(guest::EXTENDED_START)
            .next_multiple_of(PAGE_SIZE);
        let low = free_low_place(image, hand_over_bytes);
        let mut room = Room {
            next: behind,
            end: ram.acpi_tables().start,
        };
        let hand_over = match low {
            Some(place) => place,
            None => room.take(hand_over_bytes)?.start,
        };
        let modules = module_bytes.iter().map(|bytes| room.take(*bytes));
        Ok(Self {
            hand_over,
            modules: modules.collect::<Result<_, _>>()?,
        })
    }
}

/// A segment may lie in conventional memory or between 1 MiB and the copy of the file.
fn check_segment(segment: &Segment, limit: u64) -> Result<(), PlaceError> {
    let Range { start, end } = segment.place;
    if end <= guest::CONVENTIONAL_END || (start >= guest::EXTENDED_START && end <= limit) {
        Ok(())
    } else {
        Err(PlaceError::Segment { start, end })
    }
}

/// The first free page of conventional memory that has `bytes` free bytes behind it.
fn free_low_place(image: &Image, bytes: u64) -> Option<u64> {
    let mut start = HAND_OVER_FLOOR;
    loop {
        let end = start.checked_add(bytes)?;
        if end > guest::CONVENTIONAL_END {
            return None;
        }
        let mut segments = image.segments.iter().map(|part| &part.place);
        match segments.find(|place| place.start < end && start < place.end) {
            Some(taken) => start = taken.end.next_multiple_of(PAGE_SIZE),
            None => return Some(start),
        }
    }
}

/// Extended memory behind the kernel.
struct Room {
    next: u64,
    end: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<Range<u64>, PlaceError> {
        let start = self.next;
        let end = start.checked_add(bytes).filter(|end| *end <= self.end);
        let end = end.ok_or(PlaceError::Modules {
            needed: bytes,
            available: self.end.saturating_sub(start),
        })?;
        self.next = end.next_multiple_of(PAGE_SIZE);
        Ok(start..end)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn image(places: &[Range<u64>]) -> Image {
        let segments = places.iter().map(|place| Segment {
            offset: 0,
            len_bytes: 0,
            place: place.clone(),
        });
        Image::try_new(places[0].start, segments.collect()).unwrap()
    }

    /// Places a kernel of one segment.
    fn place_one(start: u64, end: u64, modules: &[u64]) -> Result<Places, PlaceError> {
        place(core::slice::from_ref(&(start..end)), modules)
    }

    fn place(places: &[Range<u64>], modules: &[u64]) -> Result<Places, PlaceError> {
        let ram = RamMap::of_size(64 * MIB).unwrap();
        Places::try_new(&image(places), 3 * MIB, 0x2000, modules, &ram)
    }

    #[test]
    fn usual_kernel_is_told_in_low_memory_and_has_its_modules_behind() {
        let places = place_one(MIB, 2 * MIB + 5, &[10, 0x1000, 1]).unwrap();
        assert_eq!(places.hand_over, 0x9000);
        let start = 2 * MIB + 0x1000;
        assert_eq!(
            places.modules,
            [
                start..start + 10,
                start + 0x1000..start + 0x2000,
                start + 0x2000..start + 0x2001
            ]
        );
    }

    #[test]
    fn kernel_in_low_memory_is_stepped_over() {
        let places = place(&[0x4000..0x9800, 0xA000..0xC001], &[]).unwrap();
        assert_eq!(places.hand_over, 0xD000);
        let places = place_one(0x4000, 0x9_0000, &[7]).unwrap();
        assert_eq!(places.hand_over, 0x9_0000);
        let places = place_one(0x4000, 0x9_F000, &[7]).unwrap();
        assert_eq!(places.hand_over, MIB);
        assert_eq!(places.modules, vec![MIB + 0x2000..MIB + 0x2007]);
    }

    #[test]
    fn kernel_where_there_is_no_memory_is_refused() {
        for range in [
            0x9_F000..0xA_0000,
            0xE_0000..0xE_1000,
            0xF_F000..MIB + 1,
            60 * MIB..61 * MIB,
            64 * MIB..65 * MIB,
            0xB000_0000..0xB000_1000,
        ] {
            let (start, end) = (range.start, range.end);
            let error = place_one(start, end, &[]).unwrap_err();
            assert_eq!(error, PlaceError::Segment { start, end });
        }
    }

    #[test]
    fn modules_that_do_not_fit_are_named_with_numbers() {
        let error = place_one(MIB, 2 * MIB, &[MIB, 62 * MIB]).unwrap_err();
        let needed = 62 * MIB;
        assert!(
            matches!(error, PlaceError::Modules { needed: n, .. } if n == needed),
            "{error}"
        );
        let error = place_one(MIB, 2 * MIB, &[u64::MAX]).unwrap_err();
        assert!(matches!(error, PlaceError::Modules { .. }), "{error}");
    }

    #[test]
    fn file_that_does_not_fit_is_named() {
        let ram = RamMap::of_size(64 * MIB).unwrap();
        let place = scratch(&ram, 3 * MIB + 1).unwrap();
        assert!(place.start.is_multiple_of(PAGE_SIZE) && place.end <= ram.acpi_tables().start);
        for bytes in [63 * MIB, u64::MAX] {
            let error = scratch(&ram, bytes).unwrap_err();
            assert!(matches!(error, PlaceError::File { .. }), "{error}");
        }
    }
}
