//! Slots a caller numbers and manages himself, for a disk none of whose requests finds its own.

use super::{Block, FIRST_SLOT, MAX_RUNS, RESERVED, Request, Ticket};
use crate::shared::SharedMemory;
use crate::slots::{Run, SLOT_BYTES};

impl<M: SharedMemory> Block<M> {
    /// Returns how many slots there are.
    #[must_use]
    pub fn slot_count(&self) -> u16 {
        let bytes = self.memory.len_bytes().saturating_sub(RESERVED);
        u16::try_from(bytes / SLOT_BYTES).unwrap_or(u16::MAX)
    }

    /// Returns how many slots no request has, of those requests find themselves.
    #[must_use]
    pub fn free_slots(&self) -> u16 {
        self.slots.free_count()
    }

    /// Copies a slot out.
    pub fn read_slot(&self, slot: u16, bytes: &mut [u8; SLOT_BYTES]) {
        let offset = RESERVED + usize::from(slot) * SLOT_BYTES;
        self.memory.read(offset, bytes);
    }

    /// Copies into a slot.
    pub fn write_slot(&self, slot: u16, bytes: &[u8; SLOT_BYTES]) {
        let offset = RESERVED + usize::from(slot) * SLOT_BYTES;
        self.memory.write(offset, bytes);
    }

    /// Makes a request of slots the caller numbers and manages himself, as long as he reserves no others: up to 32 of
    /// [`Self::slot_count`]. `None`: it must wait until another is over, or there is no such slot.
    pub fn reserve_slots(
        &mut self,
        request: Request,
        slots: impl Iterator<Item = u16>,
    ) -> Option<Ticket> {
        let mut runs = [Run::EMPTY; MAX_RUNS];
        let mut used = 0_usize;
        for slot in slots {
            if slot >= self.slot_count() {
                return None;
            }
            let slot = slot.checked_add(FIRST_SLOT)?;
            let last = used.checked_sub(1).and_then(|last| runs.get_mut(last));
            if !last.is_some_and(|last| last.try_extend(slot)) {
                *runs.get_mut(used)? = Run::single(slot);
                used += 1;
            }
        }
        self.take_ticket(request, runs, true)
    }
}
