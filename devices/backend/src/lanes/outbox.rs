//! Stretches of bytes on their way to the device, each in one piece, one behind the other in a ring of shared memory.
//!
//! A stretch's memory is free again once it and all before it were sent; a device that sends in another order has to wait for itself.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use core::ops::Range;

use super::line::Line;
use crate::error::BackendError;
use crate::host::HostBus;
use crate::queue::{MAX_SIZE, Posted};
use crate::shared::SharedMemory;
use crate::transport::Transport;

const QUEUE: u16 = 1;
/// Stretches begin at multiples of this.
const ALIGNMENT: usize = 64;

/// A stretch that was sent, or one of after such.
#[derive(Clone, Copy, Debug)]
struct Flight {
    start: usize,
    end: usize,
    is_over: bool,
}

/// The direction to the device.
#[derive(Debug)]
pub(super) struct Outbox {
    line: Line,
    /// Its part of shared memory.
    base: usize,
    len: usize,
    /// Oldest first; as many at most as the queue has entries.
    flights: VecDeque<Flight>,
    /// How many flights there were before the oldest.
    forgotten: u64,
    /// By queue id: the how manieth flight.
    numbers: Box<[u64]>,
}

impl Outbox {
    pub(super) fn open(
        bus: &mut impl HostBus,
        transport: &Transport,
        memory: &impl SharedMemory,
        place: Range<usize>,
        has_event_index: bool,
    ) -> Result<Self, BackendError> {
        let line = Line::open(bus, transport, memory, (QUEUE, MAX_SIZE), has_event_index)?;
        let size = usize::from(line.queue.size());
        Ok(Self {
            line,
            base: place.start,
            len: place.len(),
            flights: VecDeque::with_capacity(size),
            forgotten: 0,
            numbers: vec![0; size].into_boxed_slice(),
        })
    }

    pub(super) fn index_and_size(&self) -> (u16, u16) {
        self.line.index_and_size()
    }

    pub(super) fn is_sending(&self) -> bool {
        self.line.queue.in_flight() != 0
    }

    /// Returns how many stretches were sent and taken back.
    pub(super) fn sent(&self) -> u64 {
        self.forgotten
    }

    /// Returns where a stretch of so many bytes would go.
    fn place(&self, len: usize) -> Option<usize> {
        let is_full = self.flights.len() >= usize::from(self.line.queue.size());
        if is_full || self.line.queue.is_full() || len == 0 {
            return None;
        }
        let (Some(oldest), Some(newest)) = (self.flights.front(), self.flights.back()) else {
            return (len <= self.len).then_some(0);
        };
        let next = newest.end.next_multiple_of(ALIGNMENT);
        // The end of the newest never reaches the start of the oldest, so that a full ring does not look empty.
        if newest.end < oldest.start {
            return (next + len < oldest.start).then_some(next);
        }
        if next + len <= self.len {
            return Some(next);
        }
        (len < oldest.start).then_some(0)
    }

    /// Returns whether there is room for so many bytes.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.place(len).is_some()
    }

    /// Copies the parts one behind the other and queues them as one. Returns whether there was room.
    pub(super) fn send<const N: usize>(
        &mut self,
        memory: &impl SharedMemory,
        parts: [&[u8]; N],
    ) -> bool {
        let len = parts.iter().map(|part| part.len()).sum();
        let (Some(start), Ok(posted_len)) = (self.place(len), u32::try_from(len)) else {
            return false;
        };
        let mut at = self.base + start;
        let posted = Posted::readable(memory.bus_address(at), posted_len);
        for part in parts {
            memory.write(at, part);
            at += part.len();
        }
        let Some(id) = self.line.queue.post(memory, posted) else {
            return false;
        };
        if let Some(number) = self.numbers.get_mut(usize::from(id)) {
            *number = self.forgotten + self.flights.len() as u64;
        }
        self.flights.push_back(Flight {
            start,
            end: start + len,
            is_over: false,
        });
        true
    }

    /// Takes back what the device has sent, as much at most as the queue holds.
    pub(super) fn reclaim(&mut self, memory: &impl SharedMemory) -> Result<(), BackendError> {
        for _ in 0..self.line.queue.size() {
            let Some(used) = self.line.queue.take(memory)? else {
                break;
            };
            let number = self.numbers.get(usize::from(used.id)).copied();
            let behind = number.and_then(|number| number.checked_sub(self.forgotten));
            let index = behind.and_then(|behind| usize::try_from(behind).ok());
            if let Some(flight) = index.and_then(|index| self.flights.get_mut(index)) {
                flight.is_over = true;
            }
        }
        while self.flights.front().is_some_and(|flight| flight.is_over) {
            self.flights.pop_front();
            self.forgotten += 1;
        }
        Ok(())
    }

    pub(super) fn publish(
        &mut self,
        memory: &impl SharedMemory,
        bus: &mut impl HostBus,
    ) -> Result<(), BackendError> {
        self.line.publish(memory, bus)
    }

    /// Asks for an interrupt when half of what there is was sent. Returns whether it already is.
    pub(super) fn listen(&mut self, memory: &impl SharedMemory) -> bool {
        let half = self.line.queue.in_flight() / 2;
        self.line.queue.listen_after(memory, half)
    }

    pub(super) fn kill(&mut self) {
        self.line.queue.kill();
    }
}
