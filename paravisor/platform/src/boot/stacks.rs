//! Stacks, each over a page that is never mapped.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use stockade_boot::layout::{PAGE_SIZE, paravisor};

use super::space::AddressSpace;
use crate::paging::OutOfPages;

const MAX_STACKS: usize = 128;

/// Start and end of each stack, for backtraces.
static KNOWN: [[AtomicU64; 2]; MAX_STACKS] =
    [const { [AtomicU64::new(0), AtomicU64::new(0)] }; MAX_STACKS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Returns the top of a new stack of `pages` pages over a guard page.
pub(super) fn allocate(space: &mut AddressSpace, pages: u64) -> Result<u64, OutOfPages> {
    let guard = space.pages().allocate(pages + 1)?;
    space.unmap(guard);
    let stack = guard + PAGE_SIZE..guard + (pages + 1) * PAGE_SIZE;
    let index = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some([start, end]) = KNOWN.get(index) {
        start.store(stack.start, Ordering::Relaxed);
        end.store(stack.end, Ordering::Relaxed);
    }
    Ok(stack.end)
}

/// Returns the words of the stack that `stack_pointer` lies in, from there up; none if it lies in no stack.
pub(crate) fn words_above(stack_pointer: u64) -> impl Iterator<Item = u64> {
    let start = stack_pointer.next_multiple_of(8);
    let end = known().find(|stack| stack.contains(&start));
    (start..end.map_or(start, |stack| stack.end))
        .step_by(8)
        .filter_map(|address| usize::try_from(address).ok())
        .map(|address| {
            let word = ptr::with_exposed_provenance::<u64>(address);
            // SAFETY: the word lies in a stack, which is mapped; a stack holds plain words to whoever prints it.
            unsafe { word.read_volatile() }
        })
}

fn known() -> impl Iterator<Item = Range<u64>> {
    let boot = paravisor::STACK_BASE..paravisor::STACK_TOP;
    let others = KNOWN
        .iter()
        .map(|[start, end]| start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed));
    core::iter::once(boot).chain(others)
}
