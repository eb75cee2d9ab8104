//! The books of a module's address space: what its program, heap, stack and mappings have taken, within the memory it may have.
//!
//! Every page is there from the moment it may be accessed, so a page fault is always the module's mistake.

use core::ops::Range;

use super::regions::{Regions, TooMany};
use super::space::{Access, OutOfMemory, PAGE, Space, USER_END, USER_START};

/// One past the stack. Above it nothing is ever mapped.
pub const STACK_TOP: u64 = 0x7F_FFFF_0000;
/// Bytes of the stack.
pub const STACK_BYTES: u64 = 256 << 10;
/// Bytes below the stack and around the heap that are never mapped.
const GUARD: u64 = 1 << 20;
/// Where mappings go: from the upper end down.
const MAPPINGS: Range<u64> = 0x20_0000_0000..STACK_TOP - STACK_BYTES - GUARD;
/// The most the heap grows.
const HEAP_BYTES: u64 = 1 << 30;
/// The most one call maps, reserves or changes: a call must end within a slice.
const MOST_BYTES: u64 = 64 << 20;

/// Why memory was not given or changed, as the number Linux has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No memory is left, or more than the module may have (ENOMEM).
    #[error("there is no memory for it")]
    NoMemory,
    /// The addresses are impossible (EINVAL).
    #[error("the addresses are impossible")]
    Invalid,
    /// Something is there already (EEXIST).
    #[error("something is there already")]
    Taken,
}

impl From<OutOfMemory> for MemoryError {
    fn from(_: OutOfMemory) -> Self {
        Self::NoMemory
    }
}

impl From<TooMany> for MemoryError {
    fn from(_: TooMany) -> Self {
        Self::NoMemory
    }
}

/// Where a mapping is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever there is room.
    Any,
    /// Here, instead of what is there.
    Instead(u64),
    /// Here, if nothing is there.
    Free(u64),
}

/// The books.
#[derive(Debug)]
pub struct Memory {
    regions: Regions,
    heap_start: u64,
    heap_end: u64,
    /// The most pages, those of the tables included.
    limit: usize,
}

