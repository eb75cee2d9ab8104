//! The paravisor's heap.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use spin::Mutex;
use stockade_abi::terminate::StopReason;

use crate::stop::refuse;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

struct LockedHeap(Mutex<Heap>);

// SAFETY: the inner heap hands out disjoint blocks of the layout asked for; the lock makes it one at a time. Interrupts are
// off and #HV does not allocate, so the lock is never taken twice on one processor.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.lock().allocate_first_fit(layout);
        let Ok(block) = block else {
            // Nobody can go on without: the collections of `alloc` would panic.
            refuse(
                StopReason::OUT_OF_MEMORY,
                &format_args!("no memory for {} bytes", layout.size()),
            )
        };
        block.as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller passes a block of ours with its layout.
            unsafe { self.0.lock().deallocate(block, layout) }
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// 1. The range is mapped, writable, and nothing else uses it, for ever.
/// 2. It is called once.
pub(super) unsafe fn init(range: Range<u64>) {
    let address = usize::try_from(range.start).expect("addresses are 64 bits");
    let bytes = usize::try_from(range.end - range.start).expect("sizes are 64 bits");
    let start = ptr::with_exposed_provenance_mut(address);
    // SAFETY: 1. and 2. are the caller's promise.
    unsafe { HEAP.0.lock().init(start, bytes) }
}

/// Gives the heap the memory that follows it.
///
/// # Safety
/// 1. As for [`init`]; the bytes are those after its range.
pub(super) unsafe fn extend(bytes: u64) {
    let bytes = usize::try_from(bytes).expect("sizes are 64 bits");
    // SAFETY: 1. is the caller's promise.
    unsafe { HEAP.0.lock().extend(bytes) }
}

/// Returns how many bytes of the heap are in use.
#[must_use]
pub fn used_bytes() -> usize {
    HEAP.0.lock().used()
}
