//! A request of the guest on its way: what of it was sent, what came back.

use stockade_backend::block::{Kind as Ask, MAX_BYTES, Request as Chunk, SECTOR_BYTES};
use stockade_devices::virtio::blk::{Kind, Request, Status};

/// How far a request is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    /// Bytes of data sent, or ranges.
    sent: u64,
    /// Chunks with the host.
    outstanding: u16,
    /// All that is to be sent was.
    is_sent: bool,
    has_failed: bool,
    /// It must last: a flush follows when all else is over.
    wants_flush: bool,
}

/// What to do next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this chunk, which begins at `offset` of the request's data.
    Send {
        /// The chunk.
        chunk: Chunk,
        /// Where its data begins.
        offset: u64,
    },
    /// Wait until what was sent is over.
    Wait,
    /// Nothing: all was sent.
    Sent,
}

impl Active {
    pub(super) fn new(request: &Request<'_>, has_flush: bool) -> Self {
        let wants_flush = match request.kind() {
            Kind::Write { is_through, .. } | Kind::WriteZeroes { is_through, .. } => is_through,
            Kind::Flush => true,
            Kind::Read { .. } | Kind::Discard => false,
        };
        Self {
            sent: 0,
            outstanding: 0,
            is_sent: false,
            has_failed: false,
            // A host's disk without a cache has nothing to flush.
            wants_flush: wants_flush && has_flush,
        }
    }

    /// Returns what to do next.
    pub(super) fn step(&mut self, request: &Request<'_>) -> Step {
        if self.is_sent {
            return Step::Sent;
        }
        if let Some((chunk, offset)) = self.next_chunk(request) {
            return Step::Send { chunk, offset };
        }
        if self.wants_flush && !self.has_failed {
            if self.outstanding != 0 {
                return Step::Wait;
            }
            let chunk = Chunk {
                kind: Ask::Flush,
                sector: 0,
                len_bytes: 0,
            };
            return Step::Send { chunk, offset: 0 };
        }
        self.is_sent = true;
        Step::Sent
    }

    fn next_chunk(&self, request: &Request<'_>) -> Option<(Chunk, u64)> {
        let (kind, first) = match request.kind() {
            Kind::Read { sector } => (Ask::Read, sector),
            Kind::Write { sector, .. } => (Ask::Write, sector),
            Kind::Flush => return None,
            Kind::Discard => return self.next_range(request, Ask::Discard),
            Kind::WriteZeroes { may_unmap, .. } => {
                let kind = Ask::WriteZeroes { unmap: may_unmap };
                return self.next_range(request, kind);
            }
        };
        let left = request.data_len().checked_sub(self.sent)?;
        let len_bytes = u32::try_from(left).unwrap_or(u32::MAX).min(MAX_BYTES);
        let sector = first.checked_add(self.sent / SECTOR_BYTES)?;
        let chunk = Chunk {
            kind,
            sector,
            len_bytes,
        };
        (len_bytes != 0).then_some((chunk, self.sent))
    }

    fn next_range(&self, request: &Request<'_>, kind: Ask) -> Option<(Chunk, u64)> {
        let index = usize::try_from(self.sent).ok()?;
        let range = request.ranges().get(index)?;
        // The front-end bounds the count far below what would not fit.
        let len_bytes = range.count.saturating_mul(512);
        let chunk = Chunk {
            kind,
            sector: range.sector,
            len_bytes,
        };
        Some((chunk, 0))
    }

    /// Notes that a chunk was sent.
    pub(super) fn went_out(&mut self, chunk: &Chunk) {
        self.outstanding = self.outstanding.saturating_add(1);
        match chunk.kind {
            Ask::Read | Ask::Write => self.sent += u64::from(chunk.len_bytes),
            Ask::Discard | Ask::WriteZeroes { .. } => self.sent += 1,
            Ask::Flush => self.is_sent = true,
        }
    }

    /// Notes that a chunk is over.
    pub(super) fn came_back(&mut self, is_good: bool) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.has_failed |= !is_good;
    }

    /// Sends nothing more; what comes back does not count.
    pub(super) fn give_up(&mut self) {
        self.is_sent = true;
        self.has_failed = true;
    }

    /// Returns how the request ended, once all of it is over.
    pub(super) fn outcome(&self) -> Option<Status> {
        if !self.is_sent || self.outstanding != 0 {
            return None;
        }
        Some(if self.has_failed {
            Status::IoError
        } else {
            Status::Ok
        })
    }
}