impl Memory {
    /// Returns the books of an empty space of at most `limit` pages.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            regions: Regions::default(),
            heap_start: 0,
            heap_end: 0,
            limit,
        }
    }

    /// Takes and maps whole pages for a segment or the stack.
    pub fn place<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        range: Range<u64>,
        access: Access,
    ) -> Result<(), MemoryError> {
        check(&range)?;
        self.regions.take(range.clone())?;
        self.fill(space, range, access)
    }

    /// Puts the heap at `start`, empty.
    pub fn set_heap(&mut self, start: u64) {
        (self.heap_start, self.heap_end) = (start, start);
    }

    /// Moves the end of the heap, if it can be there, and returns where it is (`brk`).
    pub fn set_break<S: Space + ?Sized>(&mut self, space: &mut S, end: u64) -> u64 {
        let (old, new) = (
            self.heap_end.next_multiple_of(PAGE),
            end.checked_next_multiple_of(PAGE),
        );
        let Some(new) = new.filter(|new| {
            end >= self.heap_start
                && *new <= (self.heap_start + HEAP_BYTES).min(MAPPINGS.start - GUARD)
                && new.saturating_sub(old) <= MOST_BYTES
        }) else {
            return self.heap_end;
        };
        let moved = if new > old {
            self.grow_heap(space, old..new)
        } else {
            self.remove(space, new..old)
        };
        if moved.is_ok() {
            self.heap_end = end;
        }
        self.heap_end
    }

    fn grow_heap<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        range: Range<u64>,
    ) -> Result<(), MemoryError> {
        if !self.regions.is_free(&range) {
            return Err(MemoryError::Taken);
        }
        self.regions.take(range.clone())?;
        self.fill_or_remove(space, range, Access::Write)
    }

    /// Maps `bytes` of zeros and returns where (`mmap`).
    pub fn map<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        place: Place,
        bytes: u64,
        access: Access,
    ) -> Result<u64, MemoryError> {
        let bytes = whole_pages(bytes)?;
        let range = match place {
            Place::Any => self.free_range(bytes)?,
            Place::Instead(at) | Place::Free(at) => range_at(at, bytes)?,
        };
        match place {
            Place::Free(_) if !self.regions.is_free(&range) => return Err(MemoryError::Taken),
            Place::Instead(_) => self.remove(space, range.clone())?,
            _ => {}
        }
        self.regions.take(range.clone())?;
        let start = range.start;
        if access != Access::None {
            self.fill_or_remove(space, range, access)?;
        }
        Ok(start)
    }

    /// Gives addresses back, taken or not (`munmap`).
    pub fn unmap<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        address: u64,
        bytes: u64,
    ) -> Result<(), MemoryError> {
        let bytes = bytes.checked_next_multiple_of(PAGE);
        let range = range_at(address, bytes.ok_or(MemoryError::Invalid)?)?;
        self.remove(space, range)
    }

    /// Changes what may be done with pages the module has taken (`mprotect`).
    pub fn protect<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let range = range_at(address, whole_pages(bytes)?)?;
        if !self.regions.has(&range) {
            return Err(MemoryError::NoMemory);
        }
        self.fill(space, range, access)
    }

    /// Makes a mapping longer or shorter, elsewhere if `may_move` and need be; returns where it is then (`mremap`).
    pub fn resize<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        address: u64,
        old_bytes: u64,
        new_bytes: u64,
        may_move: MayMove,
    ) -> Result<u64, MemoryError> {
        let old = range_at(address, whole_pages(old_bytes)?)?;
        let new_bytes = whole_pages(new_bytes)?;
        if !self.regions.has(&old) {
            return Err(MemoryError::Invalid);
        }
        let end = address.checked_add(new_bytes).ok_or(MemoryError::Invalid)?;
        if end <= old.end {
            self.remove(space, end..old.end)?;
            return Ok(address);
        }
        let more = old.end..end;
        if check(&more).is_ok() && self.regions.is_free(&more) {
            self.regions.take(more.clone())?;
            self.fill_or_remove(space, more, Access::Write)?;
            return Ok(address);
        }
        if may_move == MayMove::No {
            return Err(MemoryError::NoMemory);
        }
        self.relocate(space, old, new_bytes)
    }

    fn relocate<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        old: Range<u64>,
        new_bytes: u64,
    ) -> Result<u64, MemoryError> {
        let new = self.free_range(new_bytes)?;
        let kept = old.end - old.start;
        self.regions.take(new.clone())?;
        self.fill_or_remove(space, new.start + kept..new.end, Access::Write)
            .inspect_err(|_| {
                let _ = self.regions.give_back(new.clone());
            })?;
        if let Err(moved) = self.shift(space, old.start, new.start, kept) {
            // The tables they came from are still there.
            let _ = self.shift(space, new.start, old.start, moved);
            self.remove(space, new)?;
            return Err(MemoryError::NoMemory);
        }
        self.regions.give_back(old)?;
        Ok(new.start)
    }

    /// Moves what is in `bytes` bytes; if there is no memory for tables, returns how many it came to.
    fn shift<S: Space + ?Sized>(
        &self,
        space: &mut S,
        from: u64,
        to: u64,
        bytes: u64,
    ) -> Result<(), u64> {
        for offset in (0..bytes).step_by(STEP) {
            let shifted = space.shift(from + offset, to + offset, self.limit);
            shifted.map_err(|_| offset)?;
        }
        Ok(())
    }

    fn free_range(&self, bytes: u64) -> Result<Range<u64>, MemoryError> {
        let found = self.regions.find(bytes, &MAPPINGS);
        found.ok_or(MemoryError::NoMemory)
    }

    fn fill<S: Space + ?Sized>(
        &self,
        space: &mut S,
        range: Range<u64>,
        access: Access,
    ) -> Result<(), MemoryError> {
        for page in range.step_by(STEP) {
            space.map(page, access, self.limit)?;
        }
        Ok(())
    }

    fn fill_or_remove<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        range: Range<u64>,
        access: Access,
    ) -> Result<(), MemoryError> {
        let filled = self.fill(space, range.clone(), access);
        if filled.is_err() {
            self.remove(space, range)?;
        }
        filled
    }

    fn remove<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        range: Range<u64>,
    ) -> Result<(), MemoryError> {
        self.regions.give_back(range.clone())?;
        space.unmap(range);
        Ok(())
    }
}

