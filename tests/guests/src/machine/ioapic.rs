//! The IOAPIC's registers (82093AA data sheet, 3).

use super::memory::{read32, write32};

pub(crate) const BASE: u64 = 0xFEC0_0000;
pub(crate) const SELECT: u64 = BASE;
pub(crate) const WINDOW: u64 = BASE + 0x10;
pub(crate) const EOI: u64 = BASE + 0x40;

pub(crate) const ID: u32 = 0;
pub(crate) const VERSION: u32 = 1;
pub(crate) const ARBITRATION: u32 = 2;
const ENTRIES: u32 = 0x10;

pub(crate) const PINS: u8 = 24;

pub(crate) const LOGICAL: u64 = 1 << 11;
pub(crate) const PENDING: u64 = 1 << 12;
pub(crate) const ACTIVE_LOW: u64 = 1 << 13;
pub(crate) const REMOTE_IRR: u64 = 1 << 14;
pub(crate) const LEVEL: u64 = 1 << 15;
pub(crate) const MASKED: u64 = 1 << 16;

/// Reads a register behind the window.
pub(crate) fn read(index: u32) -> u32 {
    write32(SELECT, index);
    read32(WINDOW)
}

/// Writes a register behind the window.
pub(crate) fn write(index: u32, value: u32) {
    write32(SELECT, index);
    write32(WINDOW, value);
}

/// Reads a pin's redirection entry.
pub(crate) fn entry(pin: u8) -> u64 {
    let index = ENTRIES + u32::from(pin) * 2;
    u64::from(read(index)) | u64::from(read(index + 1)) << 32
}

/// Writes a pin's redirection entry, destination first.
pub(crate) fn set_entry(pin: u8, value: u64) {
    let index = ENTRIES + u32::from(pin) * 2;
    write(index + 1, (value >> 32) as u32);
    write(index, value as u32);
}

/// Returns a fixed, physical entry.
pub(crate) fn to(destination: u8, vector: u8) -> u64 {
    u64::from(destination) << 56 | u64::from(vector)
}

/// Masks all pins; by way of edge mode, which forgets a remote IRR.
pub(crate) fn reset() {
    for pin in 0..PINS {
        if entry(pin) != MASKED {
            set_entry(pin, MASKED);
        }
    }
}
