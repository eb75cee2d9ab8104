//! A network card of the host (virtio 1.2, section 5.1).
//!
//! [`Net::send`] copies a frame and its header into shared memory and queues it, [`Net::receive`] copies one out and gives its buffers to the
//! device again. What frames hold is the network's to forge, with this host or without; their lengths, and how many buffers they lie in,
//! are checked here. What a header says of a frame is for the caller to judge: nothing follows from it here.

use bitflags::bitflags;

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::lanes::{Came, Filled, Lanes, Plan, RESERVED};
use crate::pci::DeviceType;
use crate::shared::SharedMemory;
use crate::transport::{CommonFeatures, Doorbell, Transport};

/// Bytes of the header before each frame (virtio 1.2, section 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// The most bytes of a frame that is not to be split: Ethernet with a VLAN tag.
pub const MAX_FRAME: usize = 1518;
/// The most bytes of one that is: the longest packet, and the same around it.
pub const MAX_LARGE_FRAME: usize = 65_535 + 18;
/// The least shared memory for a card.
pub const MIN_MEMORY: usize = RESERVED + 2 * 16 * BUFFER_BYTES;

/// Bytes of a buffer for what is received.
const BUFFER_BYTES: usize = 2048;
/// Where a header says how many buffers a frame lies in.
const NUM_BUFFERS: usize = 10;
/// Shared memory that is enough for large frames: two of them either way.
const LARGE_MEMORY: usize = RESERVED + 4 * (MAX_LARGE_FRAME + HEADER_BYTES);

const _: () = assert!(HEADER_BYTES + MAX_FRAME <= BUFFER_BYTES);

bitflags! {
    /// What the card and we may leave undone to frames (virtio 1.2, section 5.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: u64 {
        /// We may leave checksums to the card.
        const CHECKSUM = 1 << 0;
        /// The card may leave checksums to us.
        const GUEST_CHECKSUM = 1 << 1;
        /// The card may give us large TCP packets over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The card may give us large TCP packets over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// Those may have congestion marks.
        const GUEST_ECN = 1 << 9;
        /// We may give the card large TCP packets over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// We may give the card large TCP packets over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// Those may have congestion marks.
        const HOST_ECN = 1 << 13;
        /// A received frame may lie in several buffers.
        const MERGED = 1 << 15;
    }
}

impl Offloads {
    const LARGE_SENT: Self = Self::HOST_TSO4.union(Self::HOST_TSO6);
    const LARGE_RECEIVED: Self = Self::GUEST_TSO4.union(Self::GUEST_TSO6);

    /// Returns what of an offer can be taken: nothing whose conditions are not offered too (virtio 1.2, section 5.1.3.1), and large frames
    /// only with enough memory.
    fn taken_of(offered: u64, memory_bytes: usize) -> Self {
        let mut taken = Self::from_bits_truncate(offered);
        if memory_bytes < LARGE_MEMORY || !taken.contains(Self::CHECKSUM) {
            taken.remove(Self::LARGE_SENT);
        }
        let large = Self::GUEST_CHECKSUM | Self::MERGED;
        if memory_bytes < LARGE_MEMORY || !taken.contains(large) {
            taken.remove(Self::LARGE_RECEIVED);
        }
        for (marked, large) in [
            (Self::HOST_ECN, Self::LARGE_SENT),
            (Self::GUEST_ECN, Self::LARGE_RECEIVED),
        ] {
            if !taken.intersects(large) {
                taken.remove(marked);
            }
        }
        taken
    }
}

/// A frame that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What the host says of it.
    pub header: [u8; HEADER_BYTES],
    /// Its bytes.
    pub len: usize,
}

/// A network card of the host.
#[derive(Debug)]
pub struct Net<M> {
    lanes: Lanes<M>,
    offloads: Offloads,
    /// Frames of impossible lengths, or in impossible numbers of buffers.
    dropped: u64,
}

impl<M: SharedMemory> Net<M> {
    /// Opens the card at `function` with `memory`, which is zero, for itself; its interrupts go to `doorbell`.
    pub fn open(
        bus: &mut impl HostBus,
        function: Function,
        memory: M,
        doorbell: Doorbell,
    ) -> Result<Self, BackendError> {
        let bytes = memory.len_bytes();
        if bytes < MIN_MEMORY {
            return Err(BackendError::NoMemory);
        }
        let mut transport = Transport::open(bus, function, DeviceType::NET)?;
        let event_index = CommonFeatures::EVENT_INDEX.bits();
        let agreed = transport.negotiate_by(bus, 0, |offered| {
            event_index | Offloads::taken_of(offered, bytes).bits()
        })?;
        transport.route(bus, doorbell)?;
        let plan = Plan {
            kind: "network card",
            has_event_index: agreed & event_index != 0,
            buffer_bytes: BUFFER_BYTES,
        };
        Ok(Self {
            lanes: Lanes::open(bus, transport, memory, plan)?,
            offloads: Offloads::from_bits_truncate(agreed),
            dropped: 0,
        })
    }

