//! What a sealed disk reports about its host, each with a code for the log, and the anchor that tells the newest disk.

use super::geometry::NodeNumber;

/// Length of an anchor in the sealed store.
pub const ANCHOR_BYTES: usize = 56;

/// The newest state of a disk, to be kept where the host cannot make it older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The disk's identity, from its header.
    pub disk: [u8; 16],
    /// Grows by one with each commit.
    pub generation: u64,
    /// The code that authenticates the superblock.
    pub digest: [u8; 32],
}

impl Anchor {
    /// Returns the bytes of a record.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ANCHOR_BYTES] {
        let mut bytes = [0; ANCHOR_BYTES];
        bytes[..16].copy_from_slice(&self.disk);
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads a record, or returns `None` if it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (disk, rest) = bytes.split_first_chunk()?;
        let (generation, digest) = rest.split_first_chunk()?;
        Some(Self {
            disk: *disk,
            generation: u64::from_le_bytes(*generation),
            digest: digest.try_into().ok()?,
        })
    }
}

/// What is known about the newest state of a disk before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The store has no record of this disk: an empty one is formatted, any other accepted, its age unknown.
    FirstUse,
    /// The store has this record. Only this generation or the next is accepted (or any newer one, if anchoring is lazy); an empty
    /// disk is not.
    Anchored(Anchor),
}

/// How sure it is that an opened disk is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was empty and has been formatted.
    Formatted,
    /// It is what the anchor says.
    Newest,
    /// It is newer than the anchor, if anchoring is strict by one commit: the power went between the two.
    Ahead,
    /// There was no anchor: it may be an older copy.
    Unknown,
}

/// Why a disk cannot be opened. The codes are listed in `docs/sealed-disk.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The host could not read the first blocks.
    #[error("D01: the host failed to read the header")]
    Unreadable,
    /// No sealed disk.
    #[error("D02: this is no sealed disk")]
    NotSealed,
    /// A version this program does not know.
    #[error("D03: the disk has a format of version {0}")]
    Version(u32),
    /// A header that contradicts itself.
    #[error("D04: the header is damaged")]
    Header,
    /// A file shorter than the header says.
    #[error("D05: the file has {found} blocks of 4 KiB, not {expected}: it was truncated")]
    Truncated {
        /// As the host says.
        found: u64,
        /// As the header says.
        expected: u64,
    },
    /// Neither superblock is authentic: another key, or both destroyed.
    #[error("D06: no superblock is authentic: wrong key, another disk, or damaged")]
    Superblock,
    /// Older than the anchor.
    #[error("D07: the disk is of generation {found}, older than {anchored}: it was rolled back")]
    RolledBack {
        /// On the disk.
        found: u64,
        /// In the store.
        anchored: u64,
    },
    /// As old as the anchor, and yet different.
    #[error("D08: the disk is not the one of generation {0} that was stored")]
    Diverged(u64),
    /// Newer than the anchor by more than one commit: the store, not the disk, is old.
    #[error(
        "D09: the disk is of generation {found}, the store of {anchored}: the store was rolled back"
    )]
    StoreRolledBack {
        /// On the disk.
        found: u64,
        /// In the store.
        anchored: u64,
    },
    /// Another disk than the anchor's.
    #[error("D10: this is another disk than the one that was stored")]
    AnotherDisk,
    /// Formatting failed.
    #[error("D11: the host failed to write the first superblock")]
    Unwritable,
    /// A disk that can only be read cannot be formatted.
    #[error("D12: the disk is empty and may not be written")]
    Empty,
    /// A store has remembered the disk, and this one has no record of it.
    #[error(
        "D14: a store has remembered this disk, and here is none, or one without a record of it: the store was emptied, exchanged or left out"
    )]
    Forgotten,
    /// The cache is too small for a disk of this size.
    #[error("D13: a disk of this size needs a cache of {0} nodes")]
    CacheTooSmall(usize),
}

/// Something the host did while the disk was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Event {
    /// A data block is not what was stored.
    #[error("D20: the host returned a wrong block for block {block}")]
    DataForged {
        /// The logical block.
        block: u64,
    },
    /// A node of the tree is not what was stored.
    #[error("D21: the host returned a wrong node for node {}", node.0)]
    NodeForged {
        /// The node.
        node: NodeNumber,
    },
    /// A node points outside the disk although it is authentic: our own error.
    #[error("D22: node {} points nowhere", node.0)]
    BadEntry {
        /// The node.
        node: NodeNumber,
    },
    /// A transfer of data failed.
    #[error("D23: the host failed a transfer of block {block}")]
    TransferFailed {
        /// The logical block.
        block: u64,
    },
    /// A node could not be read.
    #[error("D24: the host failed to read node {}", node.0)]
    LoadFailed {
        /// The node.
        node: NodeNumber,
    },
    /// A commit failed; the disk can only be read from now on.
    #[error("D25: the host failed the commit of generation {generation}: read only from now on")]
    CommitFailed {
        /// The generation that was not reached.
        generation: u64,
    },
    /// The store does not take anchors any more; the disk can only be read from now on.
    #[error("D26: the store failed the anchor of generation {generation}: read only from now on")]
    AnchorLost {
        /// The generation that was not anchored.
        generation: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::Anchor;

    #[test]
    fn an_anchor_survives_its_record() {
        let anchor = Anchor {
            disk: [1; 16],
            generation: 0x0102_0304_0506_0708,
            digest: [9; 32],
        };
        let bytes = anchor.to_bytes();
        assert_eq!(Anchor::from_bytes(&bytes), Some(anchor));
        assert_eq!(Anchor::from_bytes(&bytes[1..]), None);
        assert_eq!(Anchor::from_bytes(&[]), None);
    }
}
