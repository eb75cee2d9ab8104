//! One page the host sees: copied in, copied out, never referenced.

use core::ptr::NonNull;

use stockade_entry::copy;

/// Bytes in a shared page.
pub const SHARED_PAGE_SIZE: usize = 4096;

/// A shared page. Whatever is read from it, the host may have written; reading twice may give two answers.
///
/// Copies of the handle are the same page; nothing in Rust refers into it.
#[derive(Clone, Copy, Debug)]
pub struct SharedPage {
    start: NonNull<u8>,
}

// SAFETY: the page is reached by single instructions on memory that anybody may change anyway.
unsafe impl Send for SharedPage {}
// SAFETY: as above; callers that need a protocol order their accesses by a call to the host.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Returns the handle of the page at `start`.
    ///
    /// # Safety
    /// 1. `start` is the first byte of 4096 mapped, writable bytes, for ever, aligned to a page.
    /// 2. No Rust reference into them exists or will.
    pub unsafe fn new(start: NonNull<u8>) -> Self {
        Self { start }
    }

    /// Returns where the page is mapped.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// Returns a pointer to the field at `offset`.
    ///
    /// # Panics
    /// If the field is not wholly in the page: an offset is a constant of ours.
    pub(crate) fn field<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset <= SHARED_PAGE_SIZE - size_of::<T>() && offset.is_multiple_of(align_of::<T>())
        );
        self.start.as_ptr().wrapping_add(offset).cast()
    }

    /// Reads the quadword at `offset`.
    #[must_use]
    pub fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: `field` checks bounds and alignment; the page is mapped (`new`, 1.). Any bytes are a `u64`.
        unsafe { self.field::<u64>(offset).read_volatile() }
    }

    /// Writes the quadword at `offset`.
    pub fn write_u64(&self, offset: usize, value: u64) {
        // SAFETY: as for reading; no reference covers it (`new`, 2.).
        unsafe { self.field::<u64>(offset).write_volatile(value) }
    }

    /// Writes the word at `offset`.
    pub(crate) fn write_u16(&self, offset: usize, value: u16) {
        // SAFETY: as for a quadword.
        unsafe { self.field::<u16>(offset).write_volatile(value) }
    }

    /// Writes the doubleword at `offset`.
    pub(crate) fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: as for a quadword.
        unsafe { self.field::<u32>(offset).write_volatile(value) }
    }

    /// Copies from the page at `offset` into `target`; returns whether the range is in the page.
    pub fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        let Some(source) = self.range(offset, target.len()) else {
            return false;
        };
        // SAFETY: 1. `range` checked the bounds and the page is mapped. 2. `target` is ours alone. 3. A shared page holds no
        // Rust object, so they do not overlap.
        unsafe { copy::copy(target.as_mut_ptr(), source, target.len()) }.is_ok()
    }

    /// Copies `source` into the page at `offset`; returns whether the range is in the page.
    pub fn write(&self, offset: usize, source: &[u8]) -> bool {
        let Some(target) = self.range(offset, source.len()) else {
            return false;
        };
        // SAFETY: 1. `source` is a slice. 2. `range` checked the bounds, and no reference covers the page. 3. A shared page
        // holds no Rust object, so they do not overlap.
        unsafe { copy::copy(target, source.as_ptr(), source.len()) }.is_ok()
    }

    /// Fills the page with zeros.
    pub fn zero(&self) {
        // SAFETY: 1. the page is mapped and writable. 2. No reference covers it. A fault the host provokes leaves it as it is,
        // which it can do to any shared page.
        let _ = unsafe { copy::zero(self.start.as_ptr(), SHARED_PAGE_SIZE) };
    }

    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= SHARED_PAGE_SIZE).then(|| self.start.as_ptr().wrapping_add(offset))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::boxed::Box;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    /// Returns a page of ordinary memory in place of a shared one.
    pub(crate) fn page() -> SharedPage {
        let page = Box::leak(Box::new(Page([0; 4096])));
        // SAFETY: the page is leaked, whole and aligned, and its only reference ends here.
        unsafe { SharedPage::new(NonNull::from(&mut page.0).cast()) }
    }

    #[test]
    fn what_is_written_is_read() {
        let page = page();
        assert!(page.write(0x7FD, b"stock"));
        let mut back = [0; 5];
        assert!(page.read(0x7FD, &mut back));
        assert_eq!(&back, b"stock");
        page.write_u64(0xFF8, 7);
        assert_eq!(page.read_u64(0xFF8), 7);
        page.zero();
        assert_eq!(page.read_u64(0xFF8), 0);
    }

    #[test]
    fn ranges_over_the_end_are_refused() {
        let page = page();
        assert!(!page.write(4095, &[0; 2]));
        assert!(!page.read(usize::MAX, &mut [0; 2]));
        assert!(page.write(4096, &[]));
    }
}
