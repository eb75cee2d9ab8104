//! The interrupt vectors of real mode and what stands behind them: a kernel that calls the BIOS comes back, told that there is
//! none (Ralf Brown's list of interrupts).
//!
//! Left at zero, each vector would lead into memory of zeros, which the processor executes: `add [bx+si], al` over and over,
//! on whatever DS points at. Xen asks for disks in real mode and found its start-up code for further processors spoilt so.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// Vectors there are (APM vol. 2, 8.7: the table lies at address 0).
const VECTORS: usize = 256;
/// Video, equipment, memory, disks, serial ports, cassette, keyboard, printer, BASIC, start, clock.
const SERVICES: core::ops::RangeInclusive<usize> = 0x10..=0x1A;

const SEGMENT: u16 = 0xF000;
/// Where a PC's BIOS has its IRET of vectors nobody uses.
const RETURN: u16 = 0xFF53;
/// `iret`
const RETURN_CODE: [u8; 1] = [0xCF];
const REFUSE: u16 = 0xFF60;
/// `push bp; mov bp, sp; or byte [bp+6], 1; mov ah, 0x86; pop bp; iret`: carry set for the caller, "function not supported".
const REFUSE_CODE: [u8; 11] = [
    0x55, 0x89, 0xE5, 0x80, 0x4E, 0x06, 0x01, 0xB4, 0x86, 0x5D, 0xCF,
];
const _: () = assert!(RETURN as usize + RETURN_CODE.len() <= REFUSE as usize);

/// Points services at a refusal and every other vector at a return.
pub(crate) fn write<M: GuestMemory + ?Sized>(memory: &M) -> Result<(), MemoryError> {
    memory.write(place(RETURN), &RETURN_CODE)?;
    memory.write(place(REFUSE), &REFUSE_CODE)?;
    let mut table = [[0; 4]; VECTORS];
    for (vector, entry) in table.iter_mut().enumerate() {
        let offset = if SERVICES.contains(&vector) {
            REFUSE
        } else {
            RETURN
        };
        let [[a, b], [c, d]] = [offset.to_le_bytes(), SEGMENT.to_le_bytes()];
        *entry = [a, b, c, d];
    }
    memory.write(Gpa(0), table.as_flattened())
}

const fn place(offset: u16) -> Gpa {
    Gpa(((SEGMENT as u64) << 4) + offset as u64)
}
