//! Guest RAM and the staging range, as the paravisor reaches them.
//!
//! [`GuestRam`] is the guest's memory: which addresses it has ([`RamMap`]), which pages of it are accepted ([`PageStates`]),
//! and where it is mapped. All accesses are copies by instructions with a fix-up; nothing in Rust refers into the guest.

#[cfg(feature = "image")]
pub(crate) mod accept;
mod rom;
mod states;

use core::ops::Range;
use core::ptr;

use stockade_boot::layout::{STAGING_BASE, STAGING_SIZE};
use stockade_boot::ram::RamMap;
use stockade_bus::{Gpa, GuestMemory, MemoryError};
use stockade_entry::copy::{self, Width};

pub use states::{AlreadyPrivate, PageStates};

/// The guest's memory. Every page in [`GuestRam::map`] is private to the guest and accepted.
#[derive(Debug)]
pub struct GuestRam {
    map: RamMap,
    states: PageStates,
    /// Everything below is accepted RAM: what most accesses need to know.
    low_end: u64,
    /// Read-only memory of the guest.
    rom: Range<u64>,
    /// Where guest-physical address 0 is mapped, with the C-bit.
    window: u64,
    /// Where the first byte of the staging range is mapped, without the C-bit.
    staging: u64,
}

impl GuestRam {
    /// Returns the accepted memory of `map` as mapped at `window`, and the staging range mapped at `staging`.
    ///
    /// # Safety
    /// 1. Each range of `map` is mapped at its address plus `window`, for ever, with a fix-up handler in place.
    /// 2. The staging range is likewise mapped (readable) at `staging`.
    /// 3. No Rust reference into either exists or will.
    /// 4. `states` says of each page whether it is accepted.
    pub unsafe fn new(map: RamMap, states: PageStates, window: u64, staging: u64) -> Self {
        let low_end = map.ranges().next().map_or(0, |range| range.end);
        let is_whole = map.contains(0, low_end) && states.is_private(0, low_end);
        Self {
            map,
            states,
            low_end: if is_whole { low_end } else { 0 },
            rom: 0..0,
            window,
            staging,
        }
    }

    /// Returns which addresses are guest RAM.
    #[must_use]
    pub fn map(&self) -> &RamMap {
        &self.map
    }

