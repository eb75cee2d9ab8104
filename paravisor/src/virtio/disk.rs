//! A disk whose content goes to the host as the guest wrote it.
//!
//! A request of the guest is cut into chunks, each a request to the host. Requests are taken from the guest's rings one after the
//! other, as long as the host's disk has room for their chunks; the rest waits in the rings.

mod active;

use alloc::boxed::Box;
use alloc::vec;

use stockade_backend::HostBus;
use stockade_backend::block::{Block, Done, Features, Kind as Ask, Request as Chunk, Ticket};
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::DiskAccess;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::blk::{Blk, BlkOptions, Next, RangeLimits, Token, ZeroLimits};

use super::Turn;
use super::host_disk::{DiskEngine, HostDisk};
use active::{Active, Step};

/// Requests of the guest that are worked on at a time.
const DEPTH: u16 = 64;
/// Chunks sent or taken back in a round: at most 2 MiB are copied.
const BUDGET: usize = 16;
/// The most sectors of a range to be forgotten.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// What a chunk in flight belongs to.
#[derive(Clone, Copy, Debug)]
struct Part {
    token: Token,
    kind: Ask,
    /// Where it is in the request's data.
    offset: u64,
    len: u32,
}

/// What lies between a front-end and the host's disk.
pub struct Plain {
    host: HostDisk,
    /// By the token's slot.
    actives: Box<[Option<Active>]>,
    /// By the ticket.
    parts: Box<[Option<Part>]>,
    /// The request whose chunks are being sent.
    current: Option<Token>,
}

impl Plain {
    /// Returns the engine in front of `block`, and the front-end that fits it: `access` is what the guest may do even if the host's
    /// disk allows more, `id` its name, `queues` how many rings there are for the guest's processors.
    #[must_use]
    pub fn new(
        block: Block<AnyShared>,
        access: DiskAccess,
        id: [u8; 20],
        queues: u16,
    ) -> (Blk, Self) {
        let features = block.features();
        let is_read_only = access == DiskAccess::ReadOnly || features.contains(Features::READ_ONLY);
        let offers = |feature| !is_read_only && features.contains(feature);
        let options = BlkOptions {
            sectors: block.capacity(),
            is_read_only,
            has_cache: features.contains(Features::FLUSH),
            discard: offers(Features::DISCARD).then_some(RangeLimits {
                max_sectors: MAX_RANGE_SECTORS,
                alignment: 8,
            }),
            write_zeroes: offers(Features::WRITE_ZEROES).then_some(ZeroLimits {
                max_sectors: MAX_RANGE_SECTORS,
                may_unmap: true,
            }),
            id,
            queues,
            depth: DEPTH,
            ..BlkOptions::default()
        };
        let tickets = usize::from(stockade_backend::queue::MAX_SIZE);
        let engine = Self {
            host: HostDisk::new(block),
            actives: vec![None; usize::from(DEPTH)].into_boxed_slice(),
            parts: vec![None; tickets].into_boxed_slice(),
            current: None,
        };
        (Blk::new(options), engine)
    }
}

impl DiskEngine for Plain {
    fn host(&self) -> &HostDisk {
        &self.host
    }

    fn host_mut(&mut self) -> &mut HostDisk {
        &mut self.host
    }

    fn round(
        &mut self,
        blk: &mut Blk,
        memory: &dyn GuestMemory,
        mut bus: &mut dyn HostBus,
    ) -> Turn {
        let taken = self.take_back(blk, memory);
        let sent = self.send(blk, memory);
        self.host.block.publish(&mut bus);
        if [taken, sent].contains(&Turn::More) {
            return Turn::More;
        }
        Turn::Done
    }
}

