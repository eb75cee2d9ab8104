//! A network card of the host (virtio 1.2, section 5.1): whole frames, no offloads.
//!
//! [`Net::send`] copies a frame into a slot and queues it, [`Net::receive`] copies one out and gives the slot to the device
//! again. What frames hold is the network's to forge, with this host or without; their lengths are checked here.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::pci::DeviceType;
use crate::queue::{MAX_SIZE, Posted, QUEUE_BYTES, Queue};
use crate::shared::SharedMemory;
use crate::transport::{CommonFeatures, Doorbell, NotifyRegister, Transport};
use crate::watch::Watch;

/// Bytes of the header before each frame (virtio 1.2, section 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// The most bytes of a frame: Ethernet with a VLAN tag.
pub const MAX_FRAME: usize = 1518;
/// The least shared memory for a card.
pub const MIN_MEMORY: usize = RESERVED + 2 * 16 * BUFFER_BYTES;

/// Bytes of a buffer: header and frame.
const BUFFER_BYTES: usize = 2048;
const BUFFER_LEN: u32 = 2048;
const RESERVED: usize = 2 * QUEUE_BYTES;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const _: () = assert!(HEADER_BYTES + MAX_FRAME <= BUFFER_BYTES);

/// One direction.
#[derive(Debug)]
struct Lane {
    queue: Queue,
    notify: NotifyRegister,
    index: u16,
    /// Where its buffers begin in shared memory, one an entry of the queue.
    base: usize,
    /// Buffers that are nobody's.
    free: Vec<u16>,
    /// By queue id: which buffer.
    buffers: Box<[u16]>,
}

impl Lane {
    fn offset(&self, buffer: u16) -> usize {
        self.base + usize::from(buffer) * BUFFER_BYTES
    }

    fn post(&mut self, memory: &impl SharedMemory, buffer: u16, posted: Posted) {
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
    fn take(&mut self, memory: &impl SharedMemory) -> Result<Option<(u16, usize)>, BackendError> {
        let Some(used) = self.queue.take(memory)? else {
            return Ok(None);
        };
        let buffer = self.buffers.get(usize::from(used.id)).copied();
        let written = usize::try_from(used.written).unwrap_or(0);
        Ok(buffer.map(|buffer| (buffer, written)))
    }
}

/// A network card of the host.
#[derive(Debug)]
pub struct Net<M> {
    transport: Transport,
    memory: M,
    receive: Lane,
    transmit: Lane,
    watch: Watch,
    failure: Option<BackendError>,
}

impl<M: SharedMemory> Net<M> {
    /// Opens the card at `function` with `memory`, which is zero, for itself; its interrupts go to `doorbell`.
    pub fn open(
        bus: &mut impl HostBus,
        function: Function,
        memory: M,
        doorbell: Doorbell,
    ) -> Result<Self, BackendError> {
        if memory.len_bytes() < MIN_MEMORY {
            return Err(BackendError::NoMemory);
        }
        let mut transport = Transport::open(bus, function, DeviceType::NET)?;
        let wanted = CommonFeatures::EVENT_INDEX.bits();
        let agreed = transport.negotiate(bus, 0, wanted)?;
        let has_event_index = agreed & wanted != 0;
        transport.route(bus, doorbell)?;
        let half = (memory.len_bytes() - RESERVED) / 2;
        let mut lane = |index: u16| {
            let start = RESERVED + usize::from(index) * half;
            open_lane(
                bus,
                &transport,
                &memory,
                index,
                has_event_index,
                start,
                half,
            )
        };
        let (receive, transmit) = (lane(RECEIVE)?, lane(TRANSMIT)?);
        transport.start(bus)?;
        let mut net = Self {
            transport,
            memory,
            receive,
            transmit,
            watch: Watch::default(),
            failure: None,
        };
        net.refill();
        net.publish(bus);
        net.listen();
        Ok(net)
    }

    /// Returns why the card is offline, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<BackendError> {
        self.failure
    }

    /// Returns whether a frame could be sent now.
    pub fn can_send(&mut self) -> bool {
        if self.transmit.free.is_empty() {
            self.reclaim();
        }
        self.failure.is_none() && !self.transmit.free.is_empty() && !self.transmit.queue.is_full()
    }

