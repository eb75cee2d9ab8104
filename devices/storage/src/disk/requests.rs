//! The requests in progress.
//!
//! A request waits while an earlier one touches the same blocks and one of the two changes them. So a block that is being read is
//! never given up, and of two writes to parts of a block none is lost.

use alloc::vec::Vec;
use core::ops::Range;

use super::request::{Completion, Kind, Request, RequestError, SECTORS};
use crate::host::{BLOCK_BYTES, SECTOR_BYTES, Token};

/// A request in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    request: Request,
    /// Grows with each request.
    pub(crate) sequence: u64,
    /// The first block nothing was started for yet.
    pub(crate) cursor: u64,
    /// The end of its blocks.
    pub(crate) end: u64,
    /// Transfers for it.
    in_flight: usize,
    error: Option<RequestError>,
    /// Of a flush, the generation that has to be safe.
    pub(crate) needs: Option<u64>,
}

/// What part of a block a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The bytes of the block.
    pub(crate) bytes: Range<usize>,
    /// Where they are in the guest's buffer.
    pub(crate) offset: usize,
}

impl Span {
    /// Returns whether this is all of the block.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes == (0..BLOCK_BYTES)
    }
}

impl Active {
    pub(crate) fn kind(&self) -> Kind {
        self.request.kind
    }

    pub(crate) fn is_flush(&self) -> bool {
        self.request.kind == Kind::Flush
    }

    pub(crate) fn token(&self) -> Token {
        self.request.token
    }

    /// Fails a flush that waits for a generation above this one, which will not be safe.
    pub(crate) fn fail_above(&mut self, safe: u64) {
        if self.needs.is_some_and(|generation| generation > safe) {
            self.error.get_or_insert(RequestError::Offline);
        }
    }

    /// Returns whether nothing more is to be started for it.
    pub(crate) fn is_started(&self) -> bool {
        self.error.is_some() || self.cursor >= self.end
    }

    /// Returns what part of this block the request is about.
    pub(crate) fn span(&self, block: u64) -> Span {
        let bytes = SECTOR_BYTES as u64;
        let start = self.request.sector * bytes;
        let end = start + self.request.sectors * bytes;
        let first = block * BLOCK_BYTES as u64;
        let from = start.clamp(first, first + BLOCK_BYTES as u64);
        let to = end.clamp(from, first + BLOCK_BYTES as u64);
        // Both differences are below the length of a block.
        let within = |position: u64| usize::try_from(position - first).unwrap_or(0);
        Span {
            bytes: within(from)..within(to),
            offset: usize::try_from(from - start).unwrap_or(usize::MAX),
        }
    }

    /// Returns the blocks it touches, also in part.
    fn blocks(&self) -> Range<u64> {
        let end = self.request.sector + self.request.sectors;
        self.request.sector / SECTORS..end.div_ceil(SECTORS)
    }

    fn conflicts_with(&self, other: &Self) -> bool {
        let changes = |active: &Self| active.kind() != Kind::Read;
        let (these, those) = (self.blocks(), other.blocks());
        (changes(self) || changes(other)) && these.start < those.end && those.start < these.end
    }
}

/// The requests in progress, at most as many as were made room for.
#[derive(Debug)]
pub(crate) struct Requests {
    table: Vec<Option<Active>>,
    sequence: u64,
    /// Whose turn it is.
    turn: usize,
}

