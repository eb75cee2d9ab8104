//! A disk the host can neither read nor change unnoticed: requests of the guest through the sealed disk's state machine.
//!
//! What the state machine wants of the host goes through the same [`Block`] as a plain disk's chunks, from slots it owns itself. One
//! step of it encrypts or decrypts one block; a turn has a handful, so that the guest runs in between.

mod anchors;
mod no_memory;
mod pending;
mod view;

use alloc::boxed::Box;
use alloc::vec;

use stockade_backend::HostBus;
use stockade_backend::block::{Block, Kind as Ask, Request as Chunk};
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::DiskAccess;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::blk::{
    Blk, BlkOptions, Next, RangeLimits, Status, Token as GuestToken, ZeroLimits,
};
use stockade_storage::{
    BLOCK_BYTES, HostBlock, HostError, HostIo, HostOp, IoId, RequestError, SealedDisk, Slot, State,
    Token, Work,
};

use super::Turn;
use super::host_disk::{DiskEngine, HostDisk};
pub use anchors::{Anchors, Untold};
use no_memory::NoMemory;
use pending::Pending;
use view::View;

/// Requests of the guest that are worked on at a time.
pub const DEPTH: u16 = 64;
/// Blocks encrypted or decrypted in a turn: some 60 µs of a processor's time, and up to 4 ms where it is emulated.
const STEPS: usize = 24;
/// Requests and transfers taken or sent in a round.
const BUDGET: usize = 32;
/// Sectors of the state machine's blocks.
const BLOCK_SECTORS: u64 = (BLOCK_BYTES / 512) as u64;
/// The most sectors of a range to be forgotten.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// What lies between a front-end and the host's disk.
pub struct Sealed {
    disk: SealedDisk,
    host: HostDisk,
    /// By ticket: which transfer.
    transfers: Box<[Option<IoId>]>,
    /// A transfer there was no room for.
    held: Option<HostIo>,
    /// By the token's slot.
    pending: Box<[Option<(GuestToken, Pending)>]>,
    /// A request that is not wholly submitted.
    current: Option<usize>,
    /// Where the newest state is kept, if it is.
    anchors: Option<Anchors>,
    /// Left of the turn's.
    steps: usize,
    events: u32,
}

impl Sealed {
    /// Returns the engine of `disk` on the host's `block`. Without `anchors` the newest state is kept nowhere.
    #[must_use]
    pub fn new(disk: SealedDisk, block: Block<AnyShared>, anchors: Option<Anchors>) -> Self {
        let tickets = usize::from(stockade_backend::queue::MAX_SIZE);
        Self {
            disk,
            host: HostDisk::new(block),
            transfers: vec![None; tickets].into_boxed_slice(),
            held: None,
            pending: vec![None; usize::from(DEPTH)].into_boxed_slice(),
            current: None,
            anchors,
            steps: 0,
            events: 0,
        }
    }

    /// Returns what can be done with the disk.
    #[must_use]
    pub fn state(&self) -> State {
        self.disk.state()
    }

    /// Opens the disk, before there is a guest. Returns whether there is nothing more to do before the host answers.
    pub fn open(&mut self, mut bus: &mut dyn HostBus) -> Turn {
        let blk = Blk::new(BlkOptions::default());
        self.take_back();
        self.steps = STEPS;
        let worked = self.step(&blk, &NoMemory);
        self.send();
        self.host.block.publish(&mut bus);
        let kept = self.keep();
        if worked == Work::Again || kept == Turn::More || self.host.block.listen() {
            return Turn::More;
        }
        Turn::Done
    }

    /// Returns whether the store has what it is to keep of the disk.
    #[must_use]
    pub fn is_anchored(&self) -> bool {
        self.anchors.as_ref().is_none_or(Anchors::is_settled)
    }

    /// Has the newest state kept.
    fn keep(&mut self) -> Turn {
        if let Some(anchors) = &mut self.anchors {
            return anchors.turn(&mut self.disk);
        }
        // The disk is told that it is, so that it goes on.
        if let Some(anchor) = self.disk.next_anchor() {
            self.disk.anchored(anchor.generation);
        }
        Turn::Done
    }

    /// Returns the front-end, once the disk is open.
    #[must_use]
    pub fn front(&self, access: DiskAccess, id: [u8; 20], queues: u16) -> Option<Blk> {
        let is_read_only = access == DiskAccess::ReadOnly;
        Some(Blk::new(BlkOptions {
            sectors: self.disk.sectors()?,
            is_read_only,
            has_cache: true,
            discard: (!is_read_only).then_some(RangeLimits {
                max_sectors: MAX_RANGE_SECTORS,
                alignment: 8,
            }),
            write_zeroes: (!is_read_only).then_some(ZeroLimits {
                max_sectors: MAX_RANGE_SECTORS,
                may_unmap: true,
            }),
            id,
            queues,
            depth: DEPTH,
            ..BlkOptions::default()
        }))
    }

    /// Takes transfers back from the host.
    fn take_back(&mut self) -> Turn {
        for _ in 0..BUDGET {
            let Some(done) = self.host.block.take() else {
                return Turn::Done;
            };
            let transfer = self.transfers.get_mut(usize::from(done.ticket.0));
            if let Some(id) = transfer.and_then(Option::take) {
                self.disk.complete(id, done.outcome.map_err(|_| HostError));
            }
            self.host.block.release(done.ticket);
        }
        Turn::More
    }

