//! The Rust heap: one range of memory taken before anything else.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use spin::Mutex;

/// The program's allocator; empty until [`start`].
pub struct ModelHeap(Mutex<Heap>);

#[cfg_attr(all(feature = "image", not(test)), global_allocator)]
static HEAP: ModelHeap = ModelHeap(Mutex::new(Heap::empty()));

// SAFETY: a Heap gives out memory of the asked size and alignment that nobody else has, and the mutex makes it one at a time; no
// interrupt handler allocates.
unsafe impl GlobalAlloc for ModelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.0.lock().allocate_first_fit(layout) {
            Ok(memory) => memory.as_ptr(),
            Err(()) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller passes what `alloc` returned for this layout.
            unsafe { self.0.lock().deallocate(memory, layout) };
        }
    }
}

/// Returns how many bytes are free.
#[must_use]
pub fn free_bytes() -> usize {
    HEAP.0.lock().free()
}

/// Gives the heap its memory.
///
/// # Safety
///
/// 1. The bytes are memory nobody uses, now or later.
/// 2. It is called once.
pub(super) unsafe fn start(memory: *mut u8, bytes: usize) {
    // SAFETY: (1) and (2).
    unsafe { HEAP.0.lock().init(memory, bytes) };
}
