//! A request as the engine gets it: checked, with its data still in guest memory.

use stockade_bus::{GuestMemory, MemoryError};

use crate::virtio::queue::{Pieces, Segment, gather, pieces, scatter};

/// Bytes of a sector, which all positions count in, whatever the disk's blocks are.
pub const SECTOR_BYTES: u64 = 512;

/// Which request: of no meaning once the request is completed or the device was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub(super) slot: u16,
    pub(super) serial: u32,
}

impl Token {
    /// Returns a number below the device's depth that no other request in flight has.
    #[must_use]
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// A run of sectors on the disk, within its capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first sector.
    pub sector: u64,
    /// How many, at least one.
    pub count: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sectors from `sector` on are read into the request's memory.
    Read {
        /// The first sector.
        sector: u64,
    },
    /// Sectors from `sector` on are written from the request's memory.
    Write {
        /// The first sector.
        sector: u64,
        /// The write may be completed only when it outlasts a power cut: the guest runs the disk without a cache.
        is_through: bool,
    },
    /// All writes completed so far outlast a power cut when this is completed.
    Flush,
    /// The request's ranges hold nothing of value any more.
    Discard,
    /// The request's ranges read as zeros from now on.
    WriteZeroes {
        /// Their space may be given back.
        may_unmap: bool,
        /// As for a write.
        is_through: bool,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Ok,
    /// It failed.
    IoError,
    /// The engine does not do this.
    Unsupported,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub(super) kind: Kind,
    pub(super) segments: &'a [Segment],
    pub(super) ranges: &'a [Range],
    pub(super) data_len: u64,
}

impl<'a> Request<'a> {
    /// Returns what is to be done.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns how many bytes of data a read or write moves: whole sectors, within the disk.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Returns the ranges of a discard or write-zeroes, none for others.
    #[must_use]
    pub fn ranges(&self) -> &'a [Range] {
        self.ranges
    }

    /// Returns the guest memory of the data's `len` bytes from byte `offset` on.
    #[must_use]
    pub fn pieces(&self, offset: u64, len: u64) -> Pieces<'a> {
        pieces(self.segments, offset, len)
    }

    /// Copies the data of a write from byte `offset` on into `buffer`; returns how many bytes there were.
    pub fn read_data<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, MemoryError> {
        gather(memory, self.segments, offset, buffer)
    }

    /// Copies `bytes` to where a read wants its data from byte `offset` on; returns how many had room.
    pub fn write_data<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, MemoryError> {
        scatter(memory, self.segments, offset, bytes)
    }
}