    /// Works off steps, as many as are left of the turn's.
    fn step(&mut self, blk: &Blk, memory: &dyn GuestMemory) -> Work {
        let mut view = View {
            block: &self.host.block,
            blk,
            memory,
            pending: &self.pending,
        };
        while self.steps > 0 {
            if self.disk.work(&mut view) == Work::Idle {
                return Work::Idle;
            }
            self.steps -= 1;
        }
        Work::Again
    }

    /// Passes transfers on to the host.
    fn send(&mut self) -> Turn {
        for _ in 0..BUDGET {
            let Some(io) = self.held.take().or_else(|| self.disk.next_io()) else {
                return Turn::Done;
            };
            let blocks = u32::try_from(io.slots().len()).unwrap_or(0);
            let HostBlock(first) = io.block;
            let chunk = Chunk {
                kind: match io.op {
                    HostOp::Read => Ask::Read,
                    HostOp::Write => Ask::Write,
                    HostOp::Flush => Ask::Flush,
                },
                sector: first.saturating_mul(BLOCK_SECTORS),
                len_bytes: blocks * 4096,
            };
            let slots = io.slots().iter().map(|Slot(slot)| *slot);
            let Some(ticket) = self.host.block.reserve_slots(chunk, slots) else {
                self.held = Some(io);
                return Turn::Done;
            };
            if let Some(place) = self.transfers.get_mut(usize::from(ticket.0)) {
                *place = Some(io.id);
            }
            self.host.block.post(ticket);
        }
        Turn::More
    }

    /// Takes requests from the guest.
    fn accept(&mut self, blk: &mut Blk, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            let slot = match self.current {
                Some(slot) => slot,
                None => match blk.next(memory) {
                    Next::Request(token) => self.begin(blk, token),
                    Next::Idle | Next::Full => return Turn::Done,
                    Next::Later => return Turn::More,
                },
            };
            if !self.submit(blk, memory, slot) {
                self.current = Some(slot);
                return Turn::Done;
            }
            self.current = None;
        }
        Turn::More
    }

    fn begin(&mut self, blk: &Blk, token: GuestToken) -> usize {
        let slot = token.slot();
        self.host.gathering.took_one();
        let pending = blk.request(token).map(|request| Pending::new(&request));
        if let Some(place) = self.pending.get_mut(slot) {
            *place = pending.map(|pending| (token, pending));
        }
        slot
    }

    /// Submits the next part of a request, or ends it. Returns whether there was room.
    fn submit(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, slot: usize) -> bool {
        let Some(Some((token, pending))) = self.pending.get_mut(slot) else {
            return true;
        };
        let request = blk.request(*token);
        let name = Token(slot as u64);
        let Some(part) = request.and_then(|request| pending.next(&request, name)) else {
            let status = if request.is_none() {
                Status::IoError
            } else {
                Status::Ok
            };
            self.end(blk, memory, slot, status);
            return true;
        };
        match self.disk.submit(part) {
            Ok(()) => {
                pending.submitted();
                true
            }
            Err(RequestError::Busy) => false,
            Err(_) => {
                self.end(blk, memory, slot, Status::IoError);
                true
            }
        }
    }

    fn end(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, slot: usize, status: Status) {
        if let Some((token, _)) = self.pending.get_mut(slot).and_then(Option::take) {
            blk.complete(memory, token, status);
        }
    }

    /// Tells the guest what is done.
    fn answer(&mut self, blk: &mut Blk, memory: &dyn GuestMemory) {
        while let Some(done) = self.disk.next_completion() {
            let Token(name) = done.token;
            let slot = usize::try_from(name).unwrap_or(usize::MAX);
            match done.result {
                // There may be more of it; what finds no room now waits for its turn.
                Ok(()) => {
                    if !self.submit(blk, memory, slot) {
                        self.requeue(slot);
                    }
                }
                Err(_) => self.end(blk, memory, slot, Status::IoError),
            }
        }
    }

    fn requeue(&mut self, slot: usize) {
        if let Some(Some((_, pending))) = self.pending.get_mut(slot) {
            pending.wait();
        }
    }

    /// Submits what once found no room.
    fn retry(&mut self, blk: &mut Blk, memory: &dyn GuestMemory) {
        for slot in 0..self.pending.len() {
            let waits = matches!(self.pending.get(slot), Some(Some((_, p))) if p.is_waiting());
            if waits && !self.submit(blk, memory, slot) {
                return;
            }
        }
    }

    /// Logs what the host did, as long as it is not too much.
    fn report(&mut self) {
        const MOST: u32 = 100;
        while let Some(event) = self.disk.next_event() {
            self.events = self.events.saturating_add(1);
            match self.events {
                0..MOST => log::error!("sealed disk: {event}"),
                MOST => log::error!("sealed disk: more of this is not logged"),
                _ => {}
            }
        }
    }
}

impl DiskEngine for Sealed {
    fn host(&self) -> &HostDisk {
        &self.host
    }

    fn host_mut(&mut self) -> &mut HostDisk {
        &mut self.host
    }

    fn begin_turn(&mut self) {
        self.steps = STEPS;
    }

    fn round(
        &mut self,
        blk: &mut Blk,
        memory: &dyn GuestMemory,
        mut bus: &mut dyn HostBus,
    ) -> Turn {
        let taken = self.take_back();
        self.retry(blk, memory);
        let accepted = self.accept(blk, memory);
        let worked = self.step(blk, memory);
        let sent = self.send();
        self.host.block.publish(&mut bus);
        let kept = self.keep();
        self.answer(blk, memory);
        self.report();
        if [taken, accepted, sent, kept].contains(&Turn::More) || worked == Work::Again {
            return Turn::More;
        }
        Turn::Done
    }

    fn has_records(&self) -> bool {
        self.anchors.is_some()
    }
}

#[cfg(test)]
mod tests;
