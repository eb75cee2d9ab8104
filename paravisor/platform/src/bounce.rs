//! The memory devices' data is bounced through: shared from the launch on, cut once into a region a device.
//!
//! Nothing in Rust refers into it; all accesses are copies by instructions with a fix-up, or atomic words. A page the host takes away
//! reads as zeros.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use stockade_bus::{Gpa, MemoryError};
use stockade_entry::copy;

use crate::memory::GuestRam;

const PAGE: usize = 4096;

/// A range of shared memory. It has one owner, who may cut it into pieces.
#[derive(Debug)]
pub struct SharedRegion {
    start: NonNull<u8>,
    len: usize,
    gpa: u64,
}

// SAFETY: the memory is reached by copies and atomic words, and anybody may change it anyway.
unsafe impl Send for SharedRegion {}
// SAFETY: as above; who shares a region orders his accesses himself.
unsafe impl Sync for SharedRegion {}

impl SharedRegion {
    /// Returns the region of `len` bytes at `start`, which the host knows as `gpa`.
    ///
    /// # Safety
    /// 1. The bytes are mapped and writable, for ever, with a fix-up handler in place for pages that are not there; `start` is aligned to
    ///    a page.
    /// 2. No Rust reference into them exists or will, and no other region has them.
    pub unsafe fn new(start: NonNull<u8>, len: usize, gpa: u64) -> Self {
        Self { start, len, gpa }
    }

    /// Returns how many bytes there are.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Returns the guest-physical address of the byte at `offset`.
    #[must_use]
    pub fn gpa(&self, offset: usize) -> u64 {
        self.gpa.wrapping_add(offset as u64)
    }

    /// Cuts the first `len` bytes off, rounded down to pages, and zeroes them. `None` if there are not so many.
    pub fn split_off(&mut self, len: usize) -> Option<Self> {
        let len = len & !(PAGE - 1);
        if len == 0 || len > self.len {
            return None;
        }
        let piece = Self { len, ..*self };
        self.start = NonNull::new(self.start.as_ptr().wrapping_add(len))?;
        self.len -= len;
        self.gpa = self.gpa.wrapping_add(len as u64);
        piece.zero(0, len);
        Some(piece)
    }

    /// Copies `bytes` in. A range that is not wholly inside is not touched.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let Some(target) = self.range(offset, bytes.len()) else {
            return;
        };
        // SAFETY: 1. `bytes` is a slice. 2. `range` checked the target; nothing refers into it (`new`, 2.). 3. No Rust object lies in
        // shared memory. A page the host took away keeps what it has.
        let _ = unsafe { copy::copy(target, bytes.as_ptr(), bytes.len()) };
    }

    /// Copies out to `bytes`. What is not inside, or not there, reads as zeros.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let is_read = self.range(offset, bytes.len()).is_some_and(|source| {
            // SAFETY: 1. `range` checked the source. 2. `bytes` is ours. 3. No Rust object lies in shared memory.
            unsafe { copy::copy(bytes.as_mut_ptr(), source, bytes.len()) }.is_ok()
        });
        if !is_read {
            bytes.fill(0);
        }
    }

    /// Fills a range with zeros.
    pub fn zero(&self, offset: usize, len: usize) {
        if let Some(target) = self.range(offset, len) {
            // SAFETY: 1. `range` checked the target. 2. Nothing refers into it.
            let _ = unsafe { copy::zero(target, len) };
        }
    }

    /// Reads the aligned word at `offset`, before all that is read after.
    #[must_use]
    pub fn load(&self, offset: usize) -> u16 {
        self.word(offset)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes the aligned word at `offset`, after all that was written before, and before all that is read after.
    pub fn store(&self, offset: usize, value: u16) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// Copies `len` bytes of guest memory in, each read once.
    pub fn copy_from_guest(
        &self,
        offset: usize,
        ram: &GuestRam,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        let (source, len) = ram.locate(gpa, len as u64)?;
        let Some(target) = self.range(offset, len) else {
            return Ok(());
        };
        // SAFETY: 1. `locate` checked the source. 2. `range` checked the target. 3. Guest RAM and shared memory are apart.
        unsafe { copy::copy(target, source, len) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    /// Copies `len` bytes out to guest memory, each read once.
    pub fn copy_to_guest(
        &self,
        offset: usize,
        ram: &GuestRam,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        let (target, len) = ram.locate(gpa, len as u64)?;
        let Some(source) = self.range(offset, len) else {
            return Ok(());
        };
        // SAFETY: 1.–3. as for the other direction; nothing in Rust refers into guest RAM.
        unsafe { copy::copy(target, source, len) }.map_err(|_| MemoryError::Withdrawn(gpa))
    }

    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| self.start.as_ptr().wrapping_add(offset))
    }

    fn word(&self, offset: usize) -> Option<&AtomicU16> {
        let pointer = self.range(offset, size_of::<u16>())?.cast::<u16>();
        if !pointer.is_aligned() {
            return None;
        }
        // SAFETY: in bounds and aligned as just checked; mapped for ever (`new`, 1.), and reached by atomic operations and copies that
        // the adversary may race anyway.
        Some(unsafe { AtomicU16::from_ptr(pointer) })
    }
}

