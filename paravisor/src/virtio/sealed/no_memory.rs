//! Guest memory before there is a guest.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// There is no guest yet.
pub(super) struct NoMemory;

impl GuestMemory for NoMemory {
    fn read(&self, gpa: Gpa, _: &mut [u8]) -> Result<(), MemoryError> {
        Err(MemoryError::NotMemory(gpa))
    }

    fn write(&self, gpa: Gpa, _: &[u8]) -> Result<(), MemoryError> {
        Err(MemoryError::NotMemory(gpa))
    }

    fn is_ram(&self, _: Gpa) -> bool {
        false
    }

    fn compare_exchange(&self, gpa: Gpa, _: u8, _: u64, _: u64) -> Result<bool, MemoryError> {
        Err(MemoryError::NotMemory(gpa))
    }
}
