//! What a disk's file seems to hold, by its first bytes. A guest writes those of a raw disk, so they are a question to the user, never an answer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use stockade_storage::{disk, store};

/// The formats of other programs, by what their files begin with.
const FOREIGN: [(&[u8], &str); 5] = [
    (b"KDMV", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"<<< ", "vdi"),
    (VPC, "vpc"),
];
/// In files of a fixed size it stands in the last sector alone.
const VPC: &[u8] = b"conectix";
const SECTOR: u64 = 512;

/// What a file seems to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A disk in QEMU's own format.
    Qcow2,
    /// A disk in another format, by its name.
    Foreign(&'static str),
    /// A disk sealed by a paravisor.
    Sealed,
    /// A paravisor's store.
    Store,
    /// Nothing that has a name here, such as a disk's own bytes.
    Unknown,
}

impl Content {
    /// Looks at a file's first bytes, and at its last sector.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut bytes = [0; 32];
        let length = file.read_at(&mut bytes, 0)?;
        let content = Self::of_first(&bytes[..length]);
        let last = super::length(file)?.checked_sub(SECTOR);
        match (content, last) {
            (Self::Unknown, Some(last)) => {
                let length = file.read_at(&mut bytes, last)?;
                let is_vpc = bytes[..length].starts_with(VPC);
                Ok(if is_vpc {
                    Self::Foreign("vpc")
                } else {
                    content
                })
            }
            _ => Ok(content),
        }
    }

    /// Judges by a file's first bytes.
    pub(super) fn of_first(first: &[u8]) -> Self {
        match first {
            [b'Q', b'F', b'I', 0xFB, ..] => Self::Qcow2,
            _ if first.starts_with(&disk::format::MAGIC) => Self::Sealed,
            _ if first.starts_with(&store::format::MAGIC) => Self::Store,
            _ => {
                let foreign = FOREIGN.iter().find(|(start, _)| first.starts_with(start));
                foreign.map_or(Self::Unknown, |(_, name)| Self::Foreign(name))
            }
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
            (b"KDMV\x01", Content::Foreign("vmdk")),
            (b"# Disk DescriptorFile\n", Content::Foreign("vmdk")),
            (b"vhdxfile", Content::Foreign("vhdx")),
            (b"<<< Oracle VM", Content::Foreign("vdi")),
            (b"conectix", Content::Foreign("vpc")),
            (b"QFI", Content::Unknown),
            (b"QFI\xFA\0\0\0\x03", Content::Unknown),
            (b"", Content::Unknown),
        ] {
            assert_eq!(Content::of_first(first), content, "{first:?}");
        }
    }

    #[test]
    fn a_fixed_vpc_disk_is_told_by_its_last_sector() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"conectix", 1024).unwrap();
        file.set_len(1536).unwrap();
        assert_eq!(Content::of(&file).unwrap(), Content::Foreign("vpc"));
        file.set_len(2048).unwrap();
        assert_eq!(Content::of(&file).unwrap(), Content::Unknown);
        file.set_len(100).unwrap();
        assert_eq!(Content::of(&file).unwrap(), Content::Unknown);
    }
}
