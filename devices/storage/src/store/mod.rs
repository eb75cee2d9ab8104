//! The sealed store: small records by name, kept by a host that can neither read nor change them unnoticed.
//!
//! A log in one of two areas: a snapshot of all records, then changes. When an area is full, a snapshot begins the other one.
//! Entries never share a block and are written one after the other, each made durable before the next, so that a power cut at any byte
//! costs at most the entry being written, and an entry that is missing before another is no power cut. A long entry is sealed and
//! written in fragments, so that no step takes long; it counts when its last one is there.
//!
//! [`format`] is the store as it lies in its file, `records` and `log` what is made of it, `opening` and `saving` the two things there
//! are to do.

mod log;
mod opening;
mod records;
mod saving;

pub mod fault;
pub mod format;

use alloc::boxed::Box;
use alloc::vec::Vec;

use zeroize::{Zeroize, Zeroizing};

pub use fault::{StoreError, StoreFault, StoreFreshness, StoreTrust};

use format::{Area, FRAGMENT_BLOCKS, Header, MOST_AREA_BLOCKS, Sealer, payload_room};
use opening::Opening;
use records::{Records, check_name};
use saving::Saving;

use crate::disk::Work;
use crate::host::{
    BLOCK_BYTES, HostBlock, HostError, HostIo, HostOp, IoId, LONGEST_TRANSFER, Memory, SlotPool,
    Slots,
};
use crate::key::StoreKey;

/// What can be done with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Not yet anything.
    Opening,
    /// Everything.
    Open(StoreFreshness),
    /// Reading: a write has failed.
    Offline,
    /// Nothing.
    Failed(StoreFault),
}

/// Names a change until it is durable: compare with [`SealedStore::durable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A sealed store.
///
/// The caller's loop is that of a [`SealedDisk`](crate::SealedDisk): [`work`](Self::work), [`next_io`](Self::next_io),
/// [`complete`](Self::complete). There is one transfer at a time.
#[derive(Debug)]
pub struct SealedStore {
    stage: Stage,
    transfer: Transfer,
    /// All records, as [`get`](Self::get) shows them.
    records: Records,
    /// Changes that are in no entry yet.
    changes: Records,
    /// The area being read, or the payload being written.
    buffer: Vec<u8>,
    /// The fragment being written.
    fragment: Box<[[u8; BLOCK_BYTES]; FRAGMENT_BLOCKS]>,
    scratch: Box<[u8; BLOCK_BYTES]>,
    /// The latest change.
    latest: Ticket,
    durable: Ticket,
}

#[derive(Debug)]
enum Stage {
    Opening(Box<Opening>),
    Open(Box<Log>),
    Offline,
    Failed(StoreFault),
}

/// An open store's log.
#[derive(Debug)]
struct Log {
    header: Header,
    sealer: Sealer,
    freshness: StoreFreshness,
    area: Area,
    /// The block the next entry goes to; beyond the end when a snapshot has to be written first.
    next: u32,
    sequence: u64,
    tag: [u8; 16],
    saving: Saving,
}

impl SealedStore {
    /// Makes a store of a host's file with so many blocks of 4 KiB. It opens as soon as work is done.
    ///
    /// `entropy` must be new each time, and not from the host. `area_blocks` is the largest area there is to be memory for (three
    /// times its size is allocated), `slots` how many slots of the caller's bounce pool are this store's, from 0.
    #[must_use]
    pub fn new(
        key: StoreKey,
        entropy: [u8; 32],
        trust: StoreTrust,
        host_blocks: u64,
        area_blocks: u32,
        slots: u16,
    ) -> Self {
        let area_blocks = area_blocks.min(MOST_AREA_BLOCKS);
        let area = area_blocks as usize * BLOCK_BYTES;
        let room = payload_room(area_blocks as usize);
        Self {
            stage: Stage::Opening(Box::new(Opening::new(
                key,
                Zeroizing::new(entropy),
                trust,
                host_blocks,
                area_blocks,
            ))),
            transfer: Transfer::new(slots.max(1)),
            records: Records::new(room),
            changes: Records::new(room),
            buffer: alloc::vec![0; area],
            fragment: Box::new([[0; BLOCK_BYTES]; FRAGMENT_BLOCKS]),
            scratch: Box::new([0; BLOCK_BYTES]),
            latest: Ticket(0),
            durable: Ticket(0),
        }
    }

    /// Returns the store's identity, drawn when it was made, once it is open.
    #[must_use]
    pub fn identity(&self) -> Option<[u8; 16]> {
        match &self.stage {
            Stage::Open(log) => Some(*log.header.store()),
            _ => None,
        }
    }

    /// Returns what can be done with the store.
    #[must_use]
    pub fn state(&self) -> StoreState {
        match &self.stage {
            Stage::Opening(_) => StoreState::Opening,
            Stage::Open(log) => StoreState::Open(log.freshness),
            Stage::Offline => StoreState::Offline,
            Stage::Failed(fault) => StoreState::Failed(*fault),
        }
    }

