//! A queue and where it is notified.

use crate::error::BackendError;
use crate::host::HostBus;
use crate::queue::{QUEUE_BYTES, Queue};
use crate::shared::SharedMemory;
use crate::transport::{NotifyRegister, Transport};

/// One queue of a device's.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) queue: Queue,
    notify: NotifyRegister,
    index: u16,
}

impl Line {
    /// Sets up queue `index`, of `most` entries if it may have so many.
    pub(super) fn open(
        bus: &mut impl HostBus,
        transport: &Transport,
        memory: &impl SharedMemory,
        (index, most): (u16, u16),
        has_event_index: bool,
    ) -> Result<Self, BackendError> {
        let size = transport.queue_size(bus, index)?;
        if size == 0 {
            return Err(BackendError::Queue(index));
        }
        let place = usize::from(index) * QUEUE_BYTES;
        let queue = Queue::new_truncate(place, size.min(most), has_event_index);
        let notify = transport.set_queue(bus, index, queue.size(), queue.addresses(memory))?;
        Ok(Self {
            queue,
            notify,
            index,
        })
    }

    pub(super) fn index_and_size(&self) -> (u16, u16) {
        (self.index, self.queue.size())
    }

    /// Shows the device what was queued.
    pub(super) fn publish(
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
