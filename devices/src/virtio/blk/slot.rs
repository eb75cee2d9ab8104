//! A place for a request that is with the engine.

use alloc::vec::Vec;

use stockade_bus::Gpa;

use super::config::MAX_RANGES;
use super::parse::Answer;
use super::request::{Kind, Range, Request, Status};
use crate::virtio::queue::{Head, Segment};

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing.
    Free,
    /// A restored request the engine has yet to get.
    Waiting,
    /// A request with the engine.
    Busy,
    /// A request with the engine whose device was reset.
    Orphan,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) usage: Use,
    /// Tells the requests of one slot apart.
    pub(super) serial: u32,

    pub(super) queue: u16,
    pub(super) head: Head,
    pub(super) status_gpa: Gpa,
    /// Writable bytes before the status byte.
    pub(super) before_status: u64,
    pub(super) kind: Kind,
    pub(super) data_len: u64,
    pub(super) segments: Vec<Segment>,
    pub(super) ranges: [Range; MAX_RANGES],
    pub(super) range_count: usize,
}

impl Slot {
    /// Returns a free slot for requests of up to `segments` segments.
    pub(super) fn new(segments: usize) -> Self {
        Self {
            usage: Use::Free,
            serial: 0,
            queue: 0,
            head: Head::default(),
            status_gpa: Gpa(0),
            before_status: 0,
            kind: Kind::Flush,
            data_len: 0,
            segments: Vec::with_capacity(segments),
            ranges: [Range::default(); MAX_RANGES],
            range_count: 0,
        }
    }

    pub(super) fn is(&self, serial: u32, usage: Use) -> bool {
        self.serial == serial && self.usage == usage
    }

    /// Marks the request that was parsed into the slot as being with the engine; returns its serial number.
    pub(super) fn begin(&mut self, queue: u16, head: Head) -> u32 {
        (self.queue, self.head, self.usage) = (queue, head, Use::Busy);
        self.serial
    }

    pub(super) fn release(&mut self) {
        self.usage = Use::Free;
        self.serial = self.serial.wrapping_add(1);
    }

    pub(super) fn request(&self) -> Request<'_> {
        Request {
            kind: self.kind,
            segments: &self.segments,
            ranges: self.ranges.get(..self.range_count).unwrap_or_default(),
            data_len: self.data_len,
        }
    }

    /// Returns the end of the request. Written bytes count from the first writable one on: how many of a failed read were is not
    /// known, so none are said to be.
    pub(super) fn answer(&self, status: Status) -> Answer {
        let is_filled = match self.kind {
            Kind::Read { .. } => status == Status::Ok,
            _ => self.before_status == 0,
        };
        let written = if is_filled { self.before_status + 1 } else { 0 };
        Answer {
            head: self.head,
            status_gpa: self.status_gpa,
            status,
            written: u32::try_from(written).unwrap_or(u32::MAX),
        }
    }
}