    /// Returns the sequence number of the last entry: what an anchor has to remember.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        match &self.stage {
            Stage::Open(log) => Some(log.sequence),
            _ => None,
        }
    }

    /// Returns a record, as of the latest change.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.records.get(name)
    }

    /// Returns all records: name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter()
    }

    /// Changes a record, or makes one. Changes that wait together become durable together.
    ///
    /// # Errors
    /// The store is not open or full, or the name is none.
    pub fn put(&mut self, name: &[u8], value: &[u8]) -> Result<Ticket, StoreError> {
        self.check(name)?;
        if !self.records.has_room(name, value) || !self.changes.note(name, Some(value)) {
            return Err(StoreError::Full);
        }
        self.records.put(name, value);
        Ok(self.ticket())
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// The store is not open, or the name is none, or too many changes wait.
    pub fn remove(&mut self, name: &[u8]) -> Result<Ticket, StoreError> {
        self.check(name)?;
        if self.records.get(name).is_none() {
            return Ok(self.latest);
        }
        if !self.changes.note(name, None) {
            return Err(StoreError::Full);
        }
        self.records.remove(name);
        Ok(self.ticket())
    }

    /// Changes several records at once: a power cut leaves all of these changes or none. `None` removes a record. Each name is there once.
    ///
    /// # Errors
    /// The store is not open or has no room for all of them, or a name is none; then nothing is changed.
    pub fn change_all<'v, N: AsRef<[u8]>>(
        &mut self,
        changes: impl Iterator<Item = (N, Option<&'v [u8]>)> + Clone,
    ) -> Result<Ticket, StoreError> {
        for (name, _) in changes.clone() {
            self.check(name.as_ref())?;
        }
        if !self.records.have_room_for(changes.clone()) || !self.changes.can_note(changes.clone()) {
            return Err(StoreError::Full);
        }
        for (name, value) in changes {
            let name = name.as_ref();
            // What waits together becomes one entry.
            self.changes.note(name, value);
            match value {
                Some(value) => self.records.put(name, value),
                None => self.records.remove(name),
            }
        }
        Ok(self.ticket())
    }

    /// Returns the latest change that no power cut undoes. All before it are durable too.
    #[must_use]
    pub fn durable(&self) -> Ticket {
        self.durable
    }

    /// Does the next piece of work.
    pub fn work(&mut self, memory: &mut impl Memory) -> Work {
        match self.transfer.phase {
            Phase::Queued | Phase::Issued => Work::Idle,
            Phase::Free | Phase::Returned(_) => match self.stage {
                Stage::Opening(_) => self.open_step(memory),
                Stage::Open(_) => self.save_step(memory),
                Stage::Offline | Stage::Failed(_) => Work::Idle,
            },
        }
    }

    /// Returns the transfer for the host, if there is one.
    pub fn next_io(&mut self) -> Option<HostIo> {
        self.transfer.next_io()
    }

    /// Notes that the host is done with the transfer, and how it went. Returns `false`, and notes nothing, if it had none of that
    /// name.
    pub fn complete(&mut self, id: IoId, result: Result<(), HostError>) -> bool {
        self.transfer.complete(id, result)
    }

    fn check(&self, name: &[u8]) -> Result<(), StoreError> {
        if !matches!(self.stage, Stage::Open(_)) {
            return Err(StoreError::Closed);
        }
        check_name(name)
    }

    fn ticket(&mut self) -> Ticket {
        self.latest.0 += 1;
        self.latest
    }
}

impl Drop for SealedStore {
    fn drop(&mut self) {
        self.buffer.as_mut_slice().zeroize();
    }
}

/// The one transfer in progress.
#[derive(Debug)]
struct Transfer {
    phase: Phase,
    serial: u32,
    op: HostOp,
    block: HostBlock,
    slots: Slots,
    pool: SlotPool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Queued,
    Issued,
    Returned(Result<(), HostError>),
}

impl Transfer {
    fn new(slots: u16) -> Self {
        Self {
            phase: Phase::Free,
            serial: 0,
            op: HostOp::Flush,
            block: HostBlock(0),
            slots: Slots::default(),
            pool: SlotPool::new(slots),
        }
    }

    /// Begins a transfer of at most so many blocks, and returns how many; a flush has none.
    fn begin(&mut self, op: HostOp, block: HostBlock, most: usize) -> usize {
        self.pool.give_back(&core::mem::take(&mut self.slots));
        let count = most.min(self.pool.available()).min(LONGEST_TRANSFER);
        self.slots = self.pool.take(count).unwrap_or_default();
        self.op = op;
        self.block = block;
        self.phase = Phase::Queued;
        self.serial = self.serial.wrapping_add(1);
        self.slots.list().len()
    }

    /// Returns how the last transfer went, and forgets it; its slots stay until the next one begins.
    fn take_result(&mut self) -> Option<Result<(), HostError>> {
        let Phase::Returned(result) = self.phase else {
            return None;
        };
        self.phase = Phase::Free;
        Some(result)
    }

    fn next_io(&mut self) -> Option<HostIo> {
        if self.phase != Phase::Queued {
            return None;
        }
        self.phase = Phase::Issued;
        Some(HostIo {
            id: IoId {
                index: 0,
                serial: self.serial,
            },
            op: self.op,
            block: self.block,
            slots: self.slots,
        })
    }

    fn complete(&mut self, id: IoId, result: Result<(), HostError>) -> bool {
        let is_it = self.phase == Phase::Issued && id.index == 0 && id.serial == self.serial;
        if is_it {
            self.phase = Phase::Returned(result);
        }
        is_it
    }
}
