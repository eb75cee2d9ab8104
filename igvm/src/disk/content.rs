//! What a disk's file seems to hold, by its first bytes. A guest writes those of a raw disk, so they are a question to the user, never an answer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use stockade_storage::{disk, store};

/// What a file seems to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A disk in QEMU's own format.
    Qcow2,
    /// A disk sealed by a paravisor.
    Sealed,
    /// A paravisor's store.
    Store,
    /// Nothing that has a name here, such as a disk's own bytes.
    Unknown,
}

impl Content {
    /// Looks at a file's first bytes.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut first = [0; 8];
        let length = file.read_at(&mut first, 0)?;
        Ok(Self::of_first(&first[..length]))
    }

    /// Judges by a file's first bytes.
    pub(super) fn of_first(first: &[u8]) -> Self {
        match first {
            [b'Q', b'F', b'I', 0xFB, ..] => Self::Qcow2,
            _ if first.starts_with(&disk::format::MAGIC) => Self::Sealed,
            _ if first.starts_with(&store::format::MAGIC) => Self::Store,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        for (first, content) in [
            (&b"QFI\xFB\0\0\0\x03"[..], Content::Qcow2),
            (b"QFI\xFB", Content::Qcow2),
            (b"STOCKDSK", Content::Sealed),
            (b"STOCKSTO", Content::Store),
            (b"STOCKDS", Content::Unknown),
            (b"QFI", Content::Unknown),
            (b"QFI\xFA\0\0\0\x03", Content::Unknown),
            (b"", Content::Unknown),
        ] {
            assert_eq!(Content::of_first(first), content, "{first:?}");
        }
    }
}