    /// Zeroes `len` bytes at `gpa`.
    pub fn zero(&self, gpa: Gpa, len: u64) -> Result<(), MemoryError> {
        let (target, len) = self.locate(gpa, len)?;
        // SAFETY: 1. `locate` checked that the range is accepted RAM, so it is mapped (`new`, 1.). 2. `new`, 3.
        unsafe { copy::zero(target, len) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    /// Copies from the staging range at guest-physical address `source`. The host may change the bytes at any time.
    pub fn read_staging(&self, source: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let source_gpa = Gpa(source);
        let source = self.locate_staging(source, buffer.len() as u64)?;
        // SAFETY: 1. `locate_staging` checked the range (`new`, 2.). 2. `buffer` is ours. 3. Nothing in Rust lies in staging.
        unsafe { copy::copy(buffer.as_mut_ptr(), source, buffer.len()) }
            .map_err(|_| MemoryError::Withdrawn(source_gpa))
    }

    /// Copies `len` bytes from the staging range at `source` to guest memory at `target`, each byte read once.
    pub fn copy_staging_to_guest(
        &self,
        source: u64,
        target: Gpa,
        len: u64,
    ) -> Result<(), MemoryError> {
        let from = self.locate_staging(source, len)?;
        let (to, len) = self.locate(target, len)?;
        // SAFETY: 1. and 2. both ranges are checked and mapped (`new`, 1.–3.). 3. Staging and RAM are apart in the layout.
        unsafe { copy::copy(to, from, len) }.map_err(|_| MemoryError::Withdrawn(target))
    }

    /// Returns where the RAM at `gpa` is mapped, if all of it is accepted RAM.
    #[inline]
    pub(crate) fn locate(&self, gpa: Gpa, len: u64) -> Result<(*mut u8, usize), MemoryError> {
        let refused = MemoryError::NotMemory(gpa);
        let is_low = gpa
            .0
            .checked_add(len)
            .is_some_and(|end| end <= self.low_end);
        let is_accepted =
            is_low || self.map.contains(gpa.0, len) && self.states.is_private(gpa.0, len);
        if !is_accepted {
            return Err(refused);
        }
        let len = usize::try_from(len).map_err(|_| refused)?;
        Ok((pointer(self.window.wrapping_add(gpa.0))?, len))
    }

    /// Returns where the RAM or read-only memory at `gpa` is mapped.
    #[inline]
    fn locate_readable(&self, gpa: Gpa, len: u64) -> Result<(*mut u8, usize), MemoryError> {
        self.locate(gpa, len).or_else(|_| self.locate_rom(gpa, len))
    }

    fn locate_staging(&self, source: u64, len: u64) -> Result<*const u8, MemoryError> {
        let refused = MemoryError::NotMemory(Gpa(source));
        let offset = source.checked_sub(STAGING_BASE).ok_or(refused)?;
        match offset.checked_add(len) {
            Some(end) if end <= STAGING_SIZE => Ok(pointer(self.staging + offset)?.cast_const()),
            _ => Err(refused),
        }
    }
}

fn pointer(address: u64) -> Result<*mut u8, MemoryError> {
    let address = usize::try_from(address).map_err(|_| MemoryError::NotMemory(Gpa(address)))?;
    Ok(ptr::with_exposed_provenance_mut(address))
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let (source, len) = self.locate_readable(gpa, buffer.len() as u64)?;
        // SAFETY: 1. `locate_readable` checked that the range is accepted memory, so it is mapped (`new`, 1.; `with_rom`, 1.). 2. `buffer` is ours. 3. No
        // Rust object lies in guest RAM. The guest writes the bytes at will; any value is a byte.
        unsafe { copy::copy(buffer.as_mut_ptr(), source, len) }
            .map_err(|_| MemoryError::Withdrawn(gpa))
    }

    fn read_u64(&self, gpa: Gpa) -> Result<u64, MemoryError> {
        let (source, _) = self.locate_readable(gpa, size_of::<u64>() as u64)?;
        // SAFETY: 1. `locate_readable` checked that the range is accepted memory, so it is mapped (`new`, 1.; `with_rom`, 1.).
        unsafe { copy::load(source) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let (target, len) = self.locate(gpa, bytes.len() as u64)?;
        // SAFETY: 1. `bytes` is a slice. 2. `locate` checked the range; nothing refers into it (`new`, 3.). 3. as for reading.
        unsafe { copy::copy(target, bytes.as_ptr(), len) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.locate(gpa, 1).is_ok()
    }

    fn is_rom(&self, gpa: Gpa) -> bool {
        self.rom.contains(&gpa.0)
    }

    fn is_ram_range(&self, gpa: Gpa, len: u64) -> bool {
        self.locate(gpa, len).is_ok()
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        let (target, _) = self.locate(gpa, u64::from(width))?;
        let refused = MemoryError::NotMemory(gpa);
        let exchange = Width::from_bytes(width).ok_or(refused)?;
        if !gpa.0.is_multiple_of(u64::from(width)) {
            return Err(refused);
        }
        // SAFETY: 1. aligned as just checked (the window is page-aligned), and mapped (`new`, 1.). 2. `new`, 3.
        unsafe { copy::compare_exchange(target, exchange, expected, new) }
            .map_err(|_| MemoryError::Withdrawn(gpa))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec;
    use stockade_boot::layout::MINIMUM_RAM;

    /// Returns guest RAM of the least size in ordinary memory, with a page of staging that counts up.
    pub(crate) fn ram() -> GuestRam {
        let map = RamMap::of_size(MINIMUM_RAM).unwrap();
        let mut states = PageStates::default();
        states.accept(0, MINIMUM_RAM).unwrap();
        ram_of(map, states)
    }

    fn ram_of(map: RamMap, states: PageStates) -> GuestRam {
        let len = usize::try_from(MINIMUM_RAM).unwrap();
        let memory = Box::leak(vec![0_u64; len / 8].into_boxed_slice());
        let staging = Box::leak((0..=255_u8).cycle().take(4096).collect::<Box<[u8]>>());
        let window = memory.as_mut_ptr().expose_provenance() as u64;
        let staging = staging.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: 1.–3. the memory is leaked and its references end here; the tests stay in the first page of staging.
        unsafe { GuestRam::new(map, states, window, staging) }
    }

    #[test]
    fn reads_what_was_written_across_pages() {
        let ram = ram();
        ram.write(Gpa(0xFFD), b"across").unwrap();
        let mut back = [0; 6];
        ram.read(Gpa(0xFFD), &mut back).unwrap();
        assert_eq!(&back, b"across");
        assert_eq!(
            ram.read_u64(Gpa(0xFFB)),
            Ok(u64::from_le_bytes(*b"\0\0across"))
        );
        assert!(ram.read_u64(Gpa(MINIMUM_RAM - 7)).is_err());
    }

    #[test]
    fn refuses_ranges_that_leave_ram_before_a_byte_moves() {
        let ram = ram();
        let last = Gpa(MINIMUM_RAM - 1);
        assert_eq!(ram.write(last, &[1, 2]), Err(MemoryError::NotMemory(last)));
        let mut byte = [9];
        ram.read(last, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        assert!(ram.is_ram(last) && !ram.is_ram(Gpa(MINIMUM_RAM)));
        assert!(ram.read(Gpa(u64::MAX), &mut byte).is_err());
    }

    #[test]
    fn refuses_pages_that_were_never_accepted() {
        let mut states = PageStates::default();
        states.accept(0, 0x2000).unwrap();
        let ram = ram_of(*ram().map(), states);
        assert!(ram.is_ram(Gpa(0x1FFF)) && !ram.is_ram(Gpa(0x2000)));
    }

    #[test]
    fn exchange_needs_the_expected_value_and_its_alignment() {
        let ram = ram();
        assert_eq!(ram.compare_exchange(Gpa(8), 8, 0, 5), Ok(true));
        assert_eq!(ram.compare_exchange(Gpa(8), 8, 0, 6), Ok(false));
        assert_eq!(ram.compare_exchange(Gpa(8), 1, 5, 7), Ok(true));
        assert!(ram.compare_exchange(Gpa(9), 2, 0, 1).is_err());
        assert!(ram.compare_exchange(Gpa(8), 3, 0, 1).is_err());
    }

    #[test]
    fn staging_is_copied_into_the_guest_and_bounded() {
        let ram = ram();
        ram.copy_staging_to_guest(STAGING_BASE + 3, Gpa(0x1000), 8)
            .unwrap();
        let mut back = [0; 8];
        ram.read(Gpa(0x1000), &mut back).unwrap();
        assert_eq!(back, [3, 4, 5, 6, 7, 8, 9, 10]);
        ram.read_staging(STAGING_BASE + 1, &mut back[..2]).unwrap();
        assert_eq!(back[..2], [1, 2]);
        let mut byte = [0];
        assert!(ram.read_staging(STAGING_BASE - 1, &mut byte).is_err());
        assert!(
            ram.read_staging(STAGING_BASE + STAGING_SIZE, &mut byte)
                .is_err()
        );
        assert!(ram.read_staging(u64::MAX, &mut byte).is_err());
    }

    #[test]
    fn zeroing_stays_in_its_range() {
        let ram = ram();
        ram.write(Gpa(0x2000), &[0xFF; 32]).unwrap();
        ram.zero(Gpa(0x2008), 16).unwrap();
        let mut back = [0; 32];
        ram.read(Gpa(0x2000), &mut back).unwrap();
        assert!(back[8..24].iter().all(|byte| *byte == 0));
        assert!(back[..8].iter().chain(&back[24..]).all(|b| *b == 0xFF));
    }
}
