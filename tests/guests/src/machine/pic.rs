//! The 8259 pair (Intel 8259A data sheet).

use super::port::{inb, outb};

pub(crate) const MASTER: u16 = 0x20;
pub(crate) const MASTER_DATA: u16 = 0x21;
pub(crate) const SLAVE: u16 = 0xA0;
pub(crate) const SLAVE_DATA: u16 = 0xA1;
pub(crate) const ELCR: u16 = 0x4D0;

/// The vector of IRQ 0; the slave's follow.
pub(crate) const BASE: u8 = 0x20;

pub(crate) const EOI: u8 = 0x20;
pub(crate) const SPECIFIC_EOI: u8 = 0x60;
pub(crate) const READ_REQUEST: u8 = 0x0A;
pub(crate) const READ_SERVICE: u8 = 0x0B;
pub(crate) const POLL: u8 = 0x0C;

/// Starts both with everything masked and all lines edge-triggered.
pub(crate) fn init() {
    start(MASTER, BASE, 0x04, 0x01);
    start(SLAVE, BASE + 8, 0x02, 0x01);
    mask(0xFFFF);
    outb(ELCR, 0);
    outb(ELCR + 1, 0);
    outb(MASTER, READ_REQUEST);
    outb(SLAVE, READ_REQUEST);
}

/// Writes ICW1 to ICW4 of one of them.
pub(crate) fn start(command: u16, base: u8, cascade: u8, mode: u8) {
    outb(command, 0x11);
    outb(command + 1, base);
    outb(command + 1, cascade);
    outb(command + 1, mode);
}

/// Masks the lines whose bits are set.
pub(crate) fn mask(lines: u16) {
    let [low, high] = lines.to_le_bytes();
    outb(MASTER_DATA, low);
    outb(SLAVE_DATA, high);
}

/// Lets only these lines (bits) through.
pub(crate) fn unmask_only(lines: u16) {
    mask(!lines);
}

/// Ends an interrupt request line by number, by the unspecific command.
pub(crate) fn end_of_interrupt(irq: u8) {
    if irq >= 8 {
        outb(SLAVE, EOI);
    }
    outb(MASTER, EOI);
}

/// Reads a command port after saying what of it to read.
pub(crate) fn read(command: u16, what: u8) -> u8 {
    outb(command, what);
    inb(command)
}
