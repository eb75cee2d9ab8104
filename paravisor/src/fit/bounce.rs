//! Memory shared with a device of the host, as its driver has it.

use stockade_backend::SharedMemory;
use stockade_bus::{Gpa, GuestMemory, MemoryError};
use stockade_platform::SharedRegion;
use stockade_platform::memory::GuestRam;

/// A device's shared memory, and the guest's for copies without a stop in between.
pub(super) struct Bounce {
    pub(super) region: SharedRegion,
    pub(super) ram: &'static GuestRam,
}

impl SharedMemory for Bounce {
    fn len_bytes(&self) -> usize {
        self.region.len_bytes()
    }

    fn bus_address(&self, offset: usize) -> u64 {
        self.region.gpa(offset)
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.region.read(offset, bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.region.write(offset, bytes);
    }

    fn zero(&self, offset: usize, len: usize) {
        self.region.zero(offset, len);
    }

    fn load(&self, offset: usize) -> u16 {
        self.region.load(offset)
    }

    fn store(&self, offset: usize, value: u16) {
        self.region.store(offset, value);
    }

    fn copy_from_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        try_reach(guest, gpa, len)?;
        self.region.copy_from_guest(offset, self.ram, gpa, len)
    }

    fn copy_to_guest(
        &self,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        try_reach(guest, gpa, len)?;
        self.region.copy_to_guest(offset, self.ram, gpa, len)
    }
}

/// Fails where the guest's memory is nothing the device may reach: none of it is while it masters no bus. What is RAM is RAM even then, so this
/// reads a byte.
fn try_reach(guest: &dyn GuestMemory, gpa: Gpa, len: usize) -> Result<(), MemoryError> {
    if len == 0 {
        return Ok(());
    }
    guest.read(gpa, &mut [0])
}
