//! The memory block a 32-bit kernel is handed: descriptor table, a stack, and the structures of its protocol.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::launch::table_32;
use crate::layout::PAGE_SIZE;
use crate::ram::RamMap;

/// A module in its place.
#[derive(Clone, Debug)]
pub(crate) struct PlacedModule<'a> {
    /// Where it lies.
    pub(crate) place: Range<u64>,
    /// What was written behind its name.
    pub(crate) command_line: &'a [u8],
}

/// What the kernel is told, by whatever protocol.
#[derive(Clone, Debug)]
pub(crate) struct HandOver<'a> {
    pub(crate) command_line: &'a [u8],
    pub(crate) modules: &'a [PlacedModule<'a>],
    pub(crate) ram: &'a RamMap,
    pub(crate) acpi_rsdp: u64,
}

/// Bytes at an address below 4 GiB, growing. The first page is the descriptor table and the stack.
#[derive(Debug)]
pub(crate) struct Block {
    base: u64,
    bytes: Vec<u8>,
}

/// All protocols ask for 4-byte alignment at least.
const ALIGNMENT: usize = 16;
const FIRST_PAGE: usize = 0x1000;
const _: () = assert!(FIRST_PAGE as u64 == PAGE_SIZE);

impl Block {
    /// Begins a block. Its length does not depend on the base, as long as that is page-aligned.
    pub(crate) fn new(base: u64) -> Self {
        let mut bytes = vec![0; FIRST_PAGE];
        let table = table_32();
        bytes[..table.len()].copy_from_slice(table);
        Self { base, bytes }
    }

    /// Returns where the stack ends.
    pub(crate) fn stack(&self) -> u64 {
        self.base + PAGE_SIZE
    }

    /// Appends bytes and returns their address.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> u32 {
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(bytes);
        u32::try_from(self.base + start as u64).unwrap_or(u32::MAX)
    }

    /// Appends a string with its terminating zero and returns its address.
    pub(crate) fn add_string(&mut self, text: &[u8]) -> u32 {
        let address = self.add(text);
        self.bytes.push(0);
        address
    }

    /// Returns the whole block.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
