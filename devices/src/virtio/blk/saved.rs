//! The device's saved state.

use alloc::vec::Vec;

use stockade_bus::{Gpa, GuestMemory};

use super::Blk;
use super::config::MAX_RANGES;
use super::request::{Kind, Range, SECTOR_BYTES};
use super::slot::{Slot, Use};
use crate::RestoreError;
use crate::state::check_version;
use crate::virtio::link::{Link, LinkState};
use crate::virtio::queue::{Head, Queue, QueueState, Segment, total};

/// A request that was with the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestState {
    /// Its queue.
    pub queue: u16,
    /// Its chain.
    pub head: Head,
    /// Where its status byte goes.
    pub status_gpa: Gpa,
    /// Writable bytes before that.
    pub before_status: u64,
    /// What is to be done.
    pub kind: Kind,
    /// Where its data lies.
    pub segments: Vec<Segment>,
    /// Its ranges.
    pub ranges: Vec<Range>,
}

/// The device's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkState {
    /// Format version: 1.
    pub version: u32,
    /// What all devices have.
    pub link: LinkState,
    /// The cache is on.
    pub is_writeback: bool,
    /// The disk's size in sectors.
    pub sectors: u64,
    /// The queue that is looked at first.
    pub turn: usize,
    /// The queues.
    pub queues: Vec<Option<QueueState>>,
    /// Requests that are not ended.
    pub requests: Vec<RequestState>,
}

impl Blk {
    /// Returns the state to save. Requests with the engine are part of it, as if the engine had not got them yet; those without a
    /// device are not.
    #[must_use]
    pub fn save(&self) -> BlkState {
        let Self {
            options,
            link,
            is_writeback,
            queues,
            slots,
            free: _,
            orphans: _,
            waiting: _,
            turn,
            chain: _,
            io_errors: _,
        } = self;
        let is_alive = |slot: &&Slot| matches!(slot.usage, Use::Busy | Use::Waiting);
        BlkState {
            version: 1,
            link: link.save(),
            is_writeback: *is_writeback,
            sectors: options.sectors,
            turn: *turn,
            queues: queues
                .iter()
                .map(|queue| queue.as_ref().map(Queue::save))
                .collect(),
            requests: slots.iter().filter(is_alive).map(Slot::save).collect(),
        }
    }

    /// Takes a saved state: the engine gets the requests that were not ended again. It must have none from before.
    pub fn restore<M: GuestMemory + ?Sized>(
        &mut self,
        state: &BlkState,
        memory: &M,
    ) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        if self.in_flight() > 0 {
            return Err(RestoreError::Impossible("requests still with the engine"));
        }
        let mut options = self.options;
        options.sectors = state.sectors;
        let mut fresh = Self::new(options);
        fresh.link = Link::try_restore(&state.link, options.features())?;
        let max_size = options.queue_size;
        fresh
            .link
            .try_restore_queues(&mut fresh.queues, &state.queues, max_size, memory)?;
        for request in &state.requests {
            fresh.restore_request(request)?;
        }
        fresh.check_in_flight(state)?;
        fresh.is_writeback = state.is_writeback;
        fresh.turn = state.turn % fresh.queues.len();
        // Tokens of before stay those of requests that are ended.
        for (slot, old) in fresh.slots.iter_mut().zip(&self.slots) {
            slot.serial = old.serial.wrapping_add(1);
        }
        *self = fresh;
        Ok(())
    }

    fn restore_request(&mut self, state: &RequestState) -> Result<(), RestoreError> {
        const FULL: RestoreError = RestoreError::Impossible("number of block requests");
        let index = self.free.pop().ok_or(FULL)?;
        let is_possible = state.is_possible(self);
        let slot = self.slots.get_mut(usize::from(index)).ok_or(FULL)?;
        if !is_possible {
            return Err(RestoreError::Impossible("block request"));
        }
        slot.restore(state);
        self.waiting += 1;
        Ok(())
    }

    /// Every chain in flight is that of a request.
    fn check_in_flight(&self, state: &BlkState) -> Result<(), RestoreError> {
        let held = |queue: u16| {
            let requests = state.requests.iter().filter(|r| r.queue == queue);
            requests.fold(0_u16, |sum, r| sum.saturating_add(r.head.descriptors))
        };
        let held: Vec<u16> = (0..self.options.queues).map(held).collect();
        self.link.check_in_flight(&self.queues, &held)
    }
}

impl Slot {
    fn save(&self) -> RequestState {
        let Self {
            usage: _,
            serial: _,
            queue,
            head,
            status_gpa,
            before_status,
            kind,
            data_len: _,
            segments,
            ranges,
            range_count,
        } = self;
        RequestState {
            queue: *queue,
            head: *head,
            status_gpa: *status_gpa,
            before_status: *before_status,
            kind: *kind,
            segments: segments.clone(),
            ranges: ranges.iter().take(*range_count).copied().collect(),
        }
    }

    fn restore(&mut self, state: &RequestState) {
        self.usage = Use::Waiting;
        (self.queue, self.head) = (state.queue, state.head);
        (self.status_gpa, self.before_status) = (state.status_gpa, state.before_status);
        (self.kind, self.data_len) = (state.kind, total(&state.segments));
        self.segments.clear();
        self.segments.extend_from_slice(&state.segments);
        self.range_count = state.ranges.len();
        for (place, range) in self.ranges.iter_mut().zip(&state.ranges) {
            *place = *range;
        }
    }
}

impl RequestState {
    /// Returns whether the device could have made this request of a chain.
    fn is_possible(&self, blk: &Blk) -> bool {
        let options = &blk.options;
        let data_len = total(&self.segments);
        let sectors = data_len / SECTOR_BYTES;
        let is_placed = match self.kind {
            Kind::Read { sector } => {
                options.has(sector, sectors) && data_len > 0 && self.before_status == data_len
            }
            Kind::Write { sector, .. } => {
                options.has(sector, sectors) && data_len > 0 && !options.is_read_only
            }
            Kind::Flush => data_len == 0,
            Kind::Discard | Kind::WriteZeroes { .. } => data_len == 0 && !options.is_read_only,
        };
        let has_queue = matches!(blk.queues.get(usize::from(self.queue)), Some(Some(_)));
        let are_ranges = matches!(self.kind, Kind::Discard | Kind::WriteZeroes { .. });
        let on_disk = |range: &Range| options.has(range.sector, range.count.into());
        has_queue
            && is_placed
            && self.head.descriptors > 0
            && data_len.is_multiple_of(SECTOR_BYTES)
            && data_len <= u64::from(u32::MAX)
            && self.before_status <= u64::from(u32::MAX)
            && self.segments.len() <= options.segments()
            && self.ranges.len() <= MAX_RANGES
            && are_ranges != self.ranges.is_empty()
            && self.ranges.iter().all(on_disk)
    }
}
