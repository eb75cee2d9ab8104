//! One direction of a device that carries bytes: a queue, and as many buffers of one size as it has entries.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::BackendError;
use crate::host::HostBus;
use crate::queue::{MAX_SIZE, Posted, QUEUE_BYTES, Queue};
use crate::shared::SharedMemory;
use crate::transport::{NotifyRegister, Transport};

/// What the queues of both directions take of a device's shared memory.
pub(crate) const RESERVED: usize = 2 * QUEUE_BYTES;

/// How the two directions of a device are set up: queue 0 and queue 1, each with half of the memory behind the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) has_event_index: bool,
    pub(crate) buffer_bytes: usize,
}

impl Plan {
    /// Sets up queue `index`. The memory is zero.
    pub(crate) fn open(
        self,
        bus: &mut impl HostBus,
        transport: &Transport,
        memory: &impl SharedMemory,
        index: u16,
    ) -> Result<Lane, BackendError> {
        let half = memory.len_bytes().saturating_sub(RESERVED) / 2;
        let fitting = u16::try_from(half / self.buffer_bytes).unwrap_or(MAX_SIZE);
        let size = transport.queue_size(bus, index)?;
        if size == 0 {
            return Err(BackendError::Queue(index));
        }
        let place = usize::from(index) * QUEUE_BYTES;
        let queue = Queue::new_truncate(place, size.min(fitting), self.has_event_index);
        let notify = transport.set_queue(bus, index, queue.size(), queue.addresses(memory))?;
        Ok(Lane {
            notify,
            index,
            base: RESERVED + usize::from(index) * half,
            buffer_bytes: self.buffer_bytes,
            free: (0..queue.size()).rev().collect(),
            buffers: vec![0; usize::from(queue.size())].into_boxed_slice(),
            queue,
        })
    }
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: Queue,
    notify: NotifyRegister,
    pub(crate) index: u16,
    /// Where its buffers begin in shared memory, one an entry of the queue.
    base: usize,
    buffer_bytes: usize,
    /// Buffers that are nobody's.
    pub(crate) free: Vec<u16>,
    /// By queue id: which buffer.
    buffers: Box<[u16]>,
}

impl Lane {
    /// Returns where a buffer is in shared memory.
    pub(crate) fn offset(&self, buffer: u16) -> usize {
        self.base + usize::from(buffer) * self.buffer_bytes
    }

    /// Queues a buffer that is nobody's. One there is no room for stays nobody's.
    pub(crate) fn post(&mut self, memory: &impl SharedMemory, buffer: u16, posted: Posted) {
        match self.queue.post(memory, posted) {
            Some(id) => {
                if let Some(slot) = self.buffers.get_mut(usize::from(id)) {
                    *slot = buffer;
                }
            }
            None => self.free.push(buffer),
        }
    }

    /// Returns the next buffer that came back, and how many bytes the device says it wrote.
    pub(crate) fn take(
        &mut self,
        memory: &impl SharedMemory,
    ) -> Result<Option<(u16, usize)>, BackendError> {
        let Some(used) = self.queue.take(memory)? else {
            return Ok(None);
        };
        let buffer = self.buffers.get(usize::from(used.id)).copied();
        let written = usize::try_from(used.written).unwrap_or(0);
        Ok(buffer.map(|buffer| (buffer, written)))
    }

    /// Takes back what the device has sent, as much at most as the queue holds.
    pub(crate) fn reclaim(&mut self, memory: &impl SharedMemory) -> Result<(), BackendError> {
        for _ in 0..self.queue.size() {
            let Some((buffer, _)) = self.take(memory)? else {
                break;
            };
            self.free.push(buffer);
        }
        Ok(())
    }

    /// Gives the device every buffer it may fill.
    pub(crate) fn refill(&mut self, memory: &impl SharedMemory) {
        let len = u32::try_from(self.buffer_bytes).unwrap_or(0);
        while !self.queue.is_full() {
            let Some(buffer) = self.free.pop() else {
                return;
            };
            let address = memory.bus_address(self.offset(buffer));
            self.post(memory, buffer, Posted::writable(address, len));
        }
    }

    /// Shows the device what was queued.
    pub(crate) fn publish(
        &mut self,
        memory: &impl SharedMemory,
        bus: &mut impl HostBus,
    ) -> Result<(), BackendError> {
        if self.queue.publish(memory) {
            self.notify.notify(bus)?;
        }
        Ok(())
    }
}
