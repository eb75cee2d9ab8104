//! Transfers to and from the host: what each is for and how far it is.

use alloc::vec::Vec;

use super::cache::CacheIndex;
use super::entry::Entry;
use crate::host::{HostBlock, HostError, HostIo, HostOp, IoId, LONGEST_TRANSFER, SlotPool, Slots};

/// Nodes that are read at the same time at most.
pub(crate) const LOADS: usize = 4;

/// What a transfer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Reads header and superblocks.
    Open,
    /// Reads a node into the cache.
    Load(CacheIndex),
    /// Writes a node.
    Store,
    /// Writes a superblock.
    Superblock,
    /// Makes the commit's writes durable.
    Flush,
    /// Reads blocks for a request.
    Read,
    /// Writes blocks of a request.
    Write,
    /// Reads a block of which the request changes a part, to write it with [`Job::Write`].
    Merge,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It does not exist.
    Free,
    /// Its blocks are being encrypted.
    Filling,
    /// It is ready for the host.
    Queued,
    /// The host has it.
    Issued,
    /// The host is done with it.
    Returned(Result<(), HostError>),
}

/// A transfer.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    serial: u32,
    pub(crate) phase: Phase,
    pub(crate) job: Job,
    pub(crate) block: HostBlock,
    pub(crate) slots: Slots,
    /// Of data, the request it is for.
    pub(crate) request: usize,
    /// Of data, its first logical block.
    pub(crate) first: u64,
    /// Blocks encrypted or decrypted so far.
    pub(crate) done: usize,
    /// Of each block read, what it must be; of each block written, what will point to it. A merge has the old and the new.
    pub(crate) entries: [Entry; LONGEST_TRANSFER],
}

/// The transfers and the slots they use.
#[derive(Debug)]
pub(crate) struct Transfers {
    table: Vec<Transfer>,
    slots: SlotPool,
    serial: u32,
}

impl Transfers {
    pub(crate) fn new(transfers: u16, slots: u16) -> Self {
        let free = Transfer {
            serial: 0,
            phase: Phase::Free,
            job: Job::Open,
            block: HostBlock(0),
            slots: Slots::default(),
            request: 0,
            first: 0,
            done: 0,
            entries: [Entry::default(); LONGEST_TRANSFER],
        };
        Self {
            table: alloc::vec![free; usize::from(transfers)],
            slots: SlotPool::new(slots),
            serial: 0,
        }
    }

    /// Returns how many blocks a new transfer could have now.
    pub(crate) fn available(&self) -> usize {
        if self
            .find(|transfer| transfer.phase == Phase::Free)
            .is_some()
        {
            self.slots.available().min(LONGEST_TRANSFER)
        } else {
            0
        }
    }

    /// Starts a transfer with so many slots, or returns `None` when there is no room for it.
    pub(crate) fn start(
        &mut self,
        job: Job,
        phase: Phase,
        block: HostBlock,
        slots: usize,
    ) -> Option<&mut Transfer> {
        let index = self.find(|transfer| transfer.phase == Phase::Free)?;
        let slots = self.slots.take(slots)?;
        self.serial = self.serial.wrapping_add(1);
        let transfer = self.table.get_mut(index)?;
        transfer.serial = self.serial;
        transfer.phase = phase;
        transfer.job = job;
        transfer.block = block;
        transfer.slots = slots;
        transfer.done = 0;
        Some(transfer)
    }

    /// Ends a transfer and gives its slots back.
    pub(crate) fn end(&mut self, index: usize) {
        if let Some(transfer) = self.table.get_mut(index) {
            transfer.phase = Phase::Free;
            self.slots.give_back(&transfer.slots);
            transfer.slots = Slots::default();
        }
    }

    /// Finds a transfer.
    pub(crate) fn find(&self, is: impl Fn(&Transfer) -> bool) -> Option<usize> {
        self.table.iter().position(is)
    }

    /// Returns whether any transfer has this job.
    pub(crate) fn any(&self, job: Job) -> bool {
        self.find(|transfer| transfer.phase != Phase::Free && transfer.job == job)
            .is_some()
    }

    /// Returns how many nodes are being read.
    pub(crate) fn loads(&self) -> usize {
        let is_load = |transfer: &&Transfer| {
            transfer.phase != Phase::Free && matches!(transfer.job, Job::Load(_))
        };
        self.table.iter().filter(is_load).count()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Transfer> {
        self.table.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Transfer> {
        self.table.get_mut(index)
    }

    /// Returns the next transfer the host should be given.
    pub(crate) fn next_io(&mut self) -> Option<HostIo> {
        let index = self.find(|transfer| transfer.phase == Phase::Queued)?;
        let transfer = self.table.get_mut(index)?;
        transfer.phase = Phase::Issued;
        Some(HostIo {
            id: IoId {
                index: u16::try_from(index).ok()?,
                serial: transfer.serial,
            },
            op: transfer.job.op(),
            block: transfer.block,
            slots: transfer.slots,
        })
    }

    /// Notes that the host is done with a transfer; `false` if it never had it, or is done already.
    pub(crate) fn complete(&mut self, id: IoId, result: Result<(), HostError>) -> bool {
        match self.table.get_mut(id.index()) {
            Some(transfer) if transfer.serial == id.serial && transfer.phase == Phase::Issued => {
                transfer.phase = Phase::Returned(result);
                true
            }
            _ => false,
        }
    }
}

impl Job {
    fn op(self) -> HostOp {
        match self {
            Self::Open | Self::Load(_) | Self::Read | Self::Merge => HostOp::Read,
            Self::Store | Self::Superblock | Self::Write => HostOp::Write,
            Self::Flush => HostOp::Flush,
        }
    }
}

impl Transfer {
    /// Returns how many blocks it has.
    pub(crate) fn count(&self) -> usize {
        self.slots.list().len()
    }

    /// Returns what the host said; only of a transfer it is done with.
    pub(crate) fn result(&self) -> Result<(), HostError> {
        match self.phase {
            Phase::Returned(result) => result,
            _ => Err(HostError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Job, Phase, Transfers};
    use crate::host::{HostBlock, HostError, HostOp};

    #[test]
    fn a_transfer_is_completed_once_and_only_by_its_own_name() {
        let mut transfers = Transfers::new(2, 4);
        transfers
            .start(Job::Read, Phase::Queued, HostBlock(9), 2)
            .unwrap();
        let io = transfers.next_io().unwrap();
        assert_eq!(
            (io.op, io.block, io.slots().len()),
            (HostOp::Read, HostBlock(9), 2)
        );
        assert!(transfers.next_io().is_none());
        assert!(transfers.complete(io.id, Ok(())));
        assert!(!transfers.complete(io.id, Err(HostError)));
        transfers.end(io.id.index());
        transfers
            .start(Job::Read, Phase::Queued, HostBlock(9), 1)
            .unwrap();
        assert!(!transfers.complete(io.id, Ok(())), "not issued yet");
        let again = transfers.next_io().unwrap();
        assert!(
            !transfers.complete(io.id, Ok(())),
            "the name of an older one"
        );
        assert!(transfers.complete(again.id, Ok(())));
    }

    #[test]
    fn transfers_end_with_their_slots() {
        let mut transfers = Transfers::new(2, 4);
        assert_eq!(transfers.available(), 4);
        transfers
            .start(Job::Read, Phase::Queued, HostBlock(0), 3)
            .unwrap();
        assert_eq!(transfers.available(), 1);
        assert!(
            transfers
                .start(Job::Read, Phase::Queued, HostBlock(0), 2)
                .is_none()
        );
        transfers.end(0);
        assert_eq!(transfers.available(), 4);
    }
}
