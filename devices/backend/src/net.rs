//! A network card of the host (virtio 1.2, section 5.1): whole frames, no offloads.
//!
//! [`Net::send`] copies a frame into a slot and queues it, [`Net::receive`] copies one out and gives the slot to the device
//! again. What frames hold is the network's to forge, with this host or without; their lengths are checked here.

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::lane::{self, Lane, Plan};
use crate::pci::DeviceType;
use crate::queue::Posted;
use crate::shared::SharedMemory;
use crate::transport::{CommonFeatures, Doorbell, Transport};
use crate::watch::Watch;

/// Bytes of the header before each frame (virtio 1.2, section 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// The most bytes of a frame: Ethernet with a VLAN tag.
pub const MAX_FRAME: usize = 1518;
/// The least shared memory for a card.
pub const MIN_MEMORY: usize = lane::RESERVED + 2 * 16 * BUFFER_BYTES;

/// Bytes of a buffer: header and frame.
const BUFFER_BYTES: usize = 2048;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const _: () = assert!(HEADER_BYTES + MAX_FRAME <= BUFFER_BYTES);

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
        let plan = Plan {
            has_event_index,
            buffer_bytes: BUFFER_BYTES,
        };
        let receive = plan.open(bus, &transport, &memory, RECEIVE)?;
        let transmit = plan.open(bus, &transport, &memory, TRANSMIT)?;
        transport.start(bus)?;
        let mut net = Self {
            transport,
            memory,
            receive,
            transmit,
            watch: Watch::default(),
            failure: None,
        };
        net.receive.refill(&net.memory);
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
        if let Err(error) = self.transmit.reclaim(&self.memory) {
            self.fail(error);
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

    /// Shows the device what was queued, and the buffers it may fill.
    pub fn publish(&mut self, bus: &mut impl HostBus) {
        if self.failure.is_some() {
            return;
        }
        self.receive.refill(&self.memory);
        let lanes = [&mut self.receive, &mut self.transmit];
        let outcome = lanes.map(|lane| lane.publish(&self.memory, bus));
        if let [Err(error), _] | [_, Err(error)] = outcome {
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

#[cfg(test)]
mod tests;