impl Requests {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            table: alloc::vec![None; capacity],
            sequence: 0,
            turn: 0,
        }
    }

    /// Takes a request that was found to be within the disk.
    pub(crate) fn submit(&mut self, request: Request) -> Result<(), RequestError> {
        let free = self.table.iter_mut().find(|active| active.is_none());
        let free = free.ok_or(RequestError::Busy)?;
        self.sequence += 1;
        let (cursor, end) = match request.kind {
            Kind::Flush => (0, 0),
            Kind::Discard => {
                let end = (request.sector + request.sectors) / SECTORS;
                (request.sector.div_ceil(SECTORS), end)
            }
            Kind::Read | Kind::Write | Kind::WriteZeroes => {
                let end = (request.sector + request.sectors).div_ceil(SECTORS);
                (request.sector / SECTORS, end)
            }
        };
        *free = Some(Active {
            request,
            sequence: self.sequence,
            cursor,
            end,
            in_flight: 0,
            error: None,
            needs: None,
        });
        Ok(())
    }

    /// Returns the sequence number of the latest request.
    pub(crate) fn latest(&self) -> u64 {
        self.sequence
    }

    /// Returns how many places there are.
    pub(crate) fn capacity(&self) -> usize {
        self.table.len()
    }

    /// Returns the place whose turn it is after `skipped` others.
    pub(crate) fn in_turn(&self, skipped: usize) -> usize {
        (self.turn + skipped) % self.table.len().max(1)
    }

    /// Has the turn go on after this place.
    pub(crate) fn pass_turn(&mut self, index: usize) {
        self.turn = index + 1;
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Active> {
        self.table.get(index)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Active> {
        self.table.get_mut(index)?.as_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Active> {
        self.table.iter_mut().flatten()
    }

    /// Returns whether something is left to start for a request and no earlier one stands in its way.
    pub(crate) fn may_start(&self, index: usize) -> bool {
        let Some(active) = self.get(index) else {
            return false;
        };
        let is_in_the_way =
            |other: &Active| other.sequence < active.sequence && other.conflicts_with(active);
        !active.is_started() && !self.table.iter().flatten().any(is_in_the_way)
    }

    /// Fails a request; the first error is the one that is told.
    pub(crate) fn fail(&mut self, index: usize, error: RequestError) {
        if let Some(active) = self.get_mut(index) {
            active.error.get_or_insert(error);
        }
    }

    /// Counts a transfer for a request and the blocks it is about.
    pub(crate) fn began(&mut self, index: usize, blocks: u64) {
        if let Some(active) = self.get_mut(index) {
            active.in_flight += 1;
            active.cursor += blocks;
        }
    }

    /// Ends a transfer for a request.
    pub(crate) fn ended(&mut self, index: usize) {
        if let Some(active) = self.get_mut(index) {
            active.in_flight = active.in_flight.saturating_sub(1);
        }
    }

    /// Takes a request out that is done. `safe` is the generation that is durable and anchored.
    pub(crate) fn take_done(&mut self, safe: u64) -> Option<Completion> {
        let is_done = |active: &Active| {
            let waits = active.kind() == Kind::Flush
                && active.error.is_none()
                && active.needs.is_none_or(|generation| generation > safe);
            active.in_flight == 0 && active.is_started() && !waits
        };
        let place = self
            .table
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(is_done))?;
        let active = place.take()?;
        Some(Completion {
            token: active.request.token,
            result: active.error.map_or(Ok(()), Err),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Requests, Span};
    use crate::disk::request::{Kind, Request, RequestError};
    use crate::host::Token;

    fn request(kind: Kind, sector: u64, sectors: u64) -> Request {
        Request {
            token: Token(sector),
            kind,
            sector,
            sectors,
        }
    }

    fn requests(list: &[Request]) -> Requests {
        let mut requests = Requests::new(list.len());
        for request in list {
            requests.submit(*request).unwrap();
        }
        requests
    }

    #[test]
    fn requests_for_parts_of_a_block_wait_for_each_other_unless_both_read() {
        let read = |sector| request(Kind::Read, sector, 1);
        let write = |sector| request(Kind::Write, sector, 1);
        assert!(requests(&[read(0), read(7)]).may_start(1));
        assert!(!requests(&[read(0), write(7)]).may_start(1));
        assert!(!requests(&[write(0), read(7)]).may_start(1));
        assert!(!requests(&[write(0), write(7)]).may_start(1));
        assert!(requests(&[write(0), write(8)]).may_start(1));
        assert!(requests(&[write(0), write(7)]).may_start(0));
    }

    #[test]
    fn only_whole_blocks_are_discarded() {
        let list = requests(&[request(Kind::Discard, 1, 30), request(Kind::Discard, 1, 6)]);
        let active = list.get(0).unwrap();
        assert_eq!((active.cursor, active.end), (1, 3));
        assert!(list.get(1).unwrap().is_started());
    }

    #[test]
    fn spans_cut_the_request_into_blocks() {
        let list = requests(&[request(Kind::Write, 6, 11)]);
        let active = list.get(0).unwrap();
        let span = |bytes, offset| Span { bytes, offset };
        assert_eq!(active.span(0), span(3072..4096, 0));
        assert_eq!(active.span(1), span(0..4096, 1024));
        assert_eq!(active.span(2), span(0..512, 5120));
        assert!(active.span(1).is_whole());
    }

    #[test]
    fn a_request_is_done_once_all_its_transfers_are() {
        let mut list = requests(&[request(Kind::Read, 0, 16)]);
        assert_eq!(list.take_done(0), None);
        list.began(0, 1);
        list.began(0, 1);
        list.ended(0);
        assert_eq!(list.take_done(0), None);
        list.fail(0, RequestError::Forged);
        list.fail(0, RequestError::Host);
        list.ended(0);
        assert_eq!(list.take_done(0).unwrap().result, Err(RequestError::Forged));
        assert_eq!(list.take_done(0), None);
    }

    #[test]
    fn a_flush_waits_for_its_generation() {
        let mut list = requests(&[request(Kind::Flush, 0, 0)]);
        assert_eq!(list.take_done(9), None);
        list.get_mut(0).unwrap().needs = Some(9);
        assert_eq!(list.take_done(8), None);
        assert!(list.take_done(9).is_some());
    }

    #[test]
    fn a_full_table_refuses() {
        let mut list = requests(&[request(Kind::Read, 0, 1)]);
        let refused = list.submit(request(Kind::Read, 8, 1));
        assert_eq!(refused, Err(RequestError::Busy));
    }
}
