//! The IOAPIC: 24 pins, as in the ICH9 (Intel 82093AA data sheet; ICH9 data sheet, 13.5).
//!
//! A pin's wire carries assertion, not voltage: the board is taken to match the polarity that the guest programs, and the
//! polarity bit is kept but has no effect. An edge on a masked pin is lost, a level waits. Several devices on one pin are the
//! wiring's to combine.

mod endings;
mod redirection;
mod saved;

pub use endings::{Ending, Endings};
pub use saved::SavedIoApic;

use redirection::Redirection;
use stockade_bus::{AccessError, Level, Mmio};

use crate::msi::MessageSink;

/// How many pins there are.
pub const PINS: usize = 24;

/// Offsets in the register page.
const INDEX: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

/// Indices behind the window.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION: u8 = 0x10;

/// Version 0x20, the first with an EOI register; the number of the last pin above it.
const VERSION_VALUE: u32 = 0x0017_0020;
const ID_WRITABLE: u32 = 0x0F00_0000;

/// An IOAPIC.
#[derive(Debug)]
pub struct IoApic<S> {
    sink: S,

    index: u8,
    id: u32,
    redirections: [Redirection; PINS],

    /// The pins that are high, a bit each.
    pins: u32,
    /// The pins whose level was sent and has not ended: remote IRR of their redirection entries.
    served: u32,
}

impl<S: MessageSink> IoApic<S> {
    /// Returns an IOAPIC with all pins masked that sends to `sink`.
    pub const fn new(sink: S) -> Self {
        Self {
            sink,
            index: 0,
            id: 0,
            redirections: [Redirection::RESET; PINS],
            pins: 0,
            served: 0,
        }
    }

    /// Resets to the power-on state; the pins keep their levels.
    pub fn reset(&mut self) {
        let Self {
            sink: _,
            index,
            id,
            redirections,
            pins: _,
            served,
        } = self;
        *index = 0;
        *id = 0;
        *served = 0;
        *redirections = [Redirection::RESET; PINS];
    }

    /// Drives a pin. There are no pins from [`PINS`] on.
    pub fn set_pin(&mut self, pin: usize, level: Level) {
        let Some(redirection) = self.redirections.get(pin) else {
            return;
        };
        let before = self.pins;
        match level {
            Level::High => self.pins |= 1 << pin,
            Level::Low => self.pins &= !(1 << pin),
        }
        if redirection.is_level_triggered() {
            self.evaluate(pin);
        } else if self.pins & !before != 0 && !redirection.is_masked() {
            self.send(*redirection);
        }
    }

    /// Takes the end of a level-triggered vector: those pins are served and send again if they still are high.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let mut served = self.served;
        while served != 0 {
            let pin = served.trailing_zeros();
            served &= served - 1;
            let place = usize::from(pin.to_le_bytes()[0]);
            if self.redirections[place].vector() == vector {
                self.served &= !(1 << pin);
                self.evaluate(place);
            }
        }
    }

    /// Returns the pins that send again as soon as what they sent has ended.
    const fn waiting(&self) -> u32 {
        self.pins & self.served
    }

    /// Returns a redirection entry as it is read.
    fn entry(&self, pin: usize) -> Redirection {
        self.redirections[pin].with_remote_irr(self.served & 1 << pin != 0)
    }

    /// Sends for a level-triggered pin that is high, unmasked and not being served.
    fn evaluate(&mut self, pin: usize) {
        let redirection = self.redirections[pin];
        let is_due = self.pins & 1 << pin != 0
            && redirection.is_level_triggered()
            && !redirection.is_masked()
            && self.served & 1 << pin == 0;
        if is_due {
            self.served |= 1 << pin;
            self.send(redirection);
        }
    }

    fn send(&self, redirection: Redirection) {
        if let Some(message) = redirection.message() {
            self.sink.send(message);
        }
    }

    fn read_window(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            index => match redirection_half(index) {
                Some((pin, shift)) => {
                    let [b0, b1, b2, b3, ..] = (self.entry(pin).into_bits() >> shift).to_le_bytes();
                    u32::from_le_bytes([b0, b1, b2, b3])
                }
                None => 0,
            },
        }
    }

    fn write_window(&mut self, value: u32) {
        if self.index == ID {
            self.id = value & ID_WRITABLE;
        } else if let Some((pin, shift)) = redirection_half(self.index) {
            let writable = Redirection::WRITABLE & u64::from(u32::MAX) << shift;
            let before = self.redirections[pin].into_bits();
            let bits = before & !writable | u64::from(value) << shift & writable;
            self.redirections[pin] = Redirection::from_bits(bits);
            // Software without the EOI register clears remote IRR by going to edge and back.
            if !self.redirections[pin].is_level_triggered() {
                self.served &= !(1 << pin);
            }
            self.evaluate(pin);
        }
    }
}

/// Returns the pin an index belongs to, and how far up in its redirection entry the index reaches.
fn redirection_half(index: u8) -> Option<(usize, u32)> {
    let place = index.checked_sub(REDIRECTION)?;
    let pin = usize::from(place >> 1);
    (pin < PINS).then_some((pin, 32 * u32::from(place & 1)))
}

impl<S: MessageSink> Mmio for IoApic<S> {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let value = match offset & !3 {
            INDEX => u32::from(self.index),
            WINDOW => self.read_window(),
            END_OF_INTERRUPT => 0,
            _ => return Err(AccessError::NoRegister),
        };
        let bytes = value.to_le_bytes();
        let start = usize::from(offset.to_le_bytes()[0] & 3);
        let part = bytes
            .get(start..start + data.len())
            .ok_or(AccessError::Width)?;
        data.copy_from_slice(part);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let &[low, ..] = data else {
            return Err(AccessError::Width);
        };
        match (offset, <[u8; 4]>::try_from(data)) {
            (INDEX, _) if data.len() <= 4 => self.index = low,
            (END_OF_INTERRUPT, _) if data.len() <= 4 => self.end_of_interrupt(low),
            (WINDOW, Ok(bytes)) => self.write_window(u32::from_le_bytes(bytes)),
            _ if matches!(offset & !3, INDEX | WINDOW | END_OF_INTERRUPT) => {
                return Err(AccessError::Width);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
