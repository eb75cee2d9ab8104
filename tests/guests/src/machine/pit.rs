//! The 8254 and port 61 (Intel 8254 data sheet).

use super::port::{inb, outb};
use super::time;

pub(crate) const COMMAND: u16 = 0x43;
pub(crate) const GATE: u16 = 0x61;
pub(crate) const HZ: u64 = 1_193_182;

/// Programs a channel, low byte then high byte.
pub(crate) fn program(channel: u8, mode: u8, count: u16) {
    outb(COMMAND, channel << 6 | 3 << 4 | mode << 1);
    let [low, high] = count.to_le_bytes();
    outb(0x40 + u16::from(channel), low);
    outb(0x40 + u16::from(channel), high);
}

/// Latches and reads a channel's count.
pub(crate) fn count(channel: u8) -> u16 {
    outb(COMMAND, channel << 6);
    read(channel)
}

/// Reads two bytes of a channel.
pub(crate) fn read(channel: u8) -> u16 {
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([inb(port), inb(port)])
}

/// Latches a channel's status by the read-back command and reads it.
pub(crate) fn status(channel: u8) -> u8 {
    outb(COMMAND, 0xE0 | 2 << channel);
    inb(0x40 + u16::from(channel))
}

/// Stops channel 0: mode 0 with its count never written.
pub(crate) fn reset() {
    outb(COMMAND, 0x30);
    outb(GATE, inb(GATE) & 0x0C);
}

/// Opens the gate of channel 2, the loudspeaker off.
pub(crate) fn open_gate() {
    outb(GATE, inb(GATE) & 0x0C | 1);
}

/// Closes the gate of channel 2.
pub(crate) fn close_gate() {
    outb(GATE, inb(GATE) & 0x0C);
}

/// Returns the output of channel 2.
pub(crate) fn output() -> bool {
    inb(GATE) & 0x20 != 0
}

/// Returns how long a count takes, in microseconds, rounded down.
pub(crate) fn us(count: u64) -> u64 {
    count * 1_000_000 / HZ
}

/// Waits for the count of a channel to be loaded.
pub(crate) fn wait_loaded(channel: u8) -> bool {
    time::until(100_000, || status(channel) & 0x40 == 0)
}
