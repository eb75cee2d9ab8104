//! A chain of buffers, as popped from a ring.

use alloc::vec::Vec;

use stockade_bus::{Gpa, GuestMemory, MemoryError};

use super::segment::{Segment, gather, scatter, total};
use super::violation::Violation;
use crate::RestoreError;

/// The most bytes the buffers of a chain have together.
const MOST_BYTES: u64 = 1 << 32;

/// Which chain is given back as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The head descriptor's index in a split ring, the buffer ID in a packed one.
    pub id: u16,
    /// How many descriptors of the ring the chain took.
    pub descriptors: u16,
}

/// Which way a buffer's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The device reads them.
    Readable,
    /// The device writes them.
    Writable,
}

/// A chain of buffers: those to be read, then those to be written, each checked to be guest RAM. It has a fixed capacity and is used
/// again for every pop.
#[derive(Debug)]
pub struct Chain {
    head: Head,
    segments: Vec<Segment>,
    readable: usize,
    capacity: usize,
}

/// A chain's state, which is part of its device's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// What gives it back.
    pub head: Head,
    /// Its buffers.
    pub segments: Vec<Segment>,
    /// How many of them the device reads: the first ones.
    pub readable: usize,
}

impl Chain {
    /// Returns an empty chain with room for `capacity` buffers.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            head: Head::default(),
            segments: Vec::with_capacity(capacity),
            readable: 0,
            capacity,
        }
    }

    /// Returns what gives the chain back.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Returns the buffers the device reads.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// Returns the buffers the device writes.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Copies from byte `offset` of the readable buffers on; returns how many bytes there were.
    pub fn read<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, MemoryError> {
        gather(memory, self.readable(), offset, buffer)
    }

    /// Copies to byte `offset` of the writable buffers on; returns how many bytes had room.
    pub fn write<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, MemoryError> {
        scatter(memory, self.writable(), offset, bytes)
    }

    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> ChainState {
        let Self {
            head,
            segments,
            readable,
            capacity: _,
        } = self;
        ChainState {
            head: *head,
            segments: segments.clone(),
            readable: *readable,
        }
    }

    /// Takes a saved state. Its buffers are checked again when they are copied.
    pub fn restore(&mut self, state: &ChainState) -> Result<(), RestoreError> {
        let len = state.segments.len();
        if len > self.capacity || state.readable > len || total(&state.segments) > MOST_BYTES {
            return Err(RestoreError::Impossible("chain of buffers"));
        }
        self.segments.clear();
        self.segments.extend_from_slice(&state.segments);
        (self.head, self.readable) = (state.head, state.readable);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.readable = 0;
    }

    pub(super) fn set_head(&mut self, head: Head) {
        self.head = head;
    }

    /// Appends a buffer of the guest's.
    pub(super) fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        gpa: Gpa,
        len: u32,
        direction: Direction,
    ) -> Result<(), Violation> {
        if self.segments.len() >= self.capacity {
            return Err(Violation::ChainTooLong);
        }
        if len == 0 {
            return Err(Violation::ZeroLength(gpa));
        }
        if !memory.is_ram_range(gpa, u64::from(len)) {
            return Err(Violation::NotMemory(gpa));
        }
        if direction == Direction::Readable {
            if self.readable < self.segments.len() {
                return Err(Violation::ReadableAfterWritable);
            }
            self.readable += 1;
        }
        self.segments.push(Segment { gpa, len });
        Ok(())
    }

    /// Checks what can be told of a chain once it is whole (Virtio 1.2, 2.7.5.2).
    pub(super) fn check(&self) -> Result<(), Violation> {
        if total(&self.segments) > MOST_BYTES {
            return Err(Violation::ChainTooLarge);
        }
        Ok(())
    }
}