    /// Queues a frame; the device sees it with the next [`Self::publish`]. Returns whether there was room and it is no longer
    /// than [`MAX_FRAME`].
    pub fn send(&mut self, frame: &[u8]) -> bool {
        if frame.len() > MAX_FRAME || !self.can_send() {
            return false;
        }
        let Some(buffer) = self.transmit.free.pop() else {
            return false;
        };
        let offset = self.transmit.offset(buffer);
        self.memory.write(offset, &[0; HEADER_BYTES]);
        self.memory.write(offset + HEADER_BYTES, frame);
        let len = u32::try_from(HEADER_BYTES + frame.len()).unwrap_or(0);
        let posted = Posted::readable(self.memory.bus_address(offset), len);
        self.transmit.post(&self.memory, buffer, posted);
        true
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        for _ in 0..self.transmit.queue.size() {
            match self.transmit.take(&self.memory) {
                Ok(Some((buffer, _))) => self.transmit.free.push(buffer),
                Ok(None) => break,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Copies the next frame that came in to `frame` and returns its length. Frames that are too short to be one, or longer
    /// than `frame`, are dropped; so many are looked at in one call as the queue has entries.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        for _ in 0..self.receive.queue.size() {
            if self.failure.is_some() {
                return None;
            }
            match self.receive.take(&self.memory) {
                Ok(None) => return None,
                Err(error) => self.fail(error),
                Ok(Some((buffer, written))) => {
                    let len = written.saturating_sub(HEADER_BYTES);
                    let target = frame.get_mut(..len).filter(|target| !target.is_empty());
                    let is_taken = target.is_some();
                    let offset = self.receive.offset(buffer);
                    if let Some(target) = target {
                        self.memory.read(offset + HEADER_BYTES, target);
                    }
                    // What the device does not overwrite next time must not pass for a frame.
                    self.memory.zero(offset, written.min(BUFFER_BYTES));
                    self.receive.free.push(buffer);
                    if is_taken {
                        return Some(len);
                    }
                }
            }
        }
        None
    }

    /// Gives the device every buffer it may fill.
    fn refill(&mut self) {
        while !self.receive.queue.is_full() {
            let Some(buffer) = self.receive.free.pop() else {
                return;
            };
            let address = self.memory.bus_address(self.receive.offset(buffer));
            let posted = Posted::writable(address, BUFFER_LEN);
            self.receive.post(&self.memory, buffer, posted);
        }
    }

    /// Shows the device what was queued, and the buffers it may fill.
    pub fn publish(&mut self, bus: &mut impl HostBus) {
        if self.failure.is_some() {
            return;
        }
        self.refill();
        let lanes = [&mut self.receive, &mut self.transmit];
        let outcome = lanes.into_iter().try_for_each(|lane| {
            if lane.queue.publish(&self.memory) {
                lane.notify.notify(bus)?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    /// Asks for an interrupt with the next frame. Returns whether there already is one.
    pub fn listen(&mut self) -> bool {
        self.failure.is_none() && self.receive.queue.listen(&self.memory)
    }

    /// Asks for an interrupt with the next frame that was sent, for a sender that waits for room.
    pub fn listen_for_room(&mut self) -> bool {
        self.failure.is_none() && self.transmit.queue.listen(&self.memory)
    }

    /// Sees whether the device still says of itself what it said at first.
    pub fn check(&mut self, bus: &mut impl HostBus) {
        let sizes = [&self.receive, &self.transmit].map(|lane| (lane.index, lane.queue.size()));
        if self.failure.is_none()
            && let Err(error) = self.transport.check(bus, &sizes)
        {
            self.fail(error);
        }
    }

    /// Looks after frames the device has not sent. Returns when it is to be called next, if there are any.
    ///
    /// A device that is not what it was is offline; one that only sends nothing is as good as without a cable.
    pub fn watch(&mut self, bus: &mut impl HostBus, now_ns: u64) -> Option<u64> {
        if self.failure.is_some() || self.transmit.queue.in_flight() == 0 {
            self.watch.rest();
            return None;
        }
        if self.watch.is_time(now_ns) {
            self.reclaim();
            if self.transmit.queue.in_flight() != 0 {
                self.check(bus);
            }
            if self.failure.is_some() {
                return Some(now_ns);
            }
        }
        self.watch.due_ns()
    }

    fn fail(&mut self, error: BackendError) {
        let (function, code) = (self.transport.function(), error.code().0);
        log::error!("host network card {function} is offline, code {code}: {error}");
        self.receive.queue.kill();
        self.transmit.queue.kill();
        self.failure = Some(error);
    }
}

fn open_lane(
    bus: &mut impl HostBus,
    transport: &Transport,
    memory: &impl SharedMemory,
    index: u16,
    has_event_index: bool,
    base: usize,
    len: usize,
) -> Result<Lane, BackendError> {
    let fitting = u16::try_from(len / BUFFER_BYTES).unwrap_or(MAX_SIZE);
    let size = transport.queue_size(bus, index)?;
    if size == 0 {
        return Err(BackendError::Queue(index));
    }
    let place = usize::from(index) * QUEUE_BYTES;
    let queue = Queue::new_truncate(place, size.min(fitting), has_event_index);
    let notify = transport.set_queue(bus, index, queue.size(), queue.addresses(memory))?;
    Ok(Lane {
        notify,
        index,
        base,
        free: (0..queue.size()).rev().collect(),
        buffers: vec![0; usize::from(queue.size())].into_boxed_slice(),
        queue,
    })
}

#[cfg(test)]
mod tests;
