//! Guest memory as a function reaches it: not at all while it may not master the bus.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// Guest memory behind the bus master enable bit of COMMAND (PCI Local Bus 3.0, 6.2.2).
#[derive(Debug)]
pub struct Dma<'a, M> {
    memory: &'a M,
    is_enabled: bool,
}

impl<'a, M> Dma<'a, M> {
    pub(super) fn new(memory: &'a M, is_enabled: bool) -> Self {
        Self { memory, is_enabled }
    }
}

impl<M: GuestMemory> Dma<'_, M> {
    fn at(&self, gpa: Gpa) -> Result<&M, MemoryError> {
        if self.is_enabled {
            Ok(self.memory)
        } else {
            Err(MemoryError::NotMemory(gpa))
        }
    }
}

impl<M: GuestMemory> GuestMemory for Dma<'_, M> {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.at(gpa)?.read(gpa, buffer)
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.at(gpa)?.write(gpa, bytes)
    }

    /// What is RAM does not depend on who may reach it: a driver may start a device first and let it reach memory then.
    fn is_ram(&self, gpa: Gpa) -> bool {
        self.memory.is_ram(gpa)
    }

    fn is_ram_range(&self, gpa: Gpa, len: u64) -> bool {
        self.memory.is_ram_range(gpa, len)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        self.at(gpa)?.compare_exchange(gpa, width, expected, new)
    }
}
