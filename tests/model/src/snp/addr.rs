//! The two kinds of address the model never mixes: [`Gpa`], what a guest says, and [`Phys`], where the bytes lie.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 0x1000;
/// Bytes in a large page.
pub const LARGE_PAGE_SIZE: u64 = 0x20_0000;
/// Small pages in a large page.
pub const PAGES_PER_LARGE: usize = 512;

/// The position of the C-bit in a guest's page tables, as on all SNP parts so far.
pub const C_BIT_POSITION: u32 = 51;
/// The C-bit.
pub const C_BIT: u64 = 1 << C_BIT_POSITION;

/// A guest-physical address, without the C-bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Gpa(u64);

impl Gpa {
    /// The address `value`; a C-bit in it is dropped.
    pub const fn new(value: u64) -> Self {
        Self(value & !C_BIT)
    }

    /// The address as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on; `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The address of the small page it lies in.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// The address of the large page it lies in.
    pub const fn large_page(self) -> Self {
        Self(self.0 & !(LARGE_PAGE_SIZE - 1))
    }

    /// Its offset within the small page.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

/// The address of memory that the model owns for good: guest memory, nested page tables, VMCBs.
///
/// The model runs with physical memory mapped one to one, so this is a pointer too. In unit tests it is the address of
/// memory the test process leaked. Nothing a guest or the host side of a request says ever becomes one: only
/// [`GpaMap`](super::gpa_map::GpaMap) and the frame allocator make them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Phys(u64);

impl Phys {
    /// The address `value`.
    ///
    /// # Safety
    /// 1. The whole small page around `value` is mapped at that same virtual address and stays so for good.
    /// 2. No Rust reference to those bytes exists, now or later, other than to atomics.
    pub const unsafe fn new(value: u64) -> Self {
        Self(value)
    }

    /// The address as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address of the small page it lies in.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// The same page, `offset` bytes (taken modulo the page) into it.
    pub const fn in_page(self, offset: u64) -> Self {
        Self(self.page().0 | (offset & (PAGE_SIZE - 1)))
    }

    /// Its offset within the small page.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// The address `bytes` further on, within one block of memory.
    ///
    /// # Safety
    /// The block that made `self` reaches beyond `self + bytes`.
    pub const unsafe fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// A raw pointer to the byte.
    pub const fn as_ptr(self) -> *mut u8 {
        self.0 as *mut u8
    }

    fn word(self) -> &'static AtomicU64 {
        // SAFETY: the page is mapped for good (`new`, 1) and referred to by atomics only (2); masking aligns.
        unsafe { AtomicU64::from_ptr((self.0 & !7) as *mut u64) }
    }

    /// The aligned 64-bit word at this address (low three bits ignored), as an atomic: both sides may write it.
    pub fn atomic(self) -> &'static AtomicU64 {
        self.word()
    }

    /// Reads the aligned 64-bit word at this address.
    pub fn read_u64(self) -> u64 {
        self.word().load(Ordering::Relaxed)
    }

    /// Writes the aligned 64-bit word at this address.
    pub fn write_u64(self, value: u64) {
        self.word().store(value, Ordering::Relaxed);
    }

    /// Copies bytes out of this page; what would lie beyond it is left alone. Returns how many were copied.
    pub fn read_bytes(self, bytes: &mut [u8]) -> usize {
        let count = self.room(bytes.len());
        // SAFETY: `room` keeps the source within the page, which is mapped (`new`, 1). A racing guest write can only
        // change what the copy holds: the bytes have no invalid values.
        unsafe { core::ptr::copy_nonoverlapping(self.as_ptr(), bytes.as_mut_ptr(), count) };
        count
    }

    /// Copies bytes into this page; what would lie beyond it is dropped. Returns how many were copied.
    pub fn write_bytes(self, bytes: &[u8]) -> usize {
        let count = self.room(bytes.len());
        // SAFETY: as in `read_bytes`, the other way.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_ptr(), count) };
        count
    }

    /// Fills the page around this address with zeros.
    pub fn zero_page(self) {
        // SAFETY: the page is mapped and ours (`new`, 1 and 2).
        unsafe { core::ptr::write_bytes(self.page().as_ptr().cast::<u64>(), 0, PAGES_PER_LARGE) };
    }

    fn room(self, wanted: usize) -> usize {
        let room = PAGE_SIZE - self.page_offset();
        usize::try_from(room).map_or(0, |room| room.min(wanted))
    }
}

/// Where zeroed small pages come from: the model's allocator, or the heap of a test.
pub trait FrameSource {
    /// A zeroed page, aligned to its size, owned by the caller for good.
    fn frame(&mut self) -> Option<Phys>;
    /// A zeroed block of 2 MiB, aligned to its size.
    fn large_frame(&mut self) -> Option<Phys>;
}

#[cfg(test)]
pub(crate) mod fake {
    use super::{FrameSource, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
    use std::alloc::{Layout, alloc_zeroed};

    /// Frames of one leaked arena: small pages from its start, large ones from its end.
    pub(crate) struct HeapFrames {
        pub(crate) base: u64,
        pub(crate) size: u64,
        low: u64,
        high: u64,
    }

    impl HeapFrames {
        pub(crate) fn new(size: u64) -> Self {
            let layout = Layout::from_size_align(
                usize::try_from(size).unwrap(),
                usize::try_from(LARGE_PAGE_SIZE).unwrap(),
            )
            .unwrap();
            // SAFETY: the layout has a size.
            let base = unsafe { alloc_zeroed(layout) } as u64;
            assert_ne!(base, 0);
            Self {
                base,
                size,
                low: base,
                high: base + size,
            }
        }
    }

    impl FrameSource for HeapFrames {
        fn frame(&mut self) -> Option<Phys> {
            let at = self.low;
            self.low += PAGE_SIZE;
            // SAFETY: leaked for good, no reference is made.
            (self.low <= self.high).then(|| unsafe { Phys::new(at) })
        }
        fn large_frame(&mut self) -> Option<Phys> {
            self.high -= LARGE_PAGE_SIZE;
            // SAFETY: leaked for good, no reference is made.
            (self.low <= self.high).then(|| unsafe { Phys::new(self.high) })
        }
    }
}
