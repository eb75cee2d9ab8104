//! A request of the guest on its way through the sealed disk: one part of it at a time.

use stockade_devices::virtio::blk::{Kind, Request as GuestRequest, SECTOR_BYTES};
use stockade_storage::{Kind as Ask, Request, Token};

/// How far a request is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Parts submitted: a read or write is one, of ranges each is one.
    parts: usize,
    /// It must last: a flush follows.
    wants_flush: bool,
    /// The last part offered was the flush.
    is_flush: bool,
    /// A part found no room.
    is_waiting: bool,
}

impl Pending {
    pub(super) fn new(request: &GuestRequest<'_>) -> Self {
        let wants_flush = match request.kind() {
            Kind::Write { is_through, .. } | Kind::WriteZeroes { is_through, .. } => is_through,
            Kind::Flush => true,
            Kind::Read { .. } | Kind::Discard => false,
        };
        Self {
            parts: 0,
            wants_flush,
            is_flush: false,
            is_waiting: false,
        }
    }

    /// Returns the next part, by the name the request has here; `None` when all are over.
    pub(super) fn next(&mut self, request: &GuestRequest<'_>, token: Token) -> Option<Request> {
        let part = self.part(request, token);
        self.is_flush = part.is_none();
        let flush = Request {
            token,
            kind: Ask::Flush,
            sector: 0,
            sectors: 0,
        };
        part.or_else(|| self.wants_flush.then_some(flush))
    }

    fn part(&self, request: &GuestRequest<'_>, token: Token) -> Option<Request> {
        let whole = |kind, sector| {
            let sectors = request.data_len() / SECTOR_BYTES;
            (self.parts == 0).then_some(Request {
                token,
                kind,
                sector,
                sectors,
            })
        };
        let range = |kind| {
            let range = request.ranges().get(self.parts)?;
            Some(Request {
                token,
                kind,
                sector: range.sector,
                sectors: range.count.into(),
            })
        };
        match request.kind() {
            Kind::Read { sector } => whole(Ask::Read, sector),
            Kind::Write { sector, .. } => whole(Ask::Write, sector),
            Kind::Flush => None,
            Kind::Discard => range(Ask::Discard),
            Kind::WriteZeroes { .. } => range(Ask::WriteZeroes),
        }
    }

    /// Notes that the part was taken.
    pub(super) fn submitted(&mut self) {
        self.is_waiting = false;
        if self.is_flush {
            self.wants_flush = false;
        } else {
            self.parts += 1;
        }
    }

    /// Notes that the part found no room.
    pub(super) fn wait(&mut self) {
        self.is_waiting = true;
    }

    /// Returns whether a part is to be submitted again.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }
}
