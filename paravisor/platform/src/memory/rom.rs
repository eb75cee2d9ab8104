//! Read-only memory of the guest: firmware, which ends at 4 GiB.
//!
//! The guest may read and execute its pages and not write them (RMPADJUST without the write permission); a write of its is an exit, and lost
//! like a write to a ROM. Until `GuestRam::open_rom` the pages are VMPL0's alone, so the content can be checked first.

use core::ops::Range;

use stockade_bus::{Gpa, MemoryError};
use stockade_entry::copy;

use super::{GuestRam, pointer};

impl GuestRam {
    /// Returns the memory with read-only memory besides.
    ///
    /// # Safety
    /// 1. `rom` is mapped at its address plus the window that was given to [`GuestRam::new`], for ever, with a fix-up handler in place; it is
    ///    accepted, no RAM, and no Rust reference into it exists or will.
    pub unsafe fn with_rom(self, rom: Range<u64>) -> Self {
        Self { rom, ..self }
    }

    /// Returns which addresses are read-only memory; none if the range is empty.
    #[must_use]
    pub fn rom(&self) -> Range<u64> {
        self.rom.clone()
    }

    /// Copies `bytes` to read-only memory at `gpa`, as whoever programs the ROM does.
    pub fn write_rom(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let (target, len) = self.locate_rom(gpa, bytes.len() as u64)?;
        // SAFETY: 1. `bytes` is a slice. 2. `locate_rom` checked the range, so it is mapped and nothing refers into it (`with_rom`, 1.).
        unsafe { copy::copy(target, bytes.as_ptr(), len) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    /// Returns where the read-only memory at `gpa` is mapped, if all of it is that.
    pub(super) fn locate_rom(&self, gpa: Gpa, len: u64) -> Result<(*mut u8, usize), MemoryError> {
        let refused = MemoryError::NotMemory(gpa);
        let end = gpa.0.checked_add(len).ok_or(refused)?;
        if gpa.0 < self.rom.start || end > self.rom.end {
            return Err(refused);
        }
        let len = usize::try_from(len).map_err(|_| refused)?;
        Ok((pointer(self.window.wrapping_add(gpa.0))?, len))
    }

    /// Lets the guest read and execute the read-only memory.
    #[cfg(feature = "image")]
    pub fn open_rom(&self) -> Result<(), crate::RmpFailure> {
        // SAFETY: 1. the range is mapped so and accepted, and nothing refers into it (`with_rom`, 1.).
        unsafe { super::accept::open_rom(self.rom(), self.window) }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec;

    use stockade_boot::layout::MINIMUM_RAM;
    use stockade_boot::ram::RamMap;
    use stockade_bus::{Gpa, GuestMemory, MemoryError};

    use super::super::{GuestRam, PageStates};

    const ROM: u64 = MINIMUM_RAM + 0x1000;

    /// Memory of the least size, an address that is nothing, and a page of ROM.
    fn memory() -> GuestRam {
        let map = RamMap::of_size(MINIMUM_RAM).unwrap();
        let mut states = PageStates::default();
        states.accept(0, MINIMUM_RAM).unwrap();
        let len = usize::try_from(ROM + 0x1000).unwrap();
        let memory = Box::leak(vec![0_u64; len / 8].into_boxed_slice());
        let window = memory.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: 1. to 4. the memory is leaked and its reference ends here; the tests stay away from staging.
        let ram = unsafe { GuestRam::new(map, states, window, window) };
        // SAFETY: 1. as above.
        unsafe { ram.with_rom(ROM..ROM + 0x1000) }
    }

    #[test]
    fn rom_is_read_and_not_written() {
        let memory = memory();
        memory.write_rom(Gpa(ROM + 8), b"firmware").unwrap();
        let mut back = [0; 8];
        memory.read(Gpa(ROM + 8), &mut back).unwrap();
        assert_eq!(&back, b"firmware");
        assert_eq!(memory.read_u64(Gpa(ROM + 8)), Ok(u64::from_le_bytes(back)));
        let refused = MemoryError::NotMemory(Gpa(ROM + 8));
        assert_eq!(memory.write(Gpa(ROM + 8), &[0]), Err(refused));
        assert_eq!(memory.compare_exchange(Gpa(ROM + 8), 8, 0, 1), Err(refused));
    }

    #[test]
    fn rom_is_no_ram_and_ends_where_it_ends() {
        let memory = memory();
        assert!(memory.is_rom(Gpa(ROM)) && memory.is_rom(Gpa(ROM + 0xFFF)));
        assert!(!memory.is_rom(Gpa(ROM - 1)) && !memory.is_rom(Gpa(ROM + 0x1000)));
        assert!(!memory.is_ram(Gpa(ROM)) && !memory.is_rom(Gpa(0)));
        let mut two = [0; 2];
        assert!(memory.read(Gpa(ROM + 0xFFF), &mut two).is_err());
        assert!(memory.read(Gpa(ROM - 1), &mut two).is_err());
        assert!(memory.write_rom(Gpa(MINIMUM_RAM - 1), &two).is_err());
        assert!(memory.write_rom(Gpa(u64::MAX), &two).is_err());
    }
}