impl Plain {
    /// Takes chunks back from the host.
    fn take_back(&mut self, blk: &mut Blk, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            let Some(done) = self.host.block.take() else {
                return Turn::Done;
            };
            self.finish(blk, memory, done);
        }
        Turn::More
    }

    fn finish(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, done: Done) {
        let part = self.parts.get_mut(usize::from(done.ticket.0));
        let Some(part) = part.and_then(Option::take) else {
            return self.host.block.release(done.ticket);
        };
        let mut is_good = done.outcome.is_ok();
        if is_good && part.kind == Ask::Read {
            is_good = self.copy_out(blk, memory, done.ticket, &part);
        }
        self.host.block.release(done.ticket);
        let slot = self.actives.get_mut(part.token.slot());
        if let Some(Some(active)) = slot {
            active.came_back(is_good);
        }
        self.settle(blk, memory, part.token);
    }

    /// Copies what was read to where the guest wants it. A guest that is gone wants nothing.
    fn copy_out(&self, blk: &Blk, memory: &dyn GuestMemory, ticket: Ticket, part: &Part) -> bool {
        let Some(request) = blk.request(part.token) else {
            return false;
        };
        let mut at = 0;
        request.pieces(part.offset, part.len.into()).all(|piece| {
            let len = piece.len as usize;
            let copied = self
                .host
                .block
                .get_to_guest(ticket, at, memory, piece.gpa, len);
            at += len;
            copied.is_ok()
        })
    }

    /// Completes the request if all of it is over.
    fn settle(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, token: Token) {
        let Some(slot) = self.actives.get_mut(token.slot()) else {
            return;
        };
        if let Some(status) = slot.as_ref().and_then(Active::outcome) {
            *slot = None;
            blk.complete(memory, token, status);
        }
    }

    /// Sends chunks to the host.
    fn send(&mut self, blk: &mut Blk, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            let token = match self.current {
                Some(token) => token,
                None => match blk.next(memory) {
                    Next::Request(token) => self.begin(blk, token),
                    Next::Idle | Next::Full => return Turn::Done,
                    Next::Later => return Turn::More,
                },
            };
            if !self.send_one(blk, memory, token) {
                return Turn::Done;
            }
        }
        Turn::More
    }

    fn begin(&mut self, blk: &Blk, token: Token) -> Token {
        if let (Some(slot), Some(request)) =
            (self.actives.get_mut(token.slot()), blk.request(token))
        {
            let has_flush = self.host.block.features().contains(Features::FLUSH);
            *slot = Some(Active::new(&request, has_flush));
        }
        self.current = Some(token);
        self.host.gathering.took_one();
        token
    }

    /// Sends the next chunk of a request. Returns whether it got further.
    fn send_one(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, token: Token) -> bool {
        let is_offline = self.host.block.failure().is_some();
        let Some(Some(active)) = self.actives.get_mut(token.slot()) else {
            self.current = None;
            return true;
        };
        let request = blk.request(token).filter(|_| !is_offline);
        let step = match request {
            Some(request) => active.step(&request),
            None => {
                active.give_up();
                Step::Sent
            }
        };
        match step {
            Step::Wait => false,
            Step::Sent => {
                self.current = None;
                self.settle(blk, memory, token);
                true
            }
            Step::Send { chunk, offset } => self.post(blk, memory, token, chunk, offset),
        }
    }

    /// Posts a chunk. Returns whether there was room for it.
    fn post(
        &mut self,
        blk: &Blk,
        memory: &dyn GuestMemory,
        token: Token,
        chunk: Chunk,
        offset: u64,
    ) -> bool {
        let Some(ticket) = self.host.block.reserve(chunk) else {
            return false;
        };
        let part = Part {
            token,
            kind: chunk.kind,
            offset,
            len: chunk.len_bytes,
        };
        let is_copied = chunk.kind != Ask::Write || self.copy_in(blk, memory, ticket, &part);
        let Some(Some(active)) = self.actives.get_mut(token.slot()) else {
            self.host.block.release(ticket);
            return true;
        };
        if !is_copied {
            active.give_up();
            self.host.block.release(ticket);
            return true;
        }
        active.went_out(&chunk);
        if let Some(slot) = self.parts.get_mut(usize::from(ticket.0)) {
            *slot = Some(part);
        }
        self.host.block.post(ticket);
        true
    }

    /// Copies what the guest writes to where the host reads it.
    fn copy_in(
        &mut self,
        blk: &Blk,
        memory: &dyn GuestMemory,
        ticket: Ticket,
        part: &Part,
    ) -> bool {
        let Some(request) = blk.request(part.token) else {
            return false;
        };
        let mut at = 0;
        request.pieces(part.offset, part.len.into()).all(|piece| {
            let len = piece.len as usize;
            let block = &mut self.host.block;
            let copied = block.put_from_guest(ticket, at, memory, piece.gpa, len);
            at += len;
            copied.is_ok()
        })
    }
}

#[cfg(test)]
mod tests;
