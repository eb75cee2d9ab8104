//! The wires between devices and interrupt controllers.
//!
//! A device drives its [`Wire`]; nothing else happens then. When the access that did it is over, the machine takes what changed
//! with [`Wires::take`] and hands it to the controllers: no device ever calls up into one.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use stockade_bus::{IrqLine, Level};

/// Up to 32 wires: their levels, and which of them rose since the last look.
#[derive(Debug, Default)]
pub struct Wires {
    levels: AtomicU32,
    rises: AtomicU32,
}

/// What happened on the wires since the last look; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The levels now.
    pub levels: u32,
    /// Wires that went from low to high, even if they are low again.
    pub rises: u32,
}

impl Wires {
    /// Returns the levels, and takes the rises.
    pub fn take(&self) -> Changes {
        Changes {
            rises: self.rises.swap(0, Ordering::Relaxed),
            levels: self.levels.load(Ordering::Relaxed),
        }
    }
}

/// A device's end of one wire.
#[derive(Clone, Debug)]
pub struct Wire {
    wires: Arc<Wires>,
    bit: u32,
}

impl Wire {
    /// Returns the end of wire `number` (0 to 31).
    #[must_use]
    pub fn new(wires: &Arc<Wires>, number: u8) -> Self {
        Self {
            wires: Arc::clone(wires),
            bit: 1 << (number & 31),
        }
    }
}

impl IrqLine for Wire {
    fn set(&self, level: Level) {
        match level {
            Level::Low => {
                self.wires.levels.fetch_and(!self.bit, Ordering::Relaxed);
            }
            Level::High => {
                let before = self.wires.levels.fetch_or(self.bit, Ordering::Relaxed);
                self.wires
                    .rises
                    .fetch_or(self.bit & !before, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Changes, Wire, Wires};
    use alloc::sync::Arc;
    use stockade_bus::{IrqLine, Level};

    /// An edge-triggered input latches a pulse that is over before anybody looks.
    #[test]
    fn a_pulse_between_two_looks_is_not_lost() {
        let wires = Arc::new(Wires::default());
        let wire = Wire::new(&wires, 3);
        wire.set(Level::High);
        wire.set(Level::Low);
        let changes = Changes {
            levels: 0,
            rises: 8,
        };
        assert_eq!(wires.take(), changes);
        assert_eq!(wires.take().rises, 0);
    }

    #[test]
    fn a_level_stays_until_it_is_driven_low() {
        let wires = Arc::new(Wires::default());
        let wire = Wire::new(&wires, 0);
        wire.set(Level::High);
        wires.take();
        wire.set(Level::High);
        assert_eq!(
            wires.take(),
            Changes {
                levels: 1,
                rises: 0
            }
        );
    }
}
