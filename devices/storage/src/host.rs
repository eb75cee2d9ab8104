//! The boundary to the caller: blocks of the host's file, slots of the bounce pool, and the copying between memories.

/// Length of a block, the unit of everything on a sealed disk.
pub const BLOCK_BYTES: usize = 4096;
/// Length of a sector, the unit of a guest's requests and of the store.
pub const SECTOR_BYTES: usize = 512;
/// The most blocks of one transfer to or from the host.
pub const LONGEST_TRANSFER: usize = 32;

/// A 4-KiB block of the host's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostBlock(pub u64);

/// One 4-KiB buffer of those the caller shares with the host, by number: `0 … Config::slots - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// Names a transfer until it is completed; never used twice within four thousand million transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoId {
    pub(crate) index: u16,
    pub(crate) serial: u32,
}

impl IoId {
    /// Returns the place in the table of transfers, below `Config::transfers`: no two in flight share one.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.index)
    }
}

/// The caller's name for a request of the guest, and so for the buffer that comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What to do with the host's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// Read into the slots.
    Read,
    /// Write from the slots.
    Write,
    /// Make everything that was completed before this durable.
    Flush,
}

/// A transfer for the caller to pass on to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostIo {
    /// To be given back to `complete`.
    pub id: IoId,
    /// The direction.
    pub op: HostOp,
    /// The first block; without meaning for a flush.
    pub block: HostBlock,
    pub(crate) slots: Slots,
}

impl HostIo {
    /// Returns the slots, one a block, in the order of the blocks; none for a flush.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        self.slots.list()
    }
}

/// The host failed a transfer, or broke the rules about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host failed a transfer")]
pub struct HostError;

/// The memory of the guest refused an access: pages it has given away since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's memory refused an access")]
pub struct MemoryError;

/// Copies between private memory and memory others can touch. No reference to either ever leaves the implementation.
pub trait Memory {
    /// Copies from the buffer of a guest's request, `offset` bytes into it.
    ///
    /// # Errors
    /// The pages are no longer the guest's.
    fn read_guest(
        &mut self,
        token: Token,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError>;

    /// Copies into the buffer of a guest's request, `offset` bytes into it.
    ///
    /// # Errors
    /// The pages are no longer the guest's.
    fn write_guest(&mut self, token: Token, offset: usize, from: &[u8]) -> Result<(), MemoryError>;

    /// Copies out of a slot, which the host may be changing meanwhile.
    fn read_slot(&mut self, slot: Slot, into: &mut [u8; BLOCK_BYTES]);

    /// Copies into a slot.
    fn write_slot(&mut self, slot: Slot, from: &[u8; BLOCK_BYTES]);
}

/// A short list of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    len: u8,
    slots: [Slot; LONGEST_TRANSFER],
}

impl Slots {
    pub(crate) fn list(&self) -> &[Slot] {
        self.slots.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Adds a slot; `false` when the list is full.
    pub(crate) fn push(&mut self, slot: Slot) -> bool {
        let Some(place) = self.slots.get_mut(usize::from(self.len)) else {
            return false;
        };
        *place = slot;
        self.len += 1;
        true
    }
}

/// The slots nobody uses.
#[derive(Debug)]
pub(crate) struct SlotPool {
    free: alloc::vec::Vec<Slot>,
}

impl SlotPool {
    pub(crate) fn new(count: u16) -> Self {
        // In descending order, so that the first taken are neighbours in ascending order.
        Self {
            free: (0..count).rev().map(Slot).collect(),
        }
    }

    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` slots, or none.
    pub(crate) fn take(&mut self, count: usize) -> Option<Slots> {
        if count > self.free.len() || count > LONGEST_TRANSFER {
            return None;
        }
        let mut slots = Slots::default();
        while slots.list().len() < count && slots.push(self.free.pop()?) {}
        Some(slots)
    }

    /// Gives slots back. The room is there: they came from here.
    pub(crate) fn give_back(&mut self, slots: &Slots) {
        self.free.extend(slots.list().iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_TRANSFER, Slot, SlotPool};

    #[test]
    fn slots_are_lent_to_one_at_a_time_and_all_come_back() {
        let mut pool = SlotPool::new(5);
        let first = pool.take(3).unwrap();
        assert_eq!(first.list(), [Slot(0), Slot(1), Slot(2)]);
        assert!(pool.take(3).is_none());
        let second = pool.take(2).unwrap();
        assert_eq!(second.list(), [Slot(3), Slot(4)]);
        pool.give_back(&first);
        pool.give_back(&second);
        assert_eq!(pool.available(), 5);
    }

    #[test]
    fn no_transfer_is_longer_than_its_list() {
        let mut pool = SlotPool::new(100);
        assert!(pool.take(LONGEST_TRANSFER + 1).is_none());
        assert!(pool.take(LONGEST_TRANSFER).is_some());
    }
}
