//! The host's IOAPIC (82093AA data sheet): 24 redirection entries behind MMIO exits at FEC0_0000.
//!
//! Pins go in by [`IoApic::set_irq`], messages for local APICs come out as [`Delivery`] values.

/// Guest-physical address of the register window.
pub const BASE: u64 = 0xFEC0_0000;
/// Bytes of the window.
pub const SIZE: u64 = 0x1000;
/// Input pins.
pub const PINS: usize = 24;

/// IOREGSEL and IOWIN, and the EOI register of later parts.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const FIRST_ENTRY: u8 = 0x10;

/// Version 0x20 (with EOI register), highest entry 23.
const VERSION_VALUE: u32 = 0x0017_0020;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;

/// An interrupt message for local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The vector.
    pub vector: u8,
    /// Delivery mode: 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 external.
    pub mode: u8,
    /// APIC ID, or a logical destination.
    pub destination: u8,
    /// Whether the destination is logical.
    pub logical: bool,
    /// Whether the pin is level-triggered: the EOI must come back through [`IoApic::eoi`].
    pub level: bool,
}

/// The IOAPIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u32,
    entries: [u64; PINS],
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// Returns an IOAPIC as after reset: every pin masked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            entries: [MASKED; PINS],
            lines: 0,
        }
    }

    /// Reads the double word at `offset` of the window; other registers read 0.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.register(self.select),
            _ => 0,
        }
    }

    /// Writes the double word at `offset`, and returns the interrupt this let through.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Delivery> {
        let [low, ..] = value.to_le_bytes();
        match offset {
            SELECT => self.select = low,
            WINDOW => return self.write_register(self.select, value),
            EOI => return self.eoi(low),
            _ => {}
        }
        None
    }

    /// Sets the level of a pin, and returns the interrupt its edge or level causes.
    pub fn set_irq(&mut self, pin: usize, level: bool) -> Option<Delivery> {
        let was = self.line(pin)?;
        self.lines = self.lines & !(1 << pin) | u32::from(level) << pin;
        let entry = self.entries[pin];
        let fires = if entry & LEVEL != 0 {
            level
        } else {
            level && !was
        };
        if fires { self.fire(pin) } else { None }
    }

    /// A local APIC ended `vector`: clears the remote IRR of its pins, and returns what a line that is still high raises.
    pub fn eoi(&mut self, vector: u8) -> Option<Delivery> {
        let mut again = None;
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry & LEVEL != 0 && entry & REMOTE_IRR != 0 && entry.to_le_bytes()[0] == vector {
                self.entries[pin] &= !REMOTE_IRR;
                again = again.or(self.refire(pin));
            }
        }
        again
    }

    fn register(&self, index: u8) -> u32 {
        match index {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            _ => self.half(index).map_or(0, |(pin, high)| {
                let [a, b, c, d, e, f, g, h] = self.entries[pin].to_le_bytes();
                u32::from_le_bytes(if high { [e, f, g, h] } else { [a, b, c, d] })
            }),
        }
    }

    fn write_register(&mut self, index: u8, value: u32) -> Option<Delivery> {
        if index == ID {
            self.id = value & 0x0F00_0000;
            return None;
        }
        let (pin, high) = self.half(index)?;
        let old = self.entries[pin];
        let merged = if high {
            old & 0xFFFF_FFFF | u64::from(value) << 32
        } else {
            old & !0xFFFF_FFFF | u64::from(value)
        };
        let mut entry = old & !WRITABLE | merged & WRITABLE;
        if entry & LEVEL == 0 {
            entry &= !(REMOTE_IRR | DELIVERY_STATUS);
        }
        self.entries[pin] = entry;
        self.refire(pin)
    }

    fn half(&self, index: u8) -> Option<(usize, bool)> {
        let at = usize::from(index.checked_sub(FIRST_ENTRY)?);
        (at / 2 < PINS).then_some((at / 2, at % 2 == 1))
    }

    fn line(&self, pin: usize) -> Option<bool> {
        (pin < PINS).then(|| self.lines & (1 << pin) != 0)
    }

    /// A level-triggered line that is (still) high asks again.
    fn refire(&mut self, pin: usize) -> Option<Delivery> {
        let high = self.line(pin)?;
        if high && self.entries[pin] & LEVEL != 0 {
            self.fire(pin)
        } else {
            None
        }
    }

    fn fire(&mut self, pin: usize) -> Option<Delivery> {
        let entry = self.entries[pin];
        if entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        let level = entry & LEVEL != 0;
        if level {
            self.entries[pin] |= REMOTE_IRR;
        }
        let [vector, mode, .., destination] = entry.to_le_bytes();
        Some(Delivery {
            vector,
            mode: mode & 7,
            destination,
            logical: entry & 1 << 11 != 0,
            level,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(io: &mut IoApic, pin: u8, entry: u64) -> Option<Delivery> {
        let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
        io.write(SELECT, u32::from(0x11 + 2 * pin));
        let first = io.write(WINDOW, u32::from_le_bytes([e, f, g, h]));
        io.write(SELECT, u32::from(0x10 + 2 * pin));
        first.or(io.write(WINDOW, u32::from_le_bytes([a, b, c, d])))
    }

    #[test]
    fn masked_pin_delivers_nothing() {
        let mut io = IoApic::new();
        assert_eq!(io.set_irq(4, true), None);
    }

    #[test]
    fn rising_edge_delivers_once() {
        let mut io = IoApic::new();
        assert_eq!(program(&mut io, 4, 0x0200_0000_0000_00E1), None);
        let expected = Delivery {
            vector: 0xE1,
            mode: 0,
            destination: 2,
            logical: false,
            level: false,
        };
        assert_eq!(io.set_irq(4, true), Some(expected));
        assert_eq!(io.set_irq(4, true), None);
        assert_eq!(io.set_irq(4, false), None);
        assert_eq!(io.set_irq(4, true), Some(expected));
    }

    #[test]
    fn level_is_delivered_again_after_eoi_while_high() {
        let mut io = IoApic::new();
        program(&mut io, 9, 0x8031);
        assert!(io.set_irq(9, true).is_some_and(|delivery| delivery.level));
        assert_eq!(io.set_irq(9, true), None, "remote IRR holds it back");
        assert_eq!(io.eoi(0x30), None);
        assert!(io.eoi(0x31).is_some());
        io.set_irq(9, false);
        assert_eq!(io.eoi(0x31), None);
    }

    #[test]
    fn unmasking_a_high_level_line_delivers_it() {
        let mut io = IoApic::new();
        program(&mut io, 9, 0x1_8031);
        assert_eq!(io.set_irq(9, true), None);
        assert!(program(&mut io, 9, 0x8031).is_some());
    }

    #[test]
    fn remote_irr_and_status_are_read_only() {
        let mut io = IoApic::new();
        program(&mut io, 3, 0xFFFF_FFFF_FFFF_FFFF);
        io.write(SELECT, 0x16);
        assert_eq!(io.read(WINDOW), 0x1_AFFF);
        io.write(SELECT, 0x17);
        assert_eq!(io.read(WINDOW), 0xFF00_0000);
    }

    #[test]
    fn registers_that_are_not_there_read_zero_and_take_nothing() {
        let mut io = IoApic::new();
        for index in [0x03_u32, 0x0F, 0x40, 0xFF] {
            io.write(SELECT, index);
            assert_eq!(io.write(WINDOW, u32::MAX), None);
            assert_eq!(io.read(WINDOW), 0);
        }
        io.write(SELECT, 1);
        assert_eq!(io.read(WINDOW), 0x0017_0020);
        assert_eq!(io.set_irq(24, true), None);
        assert_eq!(io.set_irq(usize::MAX, true), None);
    }
}
