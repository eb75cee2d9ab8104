//! Words of rings in guest memory: little-endian, read and written whole.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

pub(super) fn read_u16<M: GuestMemory + ?Sized>(memory: &M, gpa: Gpa) -> Result<u16, MemoryError> {
    let mut bytes = [0; 2];
    memory.read(gpa, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

pub(super) fn write_u16<M: GuestMemory + ?Sized>(
    memory: &M,
    gpa: Gpa,
    value: u16,
) -> Result<(), MemoryError> {
    memory.write(gpa, &value.to_le_bytes())
}

pub(super) fn read_u64<M: GuestMemory + ?Sized>(memory: &M, gpa: Gpa) -> Result<u64, MemoryError> {
    let mut bytes = [0; 8];
    memory.read(gpa, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
