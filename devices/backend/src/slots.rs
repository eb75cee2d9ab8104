//! The slots requests are bounced through: 4 KiB pieces of a device's shared memory, each with one request or free.
//!
//! A slot that was used is zeroed before a device may write to it again, so that the next request finds nothing of the last one, whatever
//! the device writes. One that is filled by us needs no zeros first.
//! None free is no failure: the request waits where it is.

use alloc::vec;
use alloc::vec::Vec;

use crate::shared::SharedMemory;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;

/// A run of slots that lie side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    first: u16,
    count: u16,
}

impl Run {
    /// No slots.
    pub(crate) const EMPTY: Self = Self { first: 0, count: 0 };

    /// Returns the run of one slot.
    pub(crate) fn single(first: u16) -> Self {
        Self { first, count: 1 }
    }

    /// Makes the run one slot longer, if that is the next one.
    pub(crate) fn try_extend(&mut self, slot: u16) -> bool {
        let is_next = self.first.checked_add(self.count) == Some(slot);
        self.count += u16::from(is_next);
        is_next
    }

    /// Returns where the run begins in shared memory.
    #[must_use]
    pub fn offset(self) -> usize {
        usize::from(self.first) * SLOT_BYTES
    }

    /// Returns how many bytes it has.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        usize::from(self.count) * SLOT_BYTES
    }
}

/// Which slots are free.
#[derive(Debug)]
pub struct Slots {
    /// A bit a slot.
    free: Vec<u64>,
    /// A bit a slot: it may hold something.
    used: Vec<u64>,
    count: u16,
    free_count: u16,
}

impl Slots {
    /// Returns the slots of `memory` from the byte `reserved` on, all free. The memory is zero.
    #[must_use]
    pub fn new(memory: &impl SharedMemory, reserved: usize) -> Self {
        let count = u16::try_from(memory.len_bytes() / SLOT_BYTES).unwrap_or(u16::MAX);
        let first = u16::try_from(reserved.div_ceil(SLOT_BYTES)).unwrap_or(u16::MAX);
        let mut slots = Self {
            free: vec![0; usize::from(count).div_ceil(64)],
            used: vec![0; usize::from(count).div_ceil(64)],
            count,
            free_count: 0,
        };
        for slot in first..count {
            slots.mark(slot, true);
        }
        slots
    }

    /// Returns how many slots are free.
    #[must_use]
    pub fn free_count(&self) -> u16 {
        self.free_count
    }

    /// Takes up to `wanted` free slots that lie side by side: the first run long enough, or else the longest.
    pub fn take_run(&mut self, wanted: u16) -> Option<Run> {
        let mut best = Run::default();
        let mut current = Run::default();
        for slot in 0..self.count {
            if !self.is_free(slot) {
                current = Run::default();
                continue;
            }
            if current.count == 0 {
                current.first = slot;
            }
            current.count += 1;
            if current.count > best.count {
                best = current;
            }
            if best.count >= wanted {
                break;
            }
        }
        if best.count == 0 || wanted == 0 {
            return None;
        }
        for slot in best.first..best.first + best.count {
            self.mark(slot, false);
        }
        Some(best)
    }

    /// Gives a run back, of which the first `used` bytes were used.
    pub fn give_back(&mut self, run: Run, used: usize) {
        let slots = run.first..run.first.saturating_add(run.count);
        let last = used.div_ceil(SLOT_BYTES);
        for slot in slots.clone().take(last) {
            if let Some(word) = self.used.get_mut(usize::from(slot / 64)) {
                *word |= 1 << (slot % 64);
            }
        }
        for slot in slots {
            self.mark(slot, true);
        }
    }

