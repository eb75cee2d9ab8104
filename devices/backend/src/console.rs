//! A console of the host (virtio 1.2, section 5.3): one port, characters both ways.
//!
//! [`Console::send`] copies characters into a buffer and queues it, [`Console::receive`] copies some out. What they say is anybody's
//! to forge, as on any console.

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::lane::{self, Lane, Plan};
use crate::pci::DeviceType;
use crate::queue::Posted;
use crate::shared::SharedMemory;
use crate::transport::{CommonFeatures, Doorbell, Transport};

/// The most characters sent or received at once.
pub const BUFFER_BYTES: usize = 512;
/// Shared memory of a console: its queues, and 16 buffers either way.
pub const MEMORY: usize = lane::RESERVED + 2 * 16 * BUFFER_BYTES;

/// The device says how large the console is.
const SIZE_FEATURE: u64 = 1;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// A console's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// What a console has that does not say.
    const USUAL: Self = Self {
        columns: 80,
        rows: 25,
    };
}

/// A console of the host.
#[derive(Debug)]
pub struct Console<M> {
    transport: Transport,
    memory: M,
    receive: Lane,
    transmit: Lane,
    /// A buffer that came in, how much of it was taken, and how much there is.
    open: Option<(u16, usize, usize)>,
    has_size: bool,
    size: Size,
    failure: Option<BackendError>,
}

impl<M: SharedMemory> Console<M> {
    /// Opens the console at `function` with `memory`, which is zero, for itself; its interrupts go to `doorbell`.
    pub fn open(
        bus: &mut impl HostBus,
        function: Function,
        memory: M,
        doorbell: Doorbell,
    ) -> Result<Self, BackendError> {
        if memory.len_bytes() < MEMORY {
            return Err(BackendError::NoMemory);
        }
        let mut transport = Transport::open(bus, function, DeviceType::CONSOLE)?;
        let wanted = CommonFeatures::EVENT_INDEX.bits() | SIZE_FEATURE;
        let agreed = transport.negotiate(bus, 0, wanted)?;
        transport.route(bus, doorbell)?;
        let plan = Plan {
            has_event_index: agreed & CommonFeatures::EVENT_INDEX.bits() != 0,
            buffer_bytes: BUFFER_BYTES,
        };
        let receive = plan.open(bus, &transport, &memory, RECEIVE)?;
        let transmit = plan.open(bus, &transport, &memory, TRANSMIT)?;
        transport.start(bus)?;
        let mut console = Self {
            transport,
            memory,
            receive,
            transmit,
            open: None,
            has_size: agreed & SIZE_FEATURE != 0,
            size: Size::USUAL,
            failure: None,
        };
        console.size = console.read_size(bus)?;
        console.publish(bus);
        console.listen();
        Ok(console)
    }

