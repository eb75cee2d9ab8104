//! Requests to a disk, and how they end.

use bitflags::bitflags;

bitflags! {
    /// What a disk offers (virtio 1.2, section 5.2.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// It cannot be written.
        const READ_ONLY = 1 << 5;
        /// It has a cache to be flushed.
        const FLUSH = 1 << 9;
        /// Ranges can be discarded.
        const DISCARD = 1 << 13;
        /// Ranges can be filled with zeros.
        const WRITE_ZEROES = 1 << 14;
    }
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Make durable what was written.
    Flush,
    /// Forget a range.
    Discard,
    /// Fill a range with zeros; the flag lets the disk forget it.
    WriteZeroes {
        /// The disk may forget the range.
        unmap: bool,
    },
}

impl Kind {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 4,
            Self::Discard => 11,
            Self::WriteZeroes { .. } => 13,
        }
    }

    pub(super) fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// A request to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub kind: Kind,
    /// Where it begins.
    pub sector: u64,
    /// How many bytes: up to `MAX_BYTES` to read or write, any range to forget, none to flush.
    pub len_bytes: u32,
}

impl Request {
    /// Returns how many bytes the device writes: the data, if it is to read, and the status.
    pub(super) fn writable_bytes(&self) -> u32 {
        1 + match self.kind {
            Kind::Read => self.len_bytes,
            _ => 0,
        }
    }
}

/// A request that has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u16);

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The device says so.
    #[error("the host's disk says status {0}")]
    Status(u8),
    /// The device did not fill what it was given.
    #[error("the host's disk wrote {found} of {expected} bytes")]
    Short {
        /// What it says it wrote.
        found: u32,
        /// What it was to write.
        expected: u32,
    },
    /// The device is offline.
    #[error("the host's disk is offline")]
    Offline,
}

/// A request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which.
    pub ticket: Ticket,
    /// How it went.
    pub outcome: Result<(), IoError>,
}