/// Whether a mapping may get another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayMove {
    /// It may.
    Yes,
    /// It may not.
    No,
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const STEP: usize = PAGE as usize;

fn whole_pages(bytes: u64) -> Result<u64, MemoryError> {
    match bytes.checked_next_multiple_of(PAGE) {
        Some(0) => Err(MemoryError::Invalid),
        Some(bytes) if bytes <= MOST_BYTES => Ok(bytes),
        _ => Err(MemoryError::NoMemory),
    }
}

fn range_at(address: u64, bytes: u64) -> Result<Range<u64>, MemoryError> {
    let end = address.checked_add(bytes).ok_or(MemoryError::Invalid)?;
    check(&(address..end))?;
    Ok(address..end)
}

fn check(range: &Range<u64>) -> Result<(), MemoryError> {
    let is_whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
    if is_whole && range.start >= USER_START && range.end <= USER_END && range.start <= range.end {
        Ok(())
    } else {
        Err(MemoryError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::fake::FakeSpace;

    fn fixture(limit: usize) -> (Memory, FakeSpace) {
        let mut memory = Memory::new(limit);
        memory.set_heap(0x50_0000);
        (memory, FakeSpace::default())
    }

    #[test]
    fn the_heap_grows_and_shrinks_by_pages() {
        let (mut memory, mut space) = fixture(100);
        assert_eq!(memory.set_break(&mut space, 0), 0x50_0000);
        assert_eq!(memory.set_break(&mut space, 0x50_1001), 0x50_1001);
        assert_eq!(space.pages(), 2);
        assert_eq!(memory.set_break(&mut space, 0x50_0001), 0x50_0001);
        assert_eq!(space.pages(), 1);
        assert_eq!(memory.set_break(&mut space, u64::MAX), 0x50_0001);
    }

    #[test]
    fn more_than_the_limit_is_refused_and_leaves_nothing() {
        let (mut memory, mut space) = fixture(4);
        let map = |memory: &mut Memory, space: &mut FakeSpace, bytes| {
            memory.map(space, Place::Any, bytes, Access::Write)
        };
        assert_eq!(
            map(&mut memory, &mut space, 0x5000),
            Err(MemoryError::NoMemory)
        );
        assert_eq!(space.pages(), 0);
        assert!(map(&mut memory, &mut space, 0x4000).is_ok());
        assert_eq!(memory.set_break(&mut space, 0x50_1000), 0x50_0000);
        let at = memory.map(&mut space, Place::Any, 0x1000, Access::None);
        let at = at.unwrap() + 0x1000;
        let changed = memory.protect(&mut space, at, 0x4000, Access::Read);
        assert_eq!(changed, Ok(()));
        assert_eq!(
            map(&mut memory, &mut space, u64::MAX),
            Err(MemoryError::NoMemory)
        );
    }

    #[test]
    fn addresses_outside_the_module_are_refused() {
        let (mut memory, mut space) = fixture(100);
        for at in [
            0,
            0xF000,
            1,
            USER_END,
            0x80_0000_0000,
            0xFFFF_8000_0000_0000,
        ] {
            let mapped = memory.map(&mut space, Place::Instead(at), 0x1000, Access::Write);
            assert_eq!(mapped, Err(MemoryError::Invalid), "{at:#x}");
            let unmapped = memory.unmap(&mut space, at, 0x1000);
            assert_eq!(unmapped, Err(MemoryError::Invalid), "{at:#x}");
        }
    }

    #[test]
    fn reserved_addresses_cost_no_memory_until_they_may_be_used() {
        let (mut memory, mut space) = fixture(2);
        let at = memory
            .map(&mut space, Place::Any, 60 << 20, Access::None)
            .unwrap();
        assert_eq!(space.pages(), 0);
        memory
            .protect(&mut space, at, 0x1000, Access::Write)
            .unwrap();
        assert_eq!(space.pages(), 1);
        let beyond = memory.protect(&mut space, at, 61 << 20, Access::Read);
        assert_eq!(beyond, Err(MemoryError::NoMemory));
    }

    #[test]
    fn a_mapping_grows_in_place_or_moves_with_its_content() {
        let (mut memory, mut space) = fixture(100);
        let low = memory
            .map(
                &mut space,
                Place::Free(0x30_0000_0000),
                0x1000,
                Access::Write,
            )
            .unwrap();
        space.write(low, b"kept").unwrap();
        let grown = memory.resize(&mut space, low, 0x1000, 0x3000, MayMove::No);
        assert_eq!(grown, Ok(low));
        let wall = Place::Free(low + 0x3000);
        memory.map(&mut space, wall, 0x1000, Access::Write).unwrap();
        let stuck = memory.resize(&mut space, low, 0x3000, 0x4000, MayMove::No);
        assert_eq!(stuck, Err(MemoryError::NoMemory));
        let moved = memory
            .resize(&mut space, low, 0x3000, 0x4000, MayMove::Yes)
            .unwrap();
        let mut bytes = [0; 4];
        space.read(moved, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
        assert!(space.read(low, &mut bytes).is_err());
        assert_eq!(space.pages(), 5);
    }

    /// A program that is told there is no memory goes on with what it had.
    #[test]
    fn a_move_without_memory_for_tables_leaves_all_as_it_was() {
        let (mut memory, mut space) = fixture(100);
        let [_, at] =
            [0x1000, 0x3000].map(|bytes| memory.map(&mut space, Place::Any, bytes, Access::Write));
        let (at, new) = (at.unwrap(), at.unwrap() - 0x4000);
        let content = *b"abc";
        for (index, byte) in (0..).zip(content) {
            space.write(at + index * PAGE, &[byte]).unwrap();
        }
        space.wall = Some(new + 0x2000);
        let moved = memory.resize(&mut space, at, 0x3000, 0x4000, MayMove::Yes);
        assert_eq!((moved, space.pages()), (Err(MemoryError::NoMemory), 4));
        for (index, byte) in (0..).zip(content) {
            let mut found = [0];
            space.read(at + index * PAGE, &mut found).unwrap();
            assert_eq!(found, [byte]);
        }
        space.wall = None;
        let moved = memory.resize(&mut space, at, 0x3000, 0x4000, MayMove::Yes);
        assert_eq!((moved, space.pages()), (Ok(new), 5));
    }

    #[test]
    fn mapping_where_something_is_replaces_it_or_is_refused() {
        let (mut memory, mut space) = fixture(100);
        let at = 0x30_0000_0000;
        memory
            .map(&mut space, Place::Free(at), 0x2000, Access::Write)
            .unwrap();
        space.write(at, b"old").unwrap();
        let again = memory.map(&mut space, Place::Free(at), 0x1000, Access::Write);
        assert_eq!(again, Err(MemoryError::Taken));
        memory
            .map(&mut space, Place::Instead(at), 0x1000, Access::Write)
            .unwrap();
        let mut bytes = [9; 3];
        space.read(at, &mut bytes).unwrap();
        assert_eq!((bytes, space.pages()), ([0; 3], 2));
    }

    /// What runs over the lower end of the stack must find nothing there, and what runs over a mapping no stack.
    #[test]
    fn nothing_that_may_go_anywhere_comes_near_the_stack_or_the_heap() {
        let (mut memory, mut space) = fixture(100);
        let stack = STACK_TOP - STACK_BYTES..STACK_TOP;
        memory
            .place(&mut space, stack.clone(), Access::Write)
            .unwrap();
        for bytes in [0x1000, 0x3000, MOST_BYTES] {
            let at = memory.map(&mut space, Place::Any, bytes, Access::None);
            let at = at.unwrap();
            assert!(at + bytes <= stack.start - GUARD, "{at:#x}");
        }
        // One that grows moves down, not up to the stack.
        let at = memory.map(&mut space, Place::Any, 0x1000, Access::Write);
        let grown = memory.resize(&mut space, at.unwrap(), 0x1000, 0x2000, MayMove::Yes);
        assert!(grown.unwrap() + 0x2000 <= stack.start - GUARD);
        // However much is mapped, the heap keeps its distance.
        let mut lowest = u64::MAX;
        while let Ok(at) = memory.map(&mut space, Place::Any, MOST_BYTES, Access::None) {
            lowest = at;
        }
        assert!(lowest < MAPPINGS.start + MOST_BYTES, "{lowest:#x}");
        memory.set_heap(MAPPINGS.start - GUARD);
        let end = memory.set_break(&mut space, MAPPINGS.start - GUARD + 1);
        assert_eq!(end, MAPPINGS.start - GUARD);
    }
}
