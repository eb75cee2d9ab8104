//! Buffers of one size, as many as the queue has entries: the device fills them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::Plan;
use super::line::Line;
use crate::error::BackendError;
use crate::host::HostBus;
use crate::queue::{MAX_SIZE, Posted};
use crate::shared::SharedMemory;
use crate::transport::Transport;

const QUEUE: u16 = 0;

/// A buffer that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    buffer: u16,
    /// How many bytes the device says it wrote; at most what fits.
    pub(crate) written: usize,
}

/// Whether something came before an interrupt was asked for, of which none may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Nothing,
    Something,
}

/// The direction from the device.
#[derive(Debug)]
pub(super) struct Inbox {
    line: Line,
    /// Where its buffers begin in shared memory.
    base: usize,
    buffer_bytes: usize,
    /// Buffers that are nobody's.
    free: Vec<u16>,
    /// By queue id: which buffer.
    buffers: Box<[u16]>,
}

impl Inbox {
    pub(super) fn open(
        bus: &mut impl HostBus,
        transport: &Transport,
        memory: &impl SharedMemory,
        place: Range<usize>,
        plan: Plan,
    ) -> Result<Self, BackendError> {
        let fitting = u16::try_from(place.len() / plan.buffer_bytes).unwrap_or(MAX_SIZE);
        let has_event_index = plan.has_event_index;
        let line = Line::open(bus, transport, memory, (QUEUE, fitting), has_event_index)?;
        let size = line.queue.size();
        Ok(Self {
            line,
            base: place.start,
            buffer_bytes: plan.buffer_bytes,
            free: (0..size).rev().collect(),
            buffers: vec![0; usize::from(size)].into_boxed_slice(),
        })
    }

    pub(super) fn size(&self) -> u16 {
        self.line.queue.size()
    }

    pub(super) fn index_and_size(&self) -> (u16, u16) {
        self.line.index_and_size()
    }

    fn offset(&self, buffer: u16) -> usize {
        self.base + usize::from(buffer) * self.buffer_bytes
    }

    /// Returns the next buffer that came in.
    pub(super) fn take(
        &mut self,
        memory: &impl SharedMemory,
    ) -> Result<Option<Filled>, BackendError> {
        let Some(used) = self.line.queue.take(memory)? else {
            return Ok(None);
        };
        let written = usize::try_from(used.written).unwrap_or(0);
        let buffer = self.buffers.get(usize::from(used.id)).copied();
        Ok(buffer.map(|buffer| Filled { buffer, written }))
    }

    pub(super) fn read(
        &self,
        memory: &impl SharedMemory,
        filled: Filled,
        from: usize,
        bytes: &mut [u8],
    ) {
        let room = self.buffer_bytes.saturating_sub(from).min(bytes.len());
        let (inside, beyond) = bytes.split_at_mut(room);
        memory.read(self.offset(filled.buffer) + from, inside);
        beyond.fill(0);
    }

    pub(super) fn recycle(&mut self, memory: &impl SharedMemory, filled: Filled) {
        let written = filled.written.min(self.buffer_bytes);
        memory.zero(self.offset(filled.buffer), written);
        self.free.push(filled.buffer);
    }

    /// Gives the device every buffer it may fill.
    pub(super) fn publish(
        &mut self,
        memory: &impl SharedMemory,
        bus: &mut impl HostBus,
    ) -> Result<(), BackendError> {
        let len = u32::try_from(self.buffer_bytes).unwrap_or(0);
        while let Some(buffer) = self.free.pop() {
            let address = memory.bus_address(self.offset(buffer));
            let posted = Posted::writable(address, len);
            let Some(id) = self.line.queue.post(memory, posted) else {
                self.free.push(buffer);
                break;
            };
            if let Some(place) = self.buffers.get_mut(usize::from(id)) {
                *place = buffer;
            }
        }
        self.line.publish(memory, bus)
    }

    /// Asks for an interrupt with the next buffer.
    pub(super) fn listen(&mut self, memory: &impl SharedMemory) -> Came {
        if self.line.queue.listen(memory) {
            Came::Something
        } else {
            Came::Nothing
        }
    }

    pub(super) fn kill(&mut self) {
        self.line.queue.kill();
    }
}
