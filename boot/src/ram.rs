//! Which guest-physical addresses are guest RAM.
//!
//! The shape is fixed by [`layout`]: one range from 0, and if there is more one range from 4 GiB on. Two numbers say it all,
//! so every map of this type is sorted, free of overlaps and inside the allowed ranges.

use core::ops::Range;

use crate::layout::{self, HIGH_RAM_END, HIGH_RAM_START, LOW_RAM_END, MINIMUM_RAM, PAGE_SIZE};

/// The guest's RAM: always private, all of it the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamMap {
    low_end: u64,
    high_end: u64,
}

/// Why two ends are no RAM map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RamError {
    /// Too little to start a guest.
    #[error("{0} bytes of guest memory below 4 GiB, at least {MINIMUM_RAM} are needed")]
    TooLittle(u64),
    /// Low RAM would reach into the PCI hole, or is not whole pages.
    #[error("guest memory below 4 GiB cannot end at {0:#x}")]
    LowEnd(u64),
    /// High RAM would reach the paravisor, or is not whole pages.
    #[error("guest memory above 4 GiB cannot end at {0:#x}")]
    HighEnd(u64),
}

impl RamMap {
    /// Returns the map of RAM from 0 to `low_end` and from 4 GiB to `high_end` (4 GiB itself: none).
    pub fn try_new(low_end: u64, high_end: u64) -> Result<Self, RamError> {
        if low_end > LOW_RAM_END || !low_end.is_multiple_of(PAGE_SIZE) {
            return Err(RamError::LowEnd(low_end));
        }
        if low_end < MINIMUM_RAM {
            return Err(RamError::TooLittle(low_end));
        }
        if !(HIGH_RAM_START..=HIGH_RAM_END).contains(&high_end)
            || !high_end.is_multiple_of(PAGE_SIZE)
        {
            return Err(RamError::HighEnd(high_end));
        }
        Ok(Self { low_end, high_end })
    }

    /// Returns where the architecture puts `bytes` bytes of RAM.
    pub fn of_size(bytes: u64) -> Result<Self, RamError> {
        let low_end = bytes.min(LOW_RAM_END);
        let high_end = HIGH_RAM_START
            .checked_add(bytes - low_end)
            .ok_or(RamError::HighEnd(bytes))?;
        Self::try_new(low_end, high_end)
    }

    /// Returns one past the last byte of RAM below 4 GiB.
    #[must_use]
    pub const fn low_end(&self) -> u64 {
        self.low_end
    }

    /// Returns one past the last byte of RAM above 4 GiB; 4 GiB if there is none.
    #[must_use]
    pub const fn high_end(&self) -> u64 {
        self.high_end
    }

    /// Returns the ranges of RAM, ascending, none of them empty.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        [0..self.low_end, HIGH_RAM_START..self.high_end]
            .into_iter()
            .filter(|r| !r.is_empty())
    }

    /// Returns how many bytes of RAM there are.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.low_end + (self.high_end - HIGH_RAM_START)
    }

    /// Returns whether the whole range is RAM.
    #[must_use]
    pub fn contains(&self, gpa: u64, len_bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(len_bytes) else {
            return false;
        };
        self.ranges()
            .any(|range| range.start <= gpa && end <= range.end)
    }
}

/// The top of low RAM, where what outlives the loader is put.
impl RamMap {
    /// Returns where the ACPI tables lie: reclaimable by the guest once read.
    #[must_use]
    pub const fn acpi_tables(&self) -> Range<u64> {
        let start = self.acpi_nvs().start - layout::guest::ACPI_TABLES_SIZE;
        start..self.acpi_nvs().start
    }

    /// Returns where the ACPI structures lie that the guest never reclaims.
    #[must_use]
    pub const fn acpi_nvs(&self) -> Range<u64> {
        self.low_end - layout::guest::ACPI_NVS_SIZE..self.low_end
    }

    /// Returns where the byte lies by which the guest asks for its memory to be cleared at the next reset (bit 0).
    #[must_use]
    pub const fn memory_clear_request(&self) -> u64 {
        self.acpi_nvs().start + layout::guest::MEMORY_CLEAR_REQUEST
    }

    /// Returns where the log of what was measured into the TPM lies.
    #[must_use]
    pub const fn tpm_log(&self) -> Range<u64> {
        let start = self.acpi_nvs().start + layout::guest::TPM_LOG;
        start..start + layout::guest::TPM_LOG_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn small_guest_has_one_range() {
        let ram = RamMap::of_size(GIB).unwrap();
        assert!(ram.ranges().eq(core::iter::once(0..GIB)));
        assert_eq!(ram.bytes(), GIB);
    }

    #[test]
    fn memory_beyond_the_hole_continues_at_four_gib() {
        let ram = RamMap::of_size(4 * GIB).unwrap();
        assert!(
            ram.ranges()
                .eq([0..LOW_RAM_END, 4 * GIB..4 * GIB + (4 * GIB - LOW_RAM_END)])
        );
        assert_eq!(ram.bytes(), 4 * GIB);
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        assert_eq!(
            RamMap::of_size(MINIMUM_RAM - 0x1000),
            Err(RamError::TooLittle(0x1FF_F000))
        );
        assert_eq!(RamMap::of_size(GIB + 1), Err(RamError::LowEnd(GIB + 1)));
        assert!(matches!(
            RamMap::of_size(512 * GIB),
            Err(RamError::HighEnd(_))
        ));
        assert!(matches!(
            RamMap::of_size(u64::MAX),
            Err(RamError::HighEnd(_))
        ));
        assert_eq!(RamMap::try_new(GIB, GIB), Err(RamError::HighEnd(GIB)));
    }

    #[test]
    fn range_across_the_hole_is_not_memory() {
        let ram = RamMap::of_size(4 * GIB).unwrap();
        assert!(ram.contains(0, LOW_RAM_END));
        assert!(!ram.contains(0, LOW_RAM_END + 1));
        assert!(ram.contains(HIGH_RAM_START, 1));
        assert!(!ram.contains(LOW_RAM_END - 1, HIGH_RAM_START - LOW_RAM_END + 2));
        assert!(!ram.contains(u64::MAX, 2));
    }
}