    /// Returns how large the console last said it is.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Returns why the console is offline, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<BackendError> {
        self.failure
    }

    /// Returns whether characters could be sent now.
    pub fn can_send(&mut self) -> bool {
        if self.transmit.free.is_empty()
            && let Err(error) = self.transmit.reclaim(&self.memory)
        {
            self.fail(error);
        }
        self.failure.is_none() && !self.transmit.free.is_empty() && !self.transmit.queue.is_full()
    }

    /// Queues characters, at most [`BUFFER_BYTES`]; the device sees them with the next [`Self::publish`]. Returns whether there was
    /// room.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > BUFFER_BYTES || !self.can_send() {
            return false;
        }
        let Some(buffer) = self.transmit.free.pop() else {
            return false;
        };
        let offset = self.transmit.offset(buffer);
        self.memory.write(offset, bytes);
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        let posted = Posted::readable(self.memory.bus_address(offset), len);
        self.transmit.post(&self.memory, buffer, posted);
        true
    }

    /// Copies characters that came in to `bytes` and returns how many; 0 if there are none.
    pub fn receive(&mut self, bytes: &mut [u8]) -> usize {
        for _ in 0..=self.receive.queue.size() {
            if self.open.is_none() && !self.open_next() {
                return 0;
            }
            let Some((buffer, from, to)) = self.open.take() else {
                return 0;
            };
            let len = bytes.len().min(to - from);
            let offset = self.receive.offset(buffer);
            let target = bytes.get_mut(..len).unwrap_or_default();
            self.memory.read(offset + from, target);
            if from + len < to {
                self.open = Some((buffer, from + len, to));
            } else {
                // What the device does not overwrite next time must not pass for characters.
                self.memory.zero(offset, to);
                self.receive.free.push(buffer);
            }
            if len != 0 {
                return len;
            }
        }
        0
    }

    /// Takes the next buffer that came in. The queue has seen to it that the device says no more than fits.
    fn open_next(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        match self.receive.take(&self.memory) {
            Ok(None) => false,
            Ok(Some((buffer, written))) => {
                self.open = Some((buffer, 0, written.min(BUFFER_BYTES)));
                true
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
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

    /// Asks for an interrupt with the next characters. Returns whether there already are some.
    pub fn listen(&mut self) -> bool {
        self.failure.is_none() && self.receive.queue.listen(&self.memory)
    }

    /// Asks for an interrupt with the next characters that were sent, for a sender that waits for room.
    pub fn listen_for_room(&mut self) -> bool {
        self.failure.is_none() && self.transmit.queue.listen(&self.memory)
    }

    /// Sees whether the device still says of itself what it said at first, and how large the console is now.
    pub fn check(&mut self, bus: &mut impl HostBus) {
        if self.failure.is_some() {
            return;
        }
        let sizes = [&self.receive, &self.transmit].map(|lane| (lane.index, lane.queue.size()));
        let checked = self.transport.check(bus, &sizes);
        match checked.and_then(|()| self.read_size(bus)) {
            Ok(size) => self.size = size,
            Err(error) => self.fail(error),
        }
    }

    fn read_size(&self, bus: &mut impl HostBus) -> Result<Size, BackendError> {
        if !self.has_size {
            return Ok(Size::USUAL);
        }
        let mut config = [0; 4];
        self.transport.read_config(bus, 0, &mut config)?;
        let [a, b, c, d] = config;
        Ok(Size {
            columns: u16::from_le_bytes([a, b]),
            rows: u16::from_le_bytes([c, d]),
        })
    }

    fn fail(&mut self, error: BackendError) {
        let (function, code) = (self.transport.function(), error.code().0);
        log::error!("host console {function} is offline, code {code}: {error}");
        self.receive.queue.kill();
        self.transmit.queue.kill();
        self.open = None;
        self.failure = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{BUFFER_BYTES, Console, MEMORY, Size};
    use crate::error::BackendError;
    use crate::fake::{FakeHost, FakeMemory};
    use crate::transport::Doorbell;

    const DOORBELL: Doorbell = Doorbell {
        apic_id: 0,
        vector: 0xE4,
        change_vector: 0xEF,
    };

    fn rig() -> (FakeHost, Console<FakeMemory>) {
        let memory = FakeMemory::new(MEMORY);
        let mut host = FakeHost::console(memory.clone());
        host.config[..4].copy_from_slice(&[132, 0, 43, 0]);
        let console = Console::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
        (host, console)
    }

    /// Has characters arrive, and the device say they were so many.
    fn arrive(host: &mut FakeHost, bytes: &[u8], claimed: usize) {
        let (head, buffers) = host.next_chain(0).unwrap();
        host.memory.device_write(buffers[0].address, bytes);
        host.finish(0, head.into(), u32::try_from(claimed).unwrap());
    }

    #[test]
    fn characters_are_sent_as_they_are() {
        let (mut host, mut console) = rig();
        assert!(console.send(b"hello"));
        console.publish(&mut host);
        let (_, buffers) = host.next_chain(1).unwrap();
        let sent = host.memory.device_read(buffers[0].address, buffers[0].len);
        assert_eq!(sent, b"hello");
        assert!(!console.send(&[0; BUFFER_BYTES + 1]));
    }

    #[test]
    fn a_console_that_takes_nothing_makes_characters_wait() {
        let (mut host, mut console) = rig();
        assert_eq!((0..100).take_while(|_| console.send(b"x")).count(), 16);
        console.publish(&mut host);
        let (head, _) = host.next_chain(1).unwrap();
        host.finish(1, head.into(), 0);
        assert!(console.can_send());
    }

    #[test]
    fn characters_come_in_by_as_many_as_there_is_room_for() {
        let (mut host, mut console) = rig();
        for round in 0..200_u8 {
            arrive(&mut host, &[round, 1, 2, 3, 4], 5);
            arrive(&mut host, b"", 0);
            arrive(&mut host, b"z", 1);
            let mut all = Vec::new();
            let mut some = [0; 3];
            while let len @ 1.. = console.receive(&mut some) {
                all.extend_from_slice(&some[..len]);
            }
            assert_eq!(all, [round, 1, 2, 3, 4, b'z']);
            console.publish(&mut host);
        }
    }

    /// A device that says more than it wrote brings zeros, never what came in before.
    #[test]
    fn what_was_taken_is_never_seen_again() {
        let (mut host, mut console) = rig();
        arrive(&mut host, b"secret", 6);
        let mut some = [0; BUFFER_BYTES];
        assert_eq!(console.receive(&mut some), 6);
        console.publish(&mut host);
        for _ in 0..16 {
            arrive(&mut host, b"", 6);
        }
        while let len @ 1.. = console.receive(&mut some) {
            assert_eq!(some[..len], [0; 6]);
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_takes_the_console_offline() {
        let (mut host, mut console) = rig();
        arrive(&mut host, b"x", BUFFER_BYTES + 1);
        assert_eq!(console.receive(&mut [0; 4]), 0);
        let error = BackendError::TooLong {
            found: 513,
            posted: 512,
        };
        assert_eq!(console.failure(), Some(error));
        assert!(!console.send(b"x"));
    }

    #[test]
    fn a_new_size_is_seen_at_the_next_check() {
        let (mut host, mut console) = rig();
        let size = |columns, rows| Size { columns, rows };
        assert_eq!(console.size(), size(132, 43));
        host.config[0] = 80;
        console.check(&mut host);
        assert_eq!((console.size(), console.failure()), (size(80, 43), None));
        host.offered |= 1 << 40;
        console.check(&mut host);
        assert!(console.failure().is_some());
    }
}
