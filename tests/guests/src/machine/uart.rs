//! COM1: the console's way out, and (by its transmit interrupt) a wire that software can raise and lower at will, IRQ 4.

use super::port::{inb, outb};

const BASE: u16 = 0x3F8;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const INTERRUPT_IDENTITY: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
/// The scratch register: a port of one byte without side effects.
pub(crate) const SCRATCH: u16 = BASE + 7;

/// THR empty, and the transmitter too.
const IDLE: u8 = 0x60;
const TRANSMIT_EMPTY: u8 = 0x02;
/// DTR, RTS and OUT2, the gate of the interrupt line on a PC.
const MODEM: u8 = 0x0B;

/// The ISA interrupt of COM1, also its IOAPIC pin.
pub(crate) const IRQ: u8 = 4;

/// Sets 115200 8N1, FIFOs off.
pub(super) fn init() {
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, 0x80);
    outb(BASE, 1);
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, 3);
    outb(INTERRUPT_IDENTITY, 0);
    outb(MODEM_CONTROL, MODEM);
}

/// Sends a byte.
pub(super) fn send(byte: u8) {
    // A port that answers nothing at all is not waited for.
    for _ in 0..1_000_000 {
        if inb(LINE_STATUS) & 0x20 != 0 {
            break;
        }
    }
    outb(BASE, byte);
}

/// Waits until nothing is on its way, so that the transmit interrupt means what it says.
pub(crate) fn drain() {
    for _ in 0..1_000_000 {
        if inb(LINE_STATUS) & IDLE == IDLE {
            break;
        }
    }
}

/// Raises IRQ 4 and keeps it up.
pub(crate) fn raise_line() {
    drain();
    outb(INTERRUPT_ENABLE, 0);
    outb(INTERRUPT_ENABLE, TRANSMIT_EMPTY);
}

/// Lowers IRQ 4.
pub(crate) fn lower_line() {
    outb(INTERRUPT_ENABLE, 0);
    inb(INTERRUPT_IDENTITY);
}

/// Raises IRQ 4 and lowers it again.
pub(crate) fn pulse_line() {
    raise_line();
    lower_line();
}
