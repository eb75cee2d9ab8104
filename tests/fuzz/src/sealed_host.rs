//! A host's file in memory and the buffers of a disk, for the targets about sealed files.

use std::collections::BTreeMap;

use stockade_storage::host::MemoryError;
use stockade_storage::{BLOCK_BYTES, HostIo, HostOp, Memory, Slot, Token};

/// A block.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// The host's file; blocks that are not there are zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) blocks: BTreeMap<u64, Block>,
}

/// The guest's only buffer, and the slots.
#[derive(Clone, Debug)]
pub(crate) struct Ram {
    pub(crate) buffer: Vec<u8>,
    slots: Vec<Block>,
}

impl File {
    /// Does a transfer.
    pub(crate) fn transfer(&mut self, io: &HostIo, ram: &mut Ram) {
        for (block, slot) in (io.block.0..).zip(io.slots()) {
            let buffer = &mut ram.slots[usize::from(slot.0)];
            match io.op {
                HostOp::Read => *buffer = self.read(block),
                HostOp::Write => {
                    self.blocks.insert(block, *buffer);
                }
                HostOp::Flush => {}
            }
        }
    }

    /// Returns a block.
    pub(crate) fn read(&self, block: u64) -> Block {
        self.blocks.get(&block).copied().unwrap_or([0; BLOCK_BYTES])
    }
}

impl Ram {
    /// Makes so many slots.
    pub(crate) fn new(slots: u16) -> Self {
        Self {
            buffer: Vec::new(),
            slots: vec![[0; BLOCK_BYTES]; usize::from(slots)],
        }
    }
}

impl Memory for Ram {
    fn read_guest(&mut self, _: Token, offset: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        let part = self.buffer.get(offset..offset + into.len());
        into.copy_from_slice(part.ok_or(MemoryError)?);
        Ok(())
    }

    fn write_guest(&mut self, _: Token, offset: usize, from: &[u8]) -> Result<(), MemoryError> {
        let part = self.buffer.get_mut(offset..offset + from.len());
        part.ok_or(MemoryError)?.copy_from_slice(from);
        Ok(())
    }

    fn read_slot(&mut self, slot: Slot, into: &mut Block) {
        *into = self.slots[usize::from(slot.0)];
    }

    fn write_slot(&mut self, slot: Slot, from: &Block) {
        self.slots[usize::from(slot.0)] = *from;
    }
}
