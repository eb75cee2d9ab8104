//! Memory the host sees and may change at any time: copied in, copied out, never referenced.

use alloc::boxed::Box;

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// What is copied at once between two memories neither of which can be referred to.
const PIECE: usize = 512;

/// A range of shared memory that belongs to one device. Whatever is read, the host may have written, and may change before it
/// is read again.
///
/// Offsets are the driver's own; a range that is not wholly inside is not touched, and reads as zeros.
pub trait SharedMemory {
    /// Returns how many bytes there are, a multiple of 4096.
    fn len_bytes(&self) -> usize;
    /// Returns the address a device reaches the byte at `offset` by. The range is contiguous there, from a page's start.
    fn bus_address(&self, offset: usize) -> u64;
    /// Copies out.
    fn read(&self, offset: usize, bytes: &mut [u8]);
    /// Copies in.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Fills with zeros.
    fn zero(&self, offset: usize, len: usize);
    /// Reads the aligned word at `offset` before all that is read after.
    fn load(&self, offset: usize) -> u16;
    /// Writes the aligned word at `offset` after all that was written before, and before all that is read after.
    fn store(&self, offset: usize, value: u16);

    /// Copies `len` bytes of guest memory in.
    fn copy_from_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        let mut piece = [0; PIECE];
        for done in (0..len).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(len - done)];
            guest.read(at(gpa, done)?, piece)?;
            self.write(offset + done, piece);
        }
        Ok(())
    }

    /// Copies `len` bytes out to guest memory.
    fn copy_to_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        let mut piece = [0; PIECE];
        for done in (0..len).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(len - done)];
            self.read(offset + done, piece);
            guest.write(at(gpa, done)?, piece)?;
        }
        Ok(())
    }
}

fn at(gpa: Gpa, offset: usize) -> Result<Gpa, MemoryError> {
    let offset = u64::try_from(offset).map_err(|_| MemoryError::NotMemory(gpa))?;
    let address = gpa.0.checked_add(offset);
    Ok(Gpa(address.ok_or(MemoryError::NotMemory(gpa))?))
}

/// Shared memory of any kind.
pub type AnyShared = Box<dyn SharedMemory + Send + Sync>;

impl<T: SharedMemory + ?Sized> SharedMemory for Box<T> {
    fn len_bytes(&self) -> usize {
        (**self).len_bytes()
    }
    fn bus_address(&self, offset: usize) -> u64 {
        (**self).bus_address(offset)
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        (**self).read(offset, bytes);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        (**self).write(offset, bytes);
    }
    fn zero(&self, offset: usize, len: usize) {
        (**self).zero(offset, len);
    }
    fn load(&self, offset: usize) -> u16 {
        (**self).load(offset)
    }
    fn store(&self, offset: usize, value: u16) {
        (**self).store(offset, value);
    }
    fn copy_from_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        (**self).copy_from_guest(offset, guest, gpa, len)
    }
    fn copy_to_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        (**self).copy_to_guest(offset, guest, gpa, len)
    }
}
