//! Physical memory by the page and by the 2 MiB chunk.
//!
//! Free frames are linked through their own first words: one list of chunks, one of pages. A chunk is split when the pages run out;
//! pages are not joined again, for the model allocates guest memory once.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::memory::{CHUNK_BYTES, HostPa, PAGE_BYTES, zero};

static FRAMES: Mutex<Frames> = Mutex::new(Frames {
    pages: List::EMPTY,
    chunks: List::EMPTY,
});

/// Returns a zeroed page, or `None` when memory is exhausted.
#[must_use]
pub fn allocate_page() -> Option<HostPa> {
    let page = FRAMES.lock().take_page()?;
    // SAFETY: the page was free, so it is memory nobody refers to.
    unsafe { zero(page, PAGE_BYTES) };
    Some(page)
}

/// Returns a zeroed chunk of 2 MiB, aligned to its size, or `None` when there is none left.
#[must_use]
pub fn allocate_chunk() -> Option<HostPa> {
    let chunk = FRAMES.lock().chunks.pop()?;
    // SAFETY: the chunk was free, so it is memory nobody refers to.
    unsafe { zero(chunk, CHUNK_BYTES) };
    Some(chunk)
}

/// Gives a page back.
///
/// # Safety
///
/// 1. It came from [`allocate_page`], and nobody refers to it any more, neither Rust nor hardware.
pub unsafe fn free_page(page: HostPa) {
    // SAFETY: (1) the page is ours to link.
    unsafe { FRAMES.lock().pages.push(page) };
}

/// Gives a chunk back.
///
/// # Safety
///
/// 1. It came from [`allocate_chunk`], and nobody refers to it any more, neither Rust nor hardware.
pub unsafe fn free_chunk(chunk: HostPa) {
    // SAFETY: (1) the chunk is ours to link.
    unsafe { FRAMES.lock().chunks.push(chunk) };
}

/// One past the highest address ever added.
static END: AtomicU64 = AtomicU64::new(0);

/// Returns one past the highest address of memory that was ever free.
#[must_use]
pub fn end() -> u64 {
    END.load(Ordering::Relaxed)
}

/// One past the highest address below 4 GiB ever added.
static LOW_END: AtomicU64 = AtomicU64::new(0);
const FOUR_GIB: u64 = 1 << 32;

/// Returns one past the highest address of memory below 4 GiB that was ever free.
#[must_use]
pub fn low_end() -> u64 {
    LOW_END.load(Ordering::Relaxed)
}

/// Returns how many bytes are free.
#[must_use]
pub fn free_bytes() -> u64 {
    let frames = FRAMES.lock();
    frames.pages.length * PAGE_BYTES + frames.chunks.length * CHUNK_BYTES
}

/// Adds memory to allocate from.
///
/// # Safety
///
/// 1. The range is memory, mapped one to one, that nobody uses.
pub(super) unsafe fn add(range: Range<u64>) {
    END.fetch_max(range.end, Ordering::Relaxed);
    if range.end <= FOUR_GIB {
        LOW_END.fetch_max(range.end, Ordering::Relaxed);
    }
    // SAFETY: (1).
    unsafe { FRAMES.lock().add(range) };
}

struct Frames {
    pages: List,
    chunks: List,
}

impl Frames {
    /// # Safety
    ///
    /// 1. As [`add`].
    unsafe fn add(&mut self, range: Range<u64>) {
        let end = range.end & !(PAGE_BYTES - 1);
        let mut next = range.start.next_multiple_of(PAGE_BYTES);
        while next < end {
            let address = HostPa::new(next);
            if address.is_aligned(CHUNK_BYTES) && end - next >= CHUNK_BYTES {
                // SAFETY: (1) the chunk is unused memory.
                unsafe { self.chunks.push(address) };
                next += CHUNK_BYTES;
            } else {
                // SAFETY: (1) the page is unused memory.
                unsafe { self.pages.push(address) };
                next += PAGE_BYTES;
            }
        }
    }

    fn take_page(&mut self) -> Option<HostPa> {
        if let Some(page) = self.pages.pop() {
            return Some(page);
        }
        let chunk = self.chunks.pop()?.as_u64();
        for page in (1..CHUNK_BYTES / PAGE_BYTES).rev() {
            // SAFETY: the chunk was free, so its pages are.
            unsafe { self.pages.push(HostPa::new(chunk + page * PAGE_BYTES)) };
        }
        Some(HostPa::new(chunk))
    }
}

/// A stack of free frames, each holding the address of the next; 0 ends it, for page 0 is never given out.
struct List {
    head: u64,
    length: u64,
}

impl List {
    const EMPTY: Self = Self { head: 0, length: 0 };

    /// # Safety
    ///
    /// 1. The frame is memory nobody uses.
    unsafe fn push(&mut self, frame: HostPa) {
        // SAFETY: (1) its first word is free to hold the link.
        unsafe { frame.as_ptr::<u64>().write(self.head) };
        self.head = frame.as_u64();
        self.length += 1;
    }

    fn pop(&mut self) -> Option<HostPa> {
        if self.head == 0 {
            return None;
        }
        let frame = HostPa::new(self.head);
        // SAFETY: a frame on the list is unused memory whose first word `push` wrote.
        self.head = unsafe { frame.as_ptr::<u64>().read() };
        self.length -= 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc};

    #[test]
    fn a_range_becomes_chunks_and_pages_and_each_is_given_once() {
        let layout = Layout::from_size_align(3 << 21, 1 << 21).unwrap();
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) }.expose_provenance() as u64;
        let mut frames = Frames {
            pages: List::EMPTY,
            chunks: List::EMPTY,
        };
        // SAFETY: allocated just now, and never freed.
        unsafe { frames.add(start + 1..start + (3 << 21) - 1) };
        assert_eq!((frames.pages.length, frames.chunks.length), (511 + 511, 1));
        let mut given = Vec::new();
        while let Some(page) = frames.take_page() {
            assert!(page.is_aligned(PAGE_BYTES));
            given.push(page);
        }
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 511 + 511 + 512);
        assert!(given.iter().all(|page| page.as_u64() > start && page.as_u64() < start + (3 << 21) - PAGE_BYTES));
        assert_eq!(frames.chunks.pop(), None);
    }
}
