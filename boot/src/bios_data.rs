//! The BIOS data area: what kernels of the old school read there although a loader told them (Ralf Brown's list of memory, 40:xx).
//!
//! Xen places its start-up code for further processors by it and by nothing else when it is below what multiboot says.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

use crate::layout::guest;

/// Where COM1 is.
const COM1: u64 = 0x400;
const COM1_PORT: u16 = 0x3F8;
/// The segment of the extended area.
const EXTENDED_SEGMENT: u64 = 0x40E;
/// KiB of conventional memory.
const CONVENTIONAL_KIB: u64 = 0x413;

/// Fills in where the first serial port is and where conventional memory ends; the extended area, behind it, has one KiB.
pub(crate) fn write<M: GuestMemory + ?Sized>(memory: &M) -> Result<(), MemoryError> {
    const SEGMENT: u16 = 0x9FC0;
    const KIB: u16 = 639;
    const { assert!((SEGMENT as u64) << 4 == guest::CONVENTIONAL_END) };
    const { assert!((KIB as u64) << 10 == guest::CONVENTIONAL_END) };
    memory.write(Gpa(COM1), &COM1_PORT.to_le_bytes())?;
    memory.write(Gpa(EXTENDED_SEGMENT), &SEGMENT.to_le_bytes())?;
    memory.write(Gpa(CONVENTIONAL_KIB), &KIB.to_le_bytes())?;
    memory.write(Gpa(guest::CONVENTIONAL_END), &[1])
}
