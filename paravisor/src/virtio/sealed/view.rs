//! The memories a step of the state machine copies between: the guest's, by requests, and the slots.

use stockade_backend::block::Block;
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::blk::{Blk, Token as GuestToken};
use stockade_storage::{BLOCK_BYTES, Memory, MemoryError, Slot, Token};

use super::pending::Pending;

/// The memories a step copies between.
pub(super) struct View<'a> {
    pub(super) block: &'a Block<AnyShared>,
    pub(super) blk: &'a Blk,
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) pending: &'a [Option<(GuestToken, Pending)>],
}

impl View<'_> {
    fn token(&self, Token(name): Token) -> Result<GuestToken, MemoryError> {
        let slot = usize::try_from(name).map_err(|_| MemoryError)?;
        match self.pending.get(slot) {
            Some(Some((token, _))) => Ok(*token),
            _ => Err(MemoryError),
        }
    }
}

/// A guest that was reset meanwhile has no memory for its old requests.
impl Memory for View<'_> {
    fn read_guest(
        &mut self,
        token: Token,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let request = self.blk.request(self.token(token)?).ok_or(MemoryError)?;
        let read = request.read_data(self.memory, offset as u64, into);
        match read {
            Ok(len) if len == into.len() => Ok(()),
            _ => Err(MemoryError),
        }
    }

    fn write_guest(&mut self, token: Token, offset: usize, from: &[u8]) -> Result<(), MemoryError> {
        let request = self.blk.request(self.token(token)?).ok_or(MemoryError)?;
        let written = request.write_data(self.memory, offset as u64, from);
        match written {
            Ok(len) if len == from.len() => Ok(()),
            _ => Err(MemoryError),
        }
    }

    fn read_slot(&mut self, Slot(slot): Slot, into: &mut [u8; BLOCK_BYTES]) {
        self.block.read_slot(slot, into);
    }

    fn write_slot(&mut self, Slot(slot): Slot, from: &[u8; BLOCK_BYTES]) {
        self.block.write_slot(slot, from);
    }
}