    /// Returns what may be left undone to frames.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Returns why the card is offline, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<BackendError> {
        self.lanes.failure()
    }

    /// Returns how many frames the card gave that cannot be.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the most bytes of a frame that is sent.
    #[must_use]
    pub fn longest_sent(&self) -> usize {
        longest(self.offloads.intersects(Offloads::LARGE_SENT))
    }

    /// Returns whether a frame of `len` bytes could be sent now.
    pub fn can_send(&mut self, len: usize) -> bool {
        self.lanes.can_send(HEADER_BYTES + len)
    }

    /// Queues a frame; the device sees it with the next [`Self::publish`]. Returns whether there was room and it is no longer
    /// than [`Self::longest_sent`].
    pub fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> bool {
        frame.len() <= self.longest_sent() && self.lanes.send([header, frame])
    }

    /// Copies the next frame that came in to `frame`. What cannot be one is dropped; so many are looked at in one call as the queue
    /// has entries.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<Received> {
        for _ in 0..self.lanes.inbox_size() {
            let first = self.lanes.next_in()?;
            let received = self.take(first, frame);
            if received.is_some() {
                return received;
            }
            self.dropped = self.dropped.saturating_add(1);
        }
        None
    }

    /// Takes the frame that begins in `first`, with all the buffers it says it lies in.
    fn take(&mut self, first: Filled, frame: &mut [u8]) -> Option<Received> {
        let mut header = [0; HEADER_BYTES];
        if first.written >= HEADER_BYTES {
            self.lanes.read_in(first, 0, &mut header);
        }
        let more = self.more_buffers(&header);
        let mut len = self.append(first, HEADER_BYTES, frame, Some(0));
        for _ in 0..more.unwrap_or(0) {
            // All buffers of a frame are there together (virtio 1.2, section 5.1.6.4).
            let next = self.lanes.next_in()?;
            len = self.append(next, 0, frame, len);
        }
        let most = longest(self.offloads.intersects(Offloads::LARGE_RECEIVED));
        let len = len.filter(|len| (1..=most).contains(len) && more.is_some())?;
        Some(Received { header, len })
    }

    /// Returns how many buffers follow the first; `None` if the header says what cannot be.
    fn more_buffers(&self, header: &[u8; HEADER_BYTES]) -> Option<u16> {
        if !self.offloads.contains(Offloads::MERGED) {
            return Some(0);
        }
        let number = header.get(NUM_BUFFERS..)?.first_chunk()?;
        let more = u16::from_le_bytes(*number).checked_sub(1)?;
        (more < self.lanes.inbox_size()).then_some(more)
    }

    /// Copies a buffer from byte `from` on to `frame` at `len`, and gives it back. Returns how long the frame is with it.
    fn append(
        &mut self,
        filled: Filled,
        from: usize,
        frame: &mut [u8],
        len: Option<usize>,
    ) -> Option<usize> {
        let target = len.and_then(|start| {
            let end = start.checked_add(filled.written.checked_sub(from)?)?;
            frame.get_mut(start..end).map(|target| (target, end))
        });
        let len = target.map(|(target, end)| {
            self.lanes.read_in(filled, from, target);
            end
        });
        self.lanes.recycle(filled);
        len
    }

    /// Shows the device what was queued, and the buffers it may fill.
    pub fn publish(&mut self, bus: &mut impl HostBus) {
        self.lanes.publish(bus);
    }

    /// Asks for an interrupt with the next frame. Returns whether there already is one.
    pub fn listen(&mut self) -> bool {
        self.lanes.listen() == Came::Something
    }

    /// Asks for an interrupt when frames were sent, for a sender that waits for room for one of `len` bytes. Returns whether there is.
    pub fn listen_for_room(&mut self, len: usize) -> bool {
        self.lanes.listen_for_room(HEADER_BYTES + len)
    }

    /// Sees whether the device still says of itself what it said at first.
    pub fn check(&mut self, bus: &mut impl HostBus) {
        self.lanes.check(bus);
    }

    /// Looks after frames the device has not sent. Returns when it is to be called next, if there are any.
    ///
    /// A device that is not what it was is offline; one that only sends nothing is as good as without a cable.
    pub fn watch(&mut self, bus: &mut impl HostBus, now_ns: u64) -> Option<u64> {
        self.lanes.watch(bus, now_ns)
    }
}

fn longest(is_large: bool) -> usize {
    if is_large { MAX_LARGE_FRAME } else { MAX_FRAME }
}

#[cfg(test)]
mod tests;
