//! Guest memory as devices and the instruction emulator see it: copied, never referenced.

/// A guest-physical address. It never mixes with others and does no raw arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gpa(pub u64);

impl Gpa {
    /// Returns the address `bytes` further on, or `None` past the end of the address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Returns the first address of the 4 KiB page this one is in.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !0xFFF)
    }

    /// Returns the offset into the 4 KiB page.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 & 0xFFF
    }
}

impl core::fmt::Display for Gpa {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why guest memory could not be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Part of the range is not guest RAM by our own map.
    #[error("{0} is not guest memory")]
    NotMemory(Gpa),
    /// The host took the page away; ours by the map, but not readable.
    #[error("guest memory at {0} was withdrawn by the host")]
    Withdrawn(Gpa),
}

/// Guest RAM, and what can be read of read-only memory. Ranges may cross pages; a range that is not wholly guest RAM, or to be read and
/// wholly read-only memory, is refused before a byte moves.
///
/// Copies of 2, 4 or 8 bytes at their natural alignment are one access: another processor sees, and is seen writing, all or
/// nothing of them. Copies are done in the order they are asked for, but a read may pass a write before it.
pub trait GuestMemory {
    /// Copies guest memory at `gpa` into `buffer`.
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError>;
    /// Copies `bytes` to guest memory at `gpa`.
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Returns the eight bytes at `gpa` as a little-endian number: an entry of a page table, most of all.
    fn read_u64(&self, gpa: Gpa) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Returns whether the byte at `gpa` is guest RAM by our own map.
    fn is_ram(&self, gpa: Gpa) -> bool;

    /// Returns whether the byte at `gpa` is memory of the guest that can be read and not written: firmware. It is no RAM.
    fn is_rom(&self, gpa: Gpa) -> bool {
        let _ = gpa;
        false
    }

    /// Returns whether all `len` bytes at `gpa` are guest RAM by our own map.
    fn is_ram_range(&self, gpa: Gpa, len: u64) -> bool {
        let Some(last) = gpa.checked_add(len.saturating_sub(1)) else {
            return false;
        };
        let mut later_pages = (gpa.page().0..=last.0).step_by(0x1000).skip(1);
        self.is_ram(gpa) && self.is_ram(last) && later_pages.all(|page| self.is_ram(Gpa(page)))
    }

    /// Atomically replaces the little-endian value of `width` bytes (1, 2, 4 or 8) at `gpa`, which does not cross its natural alignment,
    /// if it still is `expected`. Returns whether it did.
    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError>;
}

impl<T: GuestMemory + ?Sized> GuestMemory for &T {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(gpa, buffer)
    }
    fn read_u64(&self, gpa: Gpa) -> Result<u64, MemoryError> {
        (**self).read_u64(gpa)
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        (**self).write(gpa, bytes)
    }
    fn is_ram(&self, gpa: Gpa) -> bool {
        (**self).is_ram(gpa)
    }
    fn is_ram_range(&self, gpa: Gpa, len: u64) -> bool {
        (**self).is_ram_range(gpa, len)
    }
    fn is_rom(&self, gpa: Gpa) -> bool {
        (**self).is_rom(gpa)
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        (**self).compare_exchange(gpa, width, expected, new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeMemory;

    #[test]
    fn a_range_is_ram_when_all_its_pages_are() {
        let memory = FakeMemory::new(0x3000);
        assert!(memory.is_ram_range(Gpa(0), 0x3000));
        assert!(memory.is_ram_range(Gpa(0x2FFF), 1));
        assert!(!memory.is_ram_range(Gpa(0x2FFF), 2));
        assert!(!memory.is_ram_range(Gpa(0x1000), u64::MAX));
        assert!(!memory.is_ram_range(Gpa(0x3000), 0));
    }
}