    /// Sees to it that the first `len` bytes of a run that was taken are zero.
    pub fn clean(&mut self, memory: &impl SharedMemory, run: Run, len: usize) {
        let (mut offset, mut left) = (run.offset(), len.min(run.len_bytes()));
        let mut slot = run.first;
        while left != 0 {
            let part = left.min(SLOT_BYTES);
            let bit = 1 << (slot % 64);
            if let Some(word) = self.used.get_mut(usize::from(slot / 64))
                && *word & bit != 0
            {
                memory.zero(offset, part);
                // What is behind a part stays as it was.
                if part == SLOT_BYTES {
                    *word &= !bit;
                }
            }
            (offset, left, slot) = (offset + part, left - part, slot.saturating_add(1));
        }
    }

    fn is_free(&self, slot: u16) -> bool {
        self.free
            .get(usize::from(slot / 64))
            .is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    fn mark(&mut self, slot: u16, is_free: bool) {
        if slot >= self.count || self.is_free(slot) == is_free {
            return;
        }
        if let Some(word) = self.free.get_mut(usize::from(slot / 64)) {
            *word ^= 1 << (slot % 64);
        }
        if is_free {
            self.free_count += 1;
        } else {
            self.free_count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SLOT_BYTES, Slots};
    use crate::fake::FakeMemory;
    use crate::shared::SharedMemory;

    fn slots(count: usize) -> (FakeMemory, Slots) {
        let memory = FakeMemory::new(count * SLOT_BYTES);
        let slots = Slots::new(&memory, SLOT_BYTES);
        (memory, slots)
    }

    #[test]
    fn reserved_slots_are_never_given_out() {
        let (_, mut slots) = slots(4);
        assert_eq!(slots.free_count(), 3);
        let run = slots.take_run(9).unwrap();
        assert_eq!(
            (run.offset(), run.len_bytes()),
            (SLOT_BYTES, 3 * SLOT_BYTES)
        );
        assert_eq!(slots.take_run(1), None);
    }

    #[test]
    fn a_fragmented_pool_gives_the_longest_run_there_is() {
        let (_, mut slots) = slots(8);
        let runs: std::vec::Vec<_> = (0..7).map(|_| slots.take_run(1).unwrap()).collect();
        for index in [0, 2, 3, 6] {
            slots.give_back(runs[index], SLOT_BYTES);
        }
        let longest = slots.take_run(4).unwrap();
        assert_eq!(longest.offset(), runs[2].offset());
        assert_eq!(longest.len_bytes(), 2 * SLOT_BYTES);
        assert_eq!(slots.take_run(1).unwrap().offset(), runs[0].offset());
    }

    /// The next request would otherwise return bytes of this one if the device writes nothing.
    #[test]
    fn a_slot_that_is_cleaned_holds_nothing_of_its_last_use() {
        let (memory, mut slots) = slots(3);
        let run = slots.take_run(2).unwrap();
        memory.write(run.offset() + 4000, &[7; 200]);
        slots.give_back(run, 4200);
        let again = slots.take_run(2).unwrap();
        // A part first, which does not pass for the whole.
        slots.clean(&memory, again, SLOT_BYTES + 8);
        let mut bytes = [1; SLOT_BYTES + 8];
        memory.read(again.offset(), &mut bytes);
        assert_eq!(bytes, [0; SLOT_BYTES + 8]);
        slots.clean(&memory, again, usize::MAX);
        let mut bytes = [1; 2 * SLOT_BYTES];
        memory.read(again.offset(), &mut bytes);
        assert_eq!(bytes, [0; 2 * SLOT_BYTES]);
    }

    #[test]
    fn clean_slots_are_not_zeroed_again() {
        let (memory, mut slots) = slots(3);
        let run = slots.take_run(2).unwrap();
        memory.write(run.offset(), &[7; 2 * SLOT_BYTES]);
        slots.clean(&memory, run, 2 * SLOT_BYTES);
        let mut bytes = [0; 1];
        memory.read(run.offset(), &mut bytes);
        assert_eq!(bytes, [7]);
    }

    #[test]
    fn giving_back_twice_counts_once() {
        let (_, mut slots) = slots(3);
        let run = slots.take_run(1).unwrap();
        slots.give_back(run, 0);
        slots.give_back(run, 0);
        assert_eq!(slots.free_count(), 2);
    }
}
