//! The vault: a sealed store and the host's disk it is on.

use stockade_backend::HostBus;
use stockade_backend::block::{Block, Kind, Request, Ticket as HostTicket};
use stockade_backend::shared::AnyShared;
use stockade_storage::{
    BLOCK_BYTES, HostBlock, HostError, HostIo, HostOp, IoId, Memory, MemoryError, SealedStore,
    Slot, StoreError, StoreState, Ticket, Token, Work,
};

use crate::virtio::Turn;

/// Steps of the store in a turn: each seals at most 16 KiB.
const STEPS: usize = 2;
/// Sectors of a block.
const BLOCK_SECTORS: u64 = (BLOCK_BYTES / 512) as u64;

pub(super) struct Vault {
    store: SealedStore,
    block: Block<AnyShared>,
    /// The one transfer the host has.
    transfer: Option<(HostTicket, IoId)>,
    was_reported: bool,
}

impl Vault {
    pub(super) fn new(store: SealedStore, block: Block<AnyShared>) -> Self {
        Self {
            store,
            block,
            transfer: None,
            was_reported: false,
        }
    }

    pub(super) fn store(&self) -> Option<[u8; 16]> {
        self.store.identity()
    }

    pub(super) fn state(&self) -> StoreState {
        self.store.state()
    }

    pub(super) fn durable(&self) -> Ticket {
        self.store.durable()
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(
            self.store.state(),
            StoreState::Offline | StoreState::Failed(_)
        )
    }

    pub(super) fn read(&self, name: &[u8], into: &mut [u8]) -> Option<usize> {
        let value = self.store.get(name)?;
        for (to, from) in into.iter_mut().zip(value) {
            *to = *from;
        }
        Some(value.len())
    }

    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut SealedStore) -> Result<Ticket, StoreError>,
    ) -> Result<Ticket, StoreError> {
        change(&mut self.store)
    }

    pub(super) fn check(&mut self, mut bus: &mut dyn HostBus) {
        self.block.check(&mut bus);
    }

    pub(super) fn watch(&mut self, mut bus: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        self.block.watch(&mut bus, now_ns)
    }

    pub(super) fn turn(&mut self, mut bus: &mut dyn HostBus) -> Turn {
        self.take_back();
        let worked = self.step();
        if let Some(io) = self.store.next_io() {
            self.send(&io);
        }
        self.block.publish(&mut bus);
        self.report();
        if worked == Work::Again || self.block.listen() {
            return Turn::More;
        }
        Turn::Done
    }

    fn take_back(&mut self) {
        while let Some(done) = self.block.take() {
            if let Some((_, id)) = self.transfer.take_if(|(ticket, _)| *ticket == done.ticket) {
                self.store.complete(id, done.outcome.map_err(|_| HostError));
            }
            self.block.release(done.ticket);
        }
    }

    fn step(&mut self) -> Work {
        let mut view = View(&self.block);
        for _ in 0..STEPS {
            if self.store.work(&mut view) == Work::Idle {
                return Work::Idle;
            }
        }
        Work::Again
    }

    fn send(&mut self, io: &HostIo) {
        let HostBlock(first) = io.block;
        let request = Request {
            kind: match io.op {
                HostOp::Read => Kind::Read,
                HostOp::Write => Kind::Write,
                HostOp::Flush => Kind::Flush,
            },
            sector: first.saturating_mul(BLOCK_SECTORS),
            // A transfer has at most 32 blocks.
            len_bytes: u32::try_from(io.slots().len() * BLOCK_BYTES).unwrap_or(0),
        };
        let slots = io.slots().iter().map(|Slot(slot)| *slot);
        // The device has nothing else, so there is room.
        let Some(ticket) = self.block.reserve_slots(request, slots) else {
            self.store.complete(io.id, Err(HostError));
            return;
        };
        self.transfer = Some((ticket, io.id));
        self.block.post(ticket);
    }

    fn report(&mut self) {
        if self.store.state() == StoreState::Offline && !self.was_reported {
            self.was_reported = true;
            log::error!(
                "sealed store: S10: the host failed to write the store: nothing more is kept"
            );
        }
    }
}

/// The slots; a store has no guest.
struct View<'a>(&'a Block<AnyShared>);

impl Memory for View<'_> {
    fn read_guest(&mut self, _: Token, _: usize, _: &mut [u8]) -> Result<(), MemoryError> {
        Err(MemoryError)
    }

    fn write_guest(&mut self, _: Token, _: usize, _: &[u8]) -> Result<(), MemoryError> {
        Err(MemoryError)
    }

    fn read_slot(&mut self, Slot(slot): Slot, into: &mut [u8; BLOCK_BYTES]) {
        self.0.read_slot(slot, into);
    }

    fn write_slot(&mut self, Slot(slot): Slot, from: &[u8; BLOCK_BYTES]) {
        self.0.write_slot(slot, from);
    }
}
