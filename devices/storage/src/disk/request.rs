//! What a guest asks of a disk and what it is told.

use crate::host::{BLOCK_BYTES, SECTOR_BYTES, Token};

/// Sectors of a block.
pub const SECTORS: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read into the guest's buffer.
    Read,
    /// Write from the guest's buffer.
    Write,
    /// Make all writes that were completed before durable.
    Flush,
    /// Forget whole blocks; they read as zeros. Parts of blocks stay as they are.
    Discard,
    /// Have all these sectors read as zeros.
    WriteZeroes,
}

/// A request. Its buffer, if it has one, is reached through [`Memory`](crate::Memory) by the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The caller's name for it.
    pub token: Token,
    /// What to do.
    pub kind: Kind,
    /// The first sector, of 512 bytes; without meaning for a flush.
    pub sector: u64,
    /// The number of sectors; without meaning for a flush.
    pub sectors: u64,
}

/// A request is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The caller's name for it.
    pub token: Token,
    /// How it ended.
    pub result: Result<(), RequestError>,
}

/// Why a request failed, or was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// All places are taken; to be submitted again after a completion.
    #[error("as many requests as there is room for are in progress")]
    Busy,
    /// The disk is not open, or no longer.
    #[error("the disk is not open")]
    Closed,
    /// Beyond the end of the disk.
    #[error("the request goes beyond the end of the disk")]
    OutOfRange,
    /// The disk may only be read.
    #[error("the disk may only be read")]
    ReadOnly,
    /// The host failed a transfer.
    #[error("the host failed a transfer")]
    Host,
    /// What the host returned is not what was stored.
    #[error("what the host returned is not what was stored")]
    Forged,
    /// The buffer is no longer the guest's memory.
    #[error("the buffer is no longer the guest's memory")]
    Memory,
    /// An earlier commit failed: nothing can be written until the disk is opened again.
    #[error("an earlier commit failed, nothing can be written until the disk is opened again")]
    Offline,
    /// No block is free; only a damaged bitmap leads here.
    #[error("no block is free")]
    Full,
}