#[cfg(test)]
mod tests {
    use super::SharedRegion;
    use crate::memory::tests::ram;
    use core::ptr::NonNull;
    use std::boxed::Box;
    use std::vec::Vec;
    use stockade_boot::layout::MINIMUM_RAM;
    use stockade_bus::{Gpa, GuestMemory as _, MemoryError};

    #[repr(align(4096))]
    struct Pages([u8; 3 * 4096]);

    fn region() -> SharedRegion {
        let pages = Box::leak(Box::new(Pages([0xAA; 3 * 4096])));
        let start = NonNull::from(&mut pages.0).cast();
        // SAFETY: the pages are leaked, and their only reference ends here.
        unsafe { SharedRegion::new(start, 3 * 4096, 0x80_7C00_0000) }
    }

    #[test]
    fn pieces_are_zero_apart_and_in_order() {
        let mut rest = region();
        let first = rest.split_off(4096 + 17).unwrap();
        let second = rest.split_off(8192).unwrap();
        assert_eq!((first.len_bytes(), first.gpa(0)), (4096, 0x80_7C00_0000));
        assert_eq!((second.len_bytes(), second.gpa(5)), (8192, 0x80_7C00_1005));
        assert!(rest.split_off(4096).is_none() && rest.split_off(0).is_none());
        second.write(0, &[1; 8]);
        let mut bytes = [9; 8];
        first.read(4088, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }

    #[test]
    fn ranges_over_the_end_are_not_touched() {
        let region = region();
        region.write(3 * 4096 - 1, &[1, 2]);
        let mut last = [0; 1];
        region.read(3 * 4096 - 1, &mut last);
        assert_eq!(last, [0xAA]);
        let mut over = [7; 2];
        region.read(3 * 4096 - 1, &mut over);
        assert_eq!(over, [0, 0]);
        region.zero(usize::MAX, 2);
        region.store(3 * 4096 - 1, 5);
        assert_eq!(region.load(3 * 4096), 0);
    }

    #[test]
    fn words_are_little_endian_and_aligned() {
        let region = region();
        region.store(6, 0x1234);
        let mut bytes = [0; 2];
        region.read(6, &mut bytes);
        assert_eq!(bytes, [0x34, 0x12]);
        assert_eq!((region.load(6), region.load(7)), (0x1234, 0));
    }

    /// Straight from one memory to the other: neither is taken into a buffer of ours in between.
    #[test]
    fn guest_memory_goes_in_and_comes_out_as_it_was() {
        let (region, ram) = (region(), ram());
        let content: Vec<u8> = (0..=250).cycle().take(9000).collect();
        ram.write(Gpa(0xFF3), &content).unwrap();
        region.copy_from_guest(5, &ram, Gpa(0xFF3), 9000).unwrap();
        let mut bytes = [0; 9002];
        region.read(4, &mut bytes);
        assert!(bytes[0] == 0xAA && bytes[9001] == 0xAA);
        assert!(bytes[1..9001] == content);
        region.copy_to_guest(5, &ram, Gpa(0x8001), 9000).unwrap();
        ram.read(Gpa(0x8000), &mut bytes).unwrap();
        assert!(bytes[0] == 0 && bytes[9001] == 0);
        assert!(bytes[1..9001] == content);
    }

    #[test]
    fn what_is_not_wholly_in_both_memories_is_not_copied() {
        let (region, ram) = (region(), ram());
        let last = Gpa(MINIMUM_RAM - 1);
        let nowhere = Err(MemoryError::NotMemory(last));
        assert_eq!(region.copy_from_guest(0, &ram, last, 2), nowhere);
        assert_eq!(region.copy_to_guest(0, &ram, last, 2), nowhere);
        // A range of the region is what we chose ourselves: it goes nowhere, and nobody's memory changes.
        for (offset, len) in [(3 * 4096 - 1, 2), (usize::MAX, 2)] {
            assert_eq!(region.copy_from_guest(offset, &ram, Gpa(0), len), Ok(()));
            assert_eq!(region.copy_to_guest(offset, &ram, Gpa(0), len), Ok(()));
        }
        let mut bytes = [0; 3 * 4096];
        region.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0xAA));
        assert_eq!(ram.read_u64(Gpa(0)), Ok(0));
    }
}
