//! What can be read: a few facts under fixed keys, files under keys that the directory names.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::RestoreError;

/// Says who answers.
const SIGNATURE: u16 = 0x00;
/// Says what the device can do.
const ID: u16 = 0x01;
/// Bytes of RAM below 4 GiB and above, a quad word.
const RAM_BYTES: u16 = 0x03;
/// vCPUs now, a word.
const CPU_COUNT: u16 = 0x05;
/// The most vCPUs there may be: one past the highest APIC id, a word.
const MAX_CPUS: u16 = 0x0F;
/// The names, sizes and keys of the files.
const FILE_DIRECTORY: u16 = 0x19;
/// The first file's key.
const FIRST_FILE: u16 = 0x20;
/// How many files there can be.
const MAX_FILES: usize = 0x1000;

/// The port interface and the DMA interface are there.
const FEATURES: u32 = 0b11;
/// Bytes of a name in the directory, with its terminating zero.
const NAME_BYTES: usize = 56;

/// What every guest may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many vCPUs there are.
    pub cpu_count: u16,
    /// Bytes of RAM.
    pub ram_bytes: u64,
}

/// A named file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    name: String,
    content: Vec<u8>,
    access: Access,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    ReadAndWrite,
}

/// Why something is no file, or too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Empty, too long, or with a zero byte.
    #[error("{0:?} is no name of 1 to 55 bytes")]
    Name(String),
    /// Two files of one name.
    #[error("two files named {0:?}")]
    Duplicate(String),
    /// A size is 32 bits wide.
    #[error("{0:?} is 4 GiB or longer")]
    Size(String),
    /// More files than keys.
    #[error("more than {MAX_FILES} files")]
    TooMany,
}

impl File {
    /// Returns a file, such as `etc/e820`.
    pub fn try_new(name: &str, content: Vec<u8>) -> Result<Self, FileError> {
        if name.is_empty() || name.len() >= NAME_BYTES || name.contains('\0') {
            return Err(FileError::Name(name.into()));
        }
        if u32::try_from(content.len()).is_err() {
            return Err(FileError::Size(name.into()));
        }
        Ok(Self {
            name: name.into(),
            content,
            access: Access::Read,
        })
    }

    /// Returns a file of so many zeros that guests may write.
    pub fn try_writable(name: &str, len_bytes: usize) -> Result<Self, FileError> {
        Ok(Self {
            access: Access::ReadAndWrite,
            ..Self::try_new(name, vec![0; len_bytes])?
        })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// All items.
#[derive(Debug)]
pub(super) struct Items {
    cpu_count: [u8; 2],
    ram_bytes: [u8; 8],
    directory: Vec<u8>,
    files: Vec<File>,
}

impl Items {
    pub(super) fn try_new(facts: Facts, mut files: Vec<File>) -> Result<Self, FileError> {
        if files.len() > MAX_FILES {
            return Err(FileError::TooMany);
        }
        // Their order is what a guest measures; it depends on nothing but the names.
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in files.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                return Err(FileError::Duplicate(a.name.clone()));
            }
        }
        Ok(Self {
            cpu_count: facts.cpu_count.to_le_bytes(),
            ram_bytes: facts.ram_bytes.to_le_bytes(),
            directory: directory(&files),
            files,
        })
    }

    /// Returns the file of this key, if guests may write it.
    pub(super) fn writable(&mut self, key: u16) -> Option<&mut [u8]> {
        let index = key.checked_sub(FIRST_FILE)?;
        let file = self.files.get_mut(usize::from(index))?;
        (file.access == Access::ReadAndWrite).then_some(&mut file.content)
    }

    /// Puts zeros where guests wrote, and returns the key of a file where they could.
    pub(super) fn clear(&mut self) -> Option<u16> {
        let mut last = None;
        for (file, key) in self.files.iter_mut().zip(FIRST_FILE..) {
            if file.access == Access::ReadAndWrite {
                file.content.fill(0);
                last = Some(key);
            }
        }
        last
    }

    /// Returns all that guests could write.
    pub(super) fn save(&self) -> Vec<u8> {
        let files = self.files.iter();
        let files = files.filter(|file| file.access == Access::ReadAndWrite);
        files
            .flat_map(|file| file.content.iter().copied())
            .collect()
    }

    /// Takes what [`Self::save`] returned, and returns the key of a file where guests could write.
    pub(super) fn restore(&mut self, saved: &[u8]) -> Result<Option<u16>, RestoreError> {
        if saved.len() != self.save().len() {
            return Err(RestoreError::Impossible("fw_cfg files"));
        }
        let last = self.clear();
        let mut bytes = saved.iter();
        for file in &mut self.files {
            if file.access == Access::ReadAndWrite {
                for (to, from) in file.content.iter_mut().zip(&mut bytes) {
                    *to = *from;
                }
            }
        }
        Ok(last)
    }

    /// Returns the item of this key; empty if there is none.
    pub(super) fn get(&self, key: u16) -> &[u8] {
        const ID_BYTES: [u8; 4] = FEATURES.to_le_bytes();
        match key {
            SIGNATURE => b"QEMU",
            ID => &ID_BYTES,
            RAM_BYTES => &self.ram_bytes,
            CPU_COUNT | MAX_CPUS => &self.cpu_count,
            FILE_DIRECTORY => &self.directory,
            _ => key
                .checked_sub(FIRST_FILE)
                .and_then(|index| self.files.get(usize::from(index)))
                .map_or(&[], |file| &file.content),
        }
    }
}

/// Count, then size, key and name of each file; the numbers are big-endian.
fn directory(files: &[File]) -> Vec<u8> {
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::from(count.to_be_bytes());
    for (file, key) in files.iter().zip(FIRST_FILE..) {
        let size = u32::try_from(file.content.len()).unwrap_or(u32::MAX);
        bytes.extend(size.to_be_bytes());
        bytes.extend(key.to_be_bytes());
        bytes.extend([0; 2]);
        let end = bytes.len() + NAME_BYTES;
        bytes.extend_from_slice(file.name.as_bytes());
        bytes.resize(end, 0);
    }
    bytes
}
