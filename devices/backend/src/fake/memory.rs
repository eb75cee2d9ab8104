//! Shared memory for tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec;
use std::vec::Vec;

use super::MEMORY_BASE;
use crate::shared::SharedMemory;

/// Shared memory in ordinary memory. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct FakeMemory(Arc<Mutex<Vec<u8>>>);

impl FakeMemory {
    /// Returns `len` zeroed bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![0; len])))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads as the device does, by bus address.
    #[must_use]
    pub fn device_read(&self, address: u64, len: usize) -> Vec<u8> {
        let start = usize::try_from(address - MEMORY_BASE).expect("in the memory");
        self.bytes()[start..start + len].to_vec()
    }

    /// Writes as the device does.
    pub fn device_write(&self, address: u64, bytes: &[u8]) {
        let start = usize::try_from(address - MEMORY_BASE).expect("in the memory");
        self.bytes()[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

impl SharedMemory for FakeMemory {
    fn len_bytes(&self) -> usize {
        self.bytes().len()
    }
    fn bus_address(&self, offset: usize) -> u64 {
        MEMORY_BASE + offset as u64
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes()[offset..offset + bytes.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    fn zero(&self, offset: usize, len: usize) {
        self.bytes()[offset..offset + len].fill(0);
    }
    fn load(&self, offset: usize) -> u16 {
        let bytes = self.bytes();
        u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
    }
    fn store(&self, offset: usize, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }
}
