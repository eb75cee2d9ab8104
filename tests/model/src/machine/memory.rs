//! Physical addresses of this machine and memory owned by the page.
//!
//! All memory is mapped one to one, so a [`HostPa`] is a pointer once someone vouches for it. [`PageBox`] owns a page that hardware or
//! a guest is told about by address. Guest memory is touched through [`read`], [`write()`] and [`zero`], which copy: no reference
//! into memory a running guest can change.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use zerocopy::FromZeros;

use super::frames;

/// Bytes of a small page.
pub const PAGE_BYTES: u64 = 0x1000;
/// Bytes of a large page, and of a chunk of guest memory.
pub const CHUNK_BYTES: u64 = 0x20_0000;

/// A physical address of the machine the model runs on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct HostPa(u64);

impl HostPa {
    /// Names the address.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// Returns the address of something of the model's own.
    #[must_use]
    pub fn of<T: ?Sized>(object: &T) -> Self {
        Self(core::ptr::from_ref(object).cast::<u8>().addr() as u64)
    }

    /// Returns the number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the address `bytes` further on.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `bytes`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0 & (bytes - 1) == 0
    }

    /// Returns the pointer; whoever uses it vouches for it.
    #[must_use]
    pub fn as_ptr<T>(self) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.as_usize())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the model is a 64-bit program"
    )]
    const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for HostPa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pa {:#x}", self.0)
    }
}

/// A page that holds a `T` and whose address hardware may be told.
pub struct PageBox<T> {
    page: NonNull<T>,
}

// SAFETY: a PageBox owns its T alone, as a Box does.
unsafe impl<T: Send> Send for PageBox<T> {}
// SAFETY: a shared PageBox gives out only shared references to its T.
unsafe impl<T: Sync> Sync for PageBox<T> {}

impl<T: FromZeros> PageBox<T> {
    /// Returns a zeroed page, or `None` when memory is exhausted.
    #[must_use]
    pub fn try_new_zeroed() -> Option<Self> {
        const { assert!(size_of::<T>() <= 0x1000 && align_of::<T>() <= 0x1000) };
        let page = NonNull::new(frames::allocate_page()?.as_ptr())?;
        Some(Self { page })
    }
}

impl<T> PageBox<T> {
    /// Returns where the page lies.
    #[must_use]
    pub fn address(&self) -> HostPa {
        HostPa(self.page.addr().get() as u64)
    }
}

impl<T> Deref for PageBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the page is ours alone, and all zeroes or what was written through `deref_mut` is a T.
        unsafe { self.page.as_ref() }
    }
}

impl<T> DerefMut for PageBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { self.page.as_mut() }
    }
}

impl<T> Drop for PageBox<T> {
    fn drop(&mut self) {
        // SAFETY: the page came from `allocate_page` and nobody else has it.
        unsafe { frames::free_page(self.address()) };
    }
}

/// Copies memory into `buffer`.
///
/// # Safety
///
/// 1. The bytes from `from` on are memory, and no Rust object anyone holds a unique reference to.
pub unsafe fn read(from: HostPa, buffer: &mut [u8]) {
    // SAFETY: (1) the source is readable; the destination is a slice of its own.
    unsafe {
        core::ptr::copy_nonoverlapping(
            from.as_ptr::<u8>().cast_const(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
}

/// Copies `bytes` into memory.
///
/// # Safety
///
/// 1. The bytes from `to` on are memory, and no Rust object anyone holds a reference to.
pub unsafe fn write(to: HostPa, bytes: &[u8]) {
    // SAFETY: (1) the destination is writable and aliases no reference.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr::<u8>(), bytes.len()) };
}

/// Zeroes `bytes` bytes of memory.
///
/// # Safety
///
/// 1. As for [`write()`].
pub unsafe fn zero(to: HostPa, bytes: u64) {
    // SAFETY: (1) as in `write`.
    unsafe { core::ptr::write_bytes(to.as_ptr::<u8>(), 0, HostPa(bytes).as_usize()) };
}
