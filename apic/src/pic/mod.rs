//! The pair of 8259A interrupt controllers with the edge/level registers of a PC (Intel 8259A data sheet; ICH9 data sheet, 13.4).
//!
//! [`Pic`] is the pair, [`Pic::ports`] each of its three doors, `chip` one controller. As in the ICH9 the trigger bit of ICW1 has no
//! effect, the edge/level registers decide. An edge-triggered request lasts only while its wire is high: a device that lowers it
//! before the processor took it has withdrawn it, and a processor that asks all the same gets the spurious IRQ 7. (The spurious
//! IRQ 15 takes a request that goes between the two pulses of one acknowledge cycle, which are one step here.)

mod chip;

#[cfg(test)]
mod tests;

use stockade_bus::{AccessError, IrqLine, Level, PortIo};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use self::chip::Chip;
use crate::saved::{Register, RestoreError, check, check_version};

/// The input of the primary chip that the secondary one drives.
const CASCADE: u8 = 2;
/// IRQs whose trigger can be chosen; 0, 1, 2, 8 and 13 are edge-triggered on every PC.
const EDGE_LEVEL_WRITABLE: [u8; 2] = [0xF8, 0xDE];

/// A group of ports that belongs to the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// 0x20 and 0x21.
    Primary,
    /// 0xA0 and 0xA1.
    Secondary,
    /// 0x4D0 and 0x4D1.
    EdgeLevel,
}

/// The pair of interrupt controllers; its INTR output drives the wire `intr`.
#[derive(Debug)]
pub struct Pic<I> {
    intr: I,

    primary: Chip,
    secondary: Chip,
}

impl<I: IrqLine> Pic<I> {
    /// Returns the pair as it is after power-on: until it is initialised it asks for nothing.
    pub fn new(intr: I) -> Self {
        Self {
            intr,
            primary: Chip::new(1 << CASCADE),
            secondary: Chip::new(0),
        }
    }

    /// Resets to the power-on state; the inputs keep their levels.
    pub fn reset(&mut self) {
        self.primary.reset();
        self.secondary.reset();
        self.update();
    }

