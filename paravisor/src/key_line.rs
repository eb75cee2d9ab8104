//! The way to whoever holds the keys of disks: a console of the host's, used once, before there is a guest.

use stockade_backend::HostBus;
use stockade_backend::console::{BUFFER_BYTES, Console};
use stockade_backend::shared::SharedMemory;
use stockade_bus::Clock;
use stockade_storage::release::{Line, Silent};

/// How long a holder may take for all it has to say.
pub const PATIENCE_NS: u64 = 30_000_000_000;

/// A console of the host's for as long as keys are asked for.
#[derive(Debug)]
pub struct KeyLine<'a, M, B, C> {
    console: Console<M>,
    bus: &'a mut B,
    clock: &'a C,
    /// When nobody is waited for any more.
    until_ns: u64,
}

impl<'a, M: SharedMemory, B: HostBus, C: Clock> KeyLine<'a, M, B, C> {
    /// Returns the line by this console, with [`PATIENCE_NS`] from now on.
    pub fn new(console: Console<M>, bus: &'a mut B, clock: &'a C) -> Self {
        let until_ns = clock.now_ns().saturating_add(PATIENCE_NS);
        Self {
            console,
            bus,
            clock,
            until_ns,
        }
    }

    /// Has the host's device stop.
    pub fn close(self) {
        self.console.close(self.bus);
    }

    /// Returns whether to look again.
    fn has_time(&self) -> Result<(), Silent> {
        let is_over = self.console.failure().is_some() || self.clock.now_ns() > self.until_ns;
        if is_over { Err(Silent) } else { Ok(()) }
    }
}

impl<M: SharedMemory, B: HostBus, C: Clock> Line for KeyLine<'_, M, B, C> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Silent> {
        for piece in bytes.chunks(BUFFER_BYTES) {
            while !self.console.send(piece) {
                self.has_time()?;
            }
            self.console.publish(self.bus);
        }
        Ok(())
    }

    fn receive(&mut self, mut bytes: &mut [u8]) -> Result<(), Silent> {
        while !bytes.is_empty() {
            let len = self.console.receive(bytes);
            bytes = bytes.split_at_mut_checked(len).ok_or(Silent)?.1;
            if len != 0 {
                self.console.publish(self.bus);
            }
            self.has_time()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::vec;

    use stockade_backend::console::MEMORY;
    use stockade_backend::fake::{FakeHost, FakeMemory};
    use stockade_backend::transport::Doorbell;
    use stockade_bus::Nanoseconds;

    use super::*;

    /// A second passes with every look.
    #[derive(Default)]
    struct Ticking(Cell<u64>);

    impl Clock for Ticking {
        fn now_ns(&self) -> Nanoseconds {
            self.0.set(self.0.get() + 1_000_000_000);
            self.0.get()
        }
    }

    fn rig() -> (FakeHost, Console<FakeMemory>) {
        let memory = FakeMemory::new(MEMORY);
        let mut host = FakeHost::console(memory.clone());
        let doorbell = Doorbell {
            apic_id: 0,
            vector: 0xEE,
            change_vector: 0xEF,
        };
        let console = Console::open(&mut host, FakeHost::function(), memory, doorbell).unwrap();
        (host, console)
    }

    fn arrive(host: &mut FakeHost, bytes: &[u8]) {
        let (head, buffers) = host.next_chain(0).unwrap();
        host.memory.device_write(buffers[0].address, bytes);
        host.finish(0, head.into(), u32::try_from(bytes.len()).unwrap());
    }

    #[test]
    fn what_is_long_goes_in_pieces_and_what_comes_in_pieces_is_whole() {
        let (mut host, console) = rig();
        arrive(&mut host, b"ab");
        arrive(&mut host, b"cdef");
        let clock = Ticking::default();
        let mut line = KeyLine::new(console, &mut host, &clock);
        line.send(&[7; BUFFER_BYTES + 3]).unwrap();
        let mut bytes = [0; 5];
        line.receive(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abcde");
        line.receive(&mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], b'f');
        line.close();
        let mut sent = vec![];
        while let Some((_, buffers)) = host.next_chain(1) {
            sent.extend(host.memory.device_read(buffers[0].address, buffers[0].len));
        }
        assert_eq!(sent, [7; BUFFER_BYTES + 3]);
    }

    #[test]
    fn a_host_that_brings_nothing_or_takes_nothing_is_not_waited_for_for_ever() {
        let (mut host, console) = rig();
        arrive(&mut host, b"ab");
        let clock = Ticking::default();
        let mut line = KeyLine::new(console, &mut host, &clock);
        assert_eq!(line.receive(&mut [0; 3]), Err(Silent));
        assert_eq!(line.send(&[0; 100 * BUFFER_BYTES]), Err(Silent));
        assert!(clock.now_ns() < 2 * PATIENCE_NS);
    }

    #[test]
    fn a_host_that_lies_is_not_waited_for_at_all() {
        let (mut host, console) = rig();
        let (head, _) = host.next_chain(0).unwrap();
        host.finish(0, head.into(), 100_000);
        let clock = Ticking::default();
        let mut line = KeyLine::new(console, &mut host, &clock);
        assert_eq!(line.receive(&mut [0; 3]), Err(Silent));
        assert!(clock.now_ns() < 5_000_000_000);
    }
}
