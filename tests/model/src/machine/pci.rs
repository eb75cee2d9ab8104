//! The machine's PCI configuration space, by its two ports. PCI Local Bus 3.0, 3.2.2.3.2.

use spin::Mutex;
use x86::io::{inb, inl, inw, outb, outl, outw};

/// Address and data port belong together.
static TURN: Mutex<()> = Mutex::new(());

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

/// Reads the register `address` selects (bit 31, bus, device, function, register), `lane` bytes into it.
#[must_use]
pub fn read(address: u32, lane: u16, bytes: usize) -> u32 {
    let port = DATA + (lane & 3);
    let _turn = TURN.lock();
    // SAFETY: configuration reads change no memory.
    unsafe { outl(ADDRESS, address) };
    match bytes {
        // SAFETY: as above.
        1 => u32::from(unsafe { inb(port) }),
        // SAFETY: as above.
        2 => u32::from(unsafe { inw(port) }),
        // SAFETY: as above.
        _ => unsafe { inl(port) },
    }
}

/// Writes the register `address` selects, `lane` bytes into it.
pub fn write(address: u32, lane: u16, bytes: usize, value: u32) {
    let port = DATA + (lane & 3);
    let [low, high, ..] = value.to_le_bytes();
    let _turn = TURN.lock();
    // SAFETY: RAM lies over whatever a device's window is moved to, and the IOMMU is between devices and memory.
    unsafe { outl(ADDRESS, address) };
    match bytes {
        // SAFETY: as above.
        1 => unsafe { outb(port, low) },
        // SAFETY: as above.
        2 => unsafe { outw(port, u16::from_le_bytes([low, high])) },
        // SAFETY: as above.
        _ => unsafe { outl(port, value) },
    }
}
