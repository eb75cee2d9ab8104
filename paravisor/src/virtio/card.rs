//! A front-end with its engine, as one function in a slot.

use stockade_backend::HostBus;
use stockade_bus::{AccessError, Level, PciConfig};
use stockade_devices::pci::{BARS, Bar, BarRange, MsiMessage, PciFunction, VirtioPci};
use stockade_devices::virtio::Work;

use super::{Engine, Fitted, Memory, Refusals, Turn};

/// A virtio function and what is behind it.
pub struct Card<E: Engine> {
    pci: VirtioPci<E::Front, Memory>,
    engine: E,
}

impl<E: Engine> Card<E> {
    /// Returns the function of `front`, its rings and buffers in `memory`.
    #[must_use]
    pub fn new((front, engine): (E::Front, E), memory: Memory) -> Self {
        Self {
            pci: VirtioPci::new(front, memory),
            engine,
        }
    }
}

impl<E: Engine + Send> Fitted for Card<E>
where
    E::Front: Send,
{
    fn turn(&mut self, bus: &mut dyn HostBus) -> Turn {
        let Self { pci, engine } = self;
        if pci.is_cut_off() {
            // The write that lets it go on gives it a turn.
            return Turn::Done;
        }
        // Some front-ends have work of their own.
        let own = pci.work();
        let carried = pci.with_device(|front, memory| engine.turn(front, memory, bus));
        match own {
            Work::More => Turn::More,
            Work::Done => carried,
        }
    }

    fn gathers(&mut self) -> bool {
        let Self { pci, engine } = self;
        !pci.is_cut_off() && engine.gathers(pci.device())
    }

    fn late(&mut self) {
        self.engine.late();
    }

    fn hush(&mut self) -> bool {
        self.engine.hush()
    }

    fn has_news(&self) -> bool {
        self.engine.has_news()
    }

    fn keeps_records(&self) -> bool {
        self.engine.keeps_records()
    }

    fn refusals(&mut self) -> Refusals {
        let Self { pci, engine } = self;
        engine.refusals(pci.device())
    }

    fn check(&mut self, bus: &mut dyn HostBus) {
        self.engine.check(bus);
    }

    fn watch(&mut self, bus: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        if self.pci.is_cut_off() {
            // What the host has done nobody takes back.
            return None;
        }
        self.engine.watch(bus, now_ns)
    }
}

impl<E: Engine> PciConfig for Card<E> {
    fn config_read(&mut self, offset: u16) -> u32 {
        self.pci.config_read(offset)
    }

    fn config_write(&mut self, offset: u16, value: u32, mask: u32) {
        self.pci.config_write(offset, value, mask);
    }
}

impl<E: Engine> PciFunction for Card<E> {
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.pci.bar_read(bar, offset, data)
    }

    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.pci.bar_write(bar, offset, data)
    }

    fn decoded(&self) -> [Option<BarRange>; BARS] {
        self.pci.decoded()
    }

    fn interrupt(&self) -> Level {
        self.pci.interrupt()
    }

    fn take_messages(&mut self, send: &mut dyn FnMut(MsiMessage)) {
        self.pci.take_messages(send);
    }

    fn reset(&mut self) {
        self.pci.reset();
    }
}

#[cfg(test)]
mod tests;