    /// Returns the door to a group of ports.
    pub const fn ports(&mut self, ports: Ports) -> PicPorts<'_, I> {
        PicPorts { pic: self, ports }
    }

    /// Drives IRQ `irq` (0 to 15). IRQ 2 is the cascade and not wired; there are none from 16 on.
    pub fn set_irq(&mut self, irq: u8, level: Level) {
        match irq {
            CASCADE | 16.. => return,
            0..8 => self.primary.set_input(irq, level),
            8..16 => self.secondary.set_input(irq - 8, level),
        }
        self.update();
    }

    /// Returns the level on INTR.
    #[must_use]
    pub fn output(&self) -> Level {
        Level::from(self.primary.requesting().is_some())
    }

    /// Returns the vector that an acknowledge cycle would give now, without one; `None` while INTR is low.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        let irq = self.primary.requesting()?;
        Some(if self.primary.is_cascade(irq) {
            self.secondary.requesting().map_or_else(
                || self.secondary.spurious(),
                |irq| self.secondary.vector(irq),
            )
        } else {
            self.primary.vector(irq)
        })
    }

    /// Answers an acknowledge cycle. If the request has gone meanwhile, that is the spurious IRQ 7.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.primary.requesting() {
            None => self.primary.spurious(),
            Some(irq) => {
                self.primary.serve(irq);
                if self.primary.is_cascade(irq) {
                    self.acknowledge_secondary()
                } else {
                    self.primary.vector(irq)
                }
            }
        };
        self.update();
        vector
    }

    /// Notes that the processor took `vector`, which [`Self::peek`] offered earlier.
    ///
    /// The inputs may have changed since. What the guest saw counts: its IRQ is in service now, even if its request has gone, and a higher
    /// one that came meanwhile stays requested. A vector that belongs to no IRQ (the guest has moved the vectors) changes nothing.
    pub fn take(&mut self, vector: u8) {
        if let Some(irq) = self
            .primary
            .irq_of(vector)
            .filter(|irq| !self.primary.is_cascade(*irq))
        {
            self.primary.serve(irq);
        } else if let Some(irq) = self.secondary.irq_of(vector) {
            self.primary.serve(CASCADE);
            self.secondary.serve(irq);
        }
        self.update();
    }

    /// Returns the state.
    #[must_use]
    pub fn save(&self) -> SavedPic {
        let Self {
            intr: _,
            primary,
            secondary,
        } = self;
        SavedPic {
            version: SAVED_VERSION,
            chips: [primary.save(), secondary.save()],
        }
    }

    /// Takes over a saved state and drives INTR, or refuses it and changes nothing.
    pub fn restore(&mut self, saved: &SavedPic) -> Result<(), RestoreError> {
        let SavedPic { version, chips } = saved;
        check_version(*version, SAVED_VERSION)?;
        let [primary, secondary] = [
            self.primary.restored(&chips[0])?,
            self.secondary.restored(&chips[1])?,
        ];
        for (chip, writable) in [&primary, &secondary].into_iter().zip(EDGE_LEVEL_WRITABLE) {
            check(chip.edge_level() & !writable == 0, Register::EdgeLevel)?;
        }
        self.primary = primary;
        self.secondary = secondary;
        self.update();
        Ok(())
    }

    fn acknowledge_secondary(&mut self) -> u8 {
        match self.secondary.requesting() {
            Some(irq) => {
                self.secondary.serve(irq);
                self.secondary.vector(irq)
            }
            None => self.secondary.spurious(),
        }
    }

    /// Drives the cascade and INTR from the state. The secondary's output falls at each acknowledgement, so that one that asks on makes
    /// a new edge.
    fn update(&mut self) {
        if self.secondary.take_acknowledged() {
            self.primary.set_input(CASCADE, Level::Low);
        }
        let cascade = Level::from(self.secondary.requesting().is_some());
        self.primary.set_input(CASCADE, cascade);
        self.primary.take_acknowledged();
        self.intr.set(self.output());
    }

    fn read(&mut self, ports: Ports, offset: u16) -> Result<u8, AccessError> {
        let value = match (ports, offset) {
            (Ports::Primary, 0) => self.primary.read_command(),
            (Ports::Primary, 1) => self.primary.read_data(),
            (Ports::Secondary, 0) => self.secondary.read_command(),
            (Ports::Secondary, 1) => self.secondary.read_data(),
            (Ports::EdgeLevel, 0) => self.primary.edge_level(),
            (Ports::EdgeLevel, 1) => self.secondary.edge_level(),
            _ => return Err(AccessError::NoRegister),
        };
        self.update();
        Ok(value)
    }

    fn write(&mut self, ports: Ports, offset: u16, value: u8) -> Result<(), AccessError> {
        match (ports, offset) {
            (Ports::Primary, 0) => self.primary.write_command(value),
            (Ports::Primary, 1) => self.primary.write_data(value),
            (Ports::Secondary, 0) => self.secondary.write_command(value),
            (Ports::Secondary, 1) => self.secondary.write_data(value),
            (Ports::EdgeLevel, 0) => self.primary.set_edge_level(value & EDGE_LEVEL_WRITABLE[0]),
            (Ports::EdgeLevel, 1) => self
                .secondary
                .set_edge_level(value & EDGE_LEVEL_WRITABLE[1]),
            _ => return Err(AccessError::NoRegister),
        }
        self.update();
        Ok(())
    }
}

/// A group of two byte-wide ports; wider accesses are so many bytes, as on the ISA bus.
#[derive(Debug)]
pub struct PicPorts<'a, I> {
    pic: &'a mut Pic<I>,
    ports: Ports,
}

impl<I: IrqLine> PortIo for PicPorts<'_, I> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        check_width(offset, data.len())?;
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = self.pic.read(self.ports, at)?;
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        check_width(offset, data.len())?;
        for (byte, at) in data.iter().zip(offset..) {
            self.pic.write(self.ports, at, *byte)?;
        }
        Ok(())
    }
}

/// Refuses an access that reaches past the two ports, before any of its bytes takes effect.
fn check_width(offset: u16, len: usize) -> Result<(), AccessError> {
    match usize::from(offset) + len {
        0..=2 => Ok(()),
        _ if offset < 2 => Err(AccessError::Width),
        _ => Err(AccessError::NoRegister),
    }
}

const SAVED_VERSION: u32 = 1;

/// The state of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedPic {
    version: u32,
    chips: [[u8; 12]; 2],
}

const _: () = assert!(size_of::<SavedPic>() == 28);
