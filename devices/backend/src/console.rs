//! A console of the host (virtio 1.2, section 5.3): one port, characters both ways.
//!
//! [`Console::send`] copies characters into a buffer and queues it, [`Console::receive`] copies some out. What they say is anybody's
//! to forge, as on any console.

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::lanes::{Came, Filled, Lanes, Plan, RESERVED};
use crate::pci::DeviceType;
use crate::shared::SharedMemory;
use crate::transport::{CommonFeatures, Doorbell, Transport};

/// The most characters sent or received at once.
pub const BUFFER_BYTES: usize = 512;
/// Shared memory of a console: its queues, and 16 buffers either way.
pub const MEMORY: usize = RESERVED + 2 * 16 * BUFFER_BYTES;

/// The device says how large the console is.
const SIZE_FEATURE: u64 = 1;

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
    lanes: Lanes<M>,
    /// A buffer that came in, and how much of it was taken.
    open: Option<(Filled, usize)>,
    has_size: bool,
    size: Size,
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
            kind: "console",
            has_event_index: agreed & CommonFeatures::EVENT_INDEX.bits() != 0,
            buffer_bytes: BUFFER_BYTES,
        };
        let mut console = Self {
            lanes: Lanes::open(bus, transport, memory, plan)?,
            open: None,
            has_size: agreed & SIZE_FEATURE != 0,
            size: Size::USUAL,
        };
        console.size = console.read_size(bus)?;
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
        self.lanes.failure()
    }

    /// Returns whether [`BUFFER_BYTES`] characters could be sent now.
    pub fn can_send(&mut self) -> bool {
        self.lanes.can_send(BUFFER_BYTES)
    }

    /// Queues characters, at most [`BUFFER_BYTES`]; the device sees them with the next [`Self::publish`]. Returns whether there was
    /// room.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        bytes.len() <= BUFFER_BYTES && self.lanes.send([bytes])
    }

    /// Copies characters that came in to `bytes` and returns how many; 0 if there are none.
    pub fn receive(&mut self, bytes: &mut [u8]) -> usize {
        for _ in 0..=self.lanes.inbox_size() {
            let open = self.open.take();
            let open = open.or_else(|| self.lanes.next_in().map(|filled| (filled, 0)));
            let Some((filled, from)) = open else {
                return 0;
            };
            let len = bytes.len().min(filled.written.saturating_sub(from));
            let target = bytes.get_mut(..len).unwrap_or_default();
            self.lanes.read_in(filled, from, target);
            if from + len < filled.written {
                self.open = Some((filled, from + len));
            } else {
                self.lanes.recycle(filled);
            }
            if len != 0 {
                return len;
            }
        }
        0
    }

    /// Shows the device what was queued, and the buffers it may fill.
    pub fn publish(&mut self, bus: &mut impl HostBus) {
        self.lanes.publish(bus);
    }

    /// Asks for an interrupt with the next characters. Returns whether there already are some.
    pub fn listen(&mut self) -> bool {
        self.lanes.listen() == Came::Something
    }

    /// Asks for an interrupt when characters were sent, for a sender that waits for room. Returns whether there already is.
    pub fn listen_for_room(&mut self) -> bool {
        self.lanes.listen_for_room(BUFFER_BYTES)
    }

    /// Sees whether the device still says of itself what it said at first, and how large the console is now.
    pub fn check(&mut self, bus: &mut impl HostBus) {
        self.lanes.check(bus);
        if self.lanes.failure().is_none() {
            match self.read_size(bus) {
                Ok(size) => self.size = size,
                Err(error) => self.lanes.fail(error),
            }
        }
    }

    /// Returns whether the console has taken nothing for a minute, as looks count it, though there is something for it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.lanes.is_stuck()
    }

    /// Looks after characters the console has not taken. Returns when it is to be called next, if there are any.
    ///
    /// A device that is not what it was is offline; one that only takes nothing is as good as one nobody reads, and may take more later.
    pub fn watch(&mut self, bus: &mut impl HostBus, now_ns: u64) -> Option<u64> {
        let was_stuck = self.is_stuck();
        let next = self.lanes.watch(bus, now_ns);
        if self.is_stuck() && !was_stuck {
            return Some(now_ns);
        }
        next
    }

    /// Has the device stop, and reach no memory any more.
    pub fn close(self, bus: &mut impl HostBus) {
        // One that does not stop can still do no more than write to memory nobody reads.
        if let Err(error) = self.lanes.transport().reset(bus) {
            log::warn!("host console does not stop: {error}");
        }
    }

    fn read_size(&self, bus: &mut impl HostBus) -> Result<Size, BackendError> {
        if !self.has_size {
            return Ok(Size::USUAL);
        }
        let mut config = [0; 4];
        let transport = self.lanes.transport();
        transport.read_config(bus, 0, &mut config)?;
        let [a, b, c, d] = config;
        Ok(Size {
            columns: u16::from_le_bytes([a, b]),
            rows: u16::from_le_bytes([c, d]),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{BUFFER_BYTES, Console, MEMORY, Size};
    use crate::error::BackendError;
    use crate::fake::{FakeHost, FakeMemory};
    use crate::transport::Doorbell;
    use crate::watch::{INTERVAL_NS, LOOKS};

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
        let most = [b'x'; BUFFER_BYTES];
        assert_eq!((0..100).take_while(|_| console.send(&most)).count(), 16);
        assert!(!console.can_send());
        console.publish(&mut host);
        for _ in 0..2 {
            let (head, _) = host.next_chain(1).unwrap();
            host.finish(1, head.into(), 0);
        }
        assert!(console.can_send());
    }

    /// A terminal that stands still for a minute is one nobody reads; it may go on.
    #[test]
    fn a_console_that_takes_nothing_is_stuck_after_a_minute_and_until_it_takes_something() {
        let (mut host, mut console) = rig();
        assert_eq!(console.watch(&mut host, 0), None);
        while console.send(&[b'x'; BUFFER_BYTES]) {}
        console.publish(&mut host);
        let at = |looks: u32| u64::from(looks) * INTERVAL_NS;
        for looks in 0..=LOOKS {
            let next = console.watch(&mut host, at(looks));
            assert_eq!((next, console.is_stuck()), (Some(at(looks + 1)), false));
        }
        let last = at(LOOKS + 1);
        assert_eq!(console.watch(&mut host, last), Some(last), "a turn is due");
        assert!(console.is_stuck());
        for _ in 0..2 {
            let (head, _) = host.next_chain(1).unwrap();
            host.finish(1, head.into(), 0);
        }
        assert!(console.can_send() && !console.is_stuck());
        assert_eq!(console.failure(), None);
    }

    /// One that is read slowly loses nothing.
    #[test]
    fn a_console_that_takes_something_now_and_then_is_never_stuck() {
        let (mut host, mut console) = rig();
        for looks in 0..100 {
            while console.send(&[b'x'; BUFFER_BYTES]) {}
            console.publish(&mut host);
            console.watch(&mut host, looks * INTERVAL_NS);
            assert!(!console.is_stuck());
            if looks % 10 == 0 {
                let (head, _) = host.next_chain(1).unwrap();
                host.finish(1, head.into(), 0);
            }
        }
        host.is_gone = true;
        console.watch(&mut host, 100 * INTERVAL_NS);
        assert_eq!(console.failure(), Some(BackendError::Gone(0xFF)));
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
