//! The clock and its memory (MC146818 data sheet).

use super::port::{inb, outb};

pub(crate) const INDEX: u16 = 0x70;
pub(crate) const DATA: u16 = 0x71;
pub(crate) const A: u8 = 0x0A;
pub(crate) const B: u8 = 0x0B;
pub(crate) const C: u8 = 0x0C;
pub(crate) const D: u8 = 0x0D;
pub(crate) const IRQ: u8 = 8;

pub(crate) const SET: u8 = 0x80;
pub(crate) const PERIODIC: u8 = 0x40;
pub(crate) const ALARM: u8 = 0x20;
pub(crate) const UPDATE: u8 = 0x10;
/// 24 hours, BCD.
pub(crate) const QUIET: u8 = 0x02;

/// Reads a register.
pub(crate) fn read(register: u8) -> u8 {
    outb(INDEX, register);
    inb(DATA)
}

/// Writes a register.
pub(crate) fn write(register: u8, value: u8) {
    outb(INDEX, register);
    outb(DATA, value);
}

/// Turns all its interrupts off and forgets what was pending.
pub(crate) fn reset() {
    write(A, 0x26);
    write(B, QUIET);
    read(C);
}
