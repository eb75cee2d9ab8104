//! Disk files and stores: made empty, and checked as far as one can without, or with, their key.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use stockade_storage::disk::check::{CheckError, Problem, ReadBlocks, forgotten};
use stockade_storage::disk::entry::Entry;
use stockade_storage::disk::format::{Header, Superblock};
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::disk::seals::Seals;
use stockade_storage::store::format::{Header as StoreHeader, USUAL_AREA_BLOCKS};
use stockade_storage::{BLOCK_BYTES, DiskKey, Fault, HostBlock, StoreFault};

use crate::input;
use crate::output::folder_of;

mod check;
mod content;
mod glance;
mod open;

pub use check::check;
pub use content::Content;
pub use glance::{check_sealed, check_store};
pub use open::{Lock, length, open};

/// A key's digits with all the blanks anybody would put around them.
const MOST_KEY_BYTES: u64 = 4096;

/// Why a disk could not be made or checked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else than a file.
    #[error("{}: a {kind} is no disk; give a file or a block device", path.display())]
    Kind {
        /// Which one.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is a file of that name.
    #[error("{} exists; remove it first, or take another name", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Somebody else has the disk.
    #[error(
        "{}: in use by another program; stop the other VM, or give the disk once, or readonly to all who have it", path.display()
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// No disk has this size.
    #[error("a sealed disk cannot have {0} bytes; take 1M to 15T")]
    Size(u64),
    /// A key file with anything else in it.
    #[error("{} is no key: it must have 32 bytes, or 64 hexadecimal digits", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// The disk cannot be opened.
    #[error("{}: {fault}", path.display())]
    Fault {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        fault: Fault,
    },
    /// The store cannot be opened.
    #[error("{}: {fault}", path.display())]
    Store {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        fault: StoreFault,
    },
    /// The disk has errors.
    #[error("{} is damaged: {count} errors, the first: {first}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How many.
        count: u64,
        /// The first.
        first: Problem,
    },
}

/// Makes a plain disk: a file of zeros that takes no room yet.
pub fn create_plain(path: &Path, bytes: u64) -> Result<(), DiskError> {
    let file = create(path)?;
    finish(path, file.set_len(bytes).and_then(|()| file.sync_all()))
}

/// Makes a sealed disk. With a key it is formatted, without one the paravisor does that when it opens the disk first.
pub fn create_sealed(path: &Path, bytes: u64, key: Option<&DiskKey>) -> Result<(), DiskError> {
    let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
    let geometry = Geometry::try_new(blocks).ok_or(DiskError::Size(bytes))?;
    let header = Header::new(&geometry, rand::random());
    let file = create(path)?;
    let written = write_sealed(&file, &geometry, &header, key);
    finish(path, written)
}

/// Makes an empty sealed store: all of it or, if the power goes, nothing.
pub fn create_store(path: &Path) -> Result<(), DiskError> {
    let header = StoreHeader::try_new(USUAL_AREA_BLOCKS, rand::random());
    let header = header.expect("this number of blocks is within the limits");
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists { path: path.into() },
        _ => DiskError::Write {
            path: path.into(),
            source,
        },
    };
    let file = tempfile::Builder::new()
        .prefix(".stockade-")
        .tempfile_in(folder_of(path))
        .map_err(failed)?;
    let length = header.total_blocks() * BLOCK_BYTES as u64;
    file.as_file()
        .set_len(length)
        .and_then(|()| file.as_file().write_all_at(&header.to_block(), 0))
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    file.persist_noclobber(path)
        .map_err(|error| failed(error.error))?;
    Ok(())
}

/// Reads a key: 32 bytes, or 64 hexadecimal digits.
pub fn read_key(path: &Path) -> Result<DiskKey, DiskError> {
    let content = input::read(path, MOST_KEY_BYTES);
    let content = content.map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => DiskError::Key { path: path.into() },
        _ => DiskError::Read {
            path: path.into(),
            source,
        },
    })?;
    let key = <[u8; 32]>::try_from(&content[..])
        .ok()
        .or_else(|| from_digits(content.trim_ascii()));
    key.map(DiskKey::new)
        .ok_or_else(|| DiskError::Key { path: path.into() })
}

/// Has a disk taken again whose store is lost: the holder of its key vouches for it as it is. Returns what was done.
pub fn adopt(path: &Path, key: &DiskKey) -> Result<String, DiskError> {
    let failed = |source| DiskError::Write {
        path: path.into(),
        source,
    };
    let file = open(path, Lock::Exclusive)?;
    // What is damaged is not vouched for.
    check::describe(path, &file, Some(key))?;
    let host_blocks = length(&file).map_err(failed)? / BLOCK_BYTES as u64;
    let superblock = match forgotten(&mut Blocks { file: &file }, key, host_blocks) {
        Ok(superblock) => superblock,
        Err(CheckError::Fault(fault)) => {
            let path = path.into();
            return Err(DiskError::Fault { path, fault });
        }
        Err(CheckError::Read(source)) => return Err(failed(source)),
    };
    let Some(superblock) = superblock else {
        return Ok("no store has remembered this disk: any takes it as it is\n".to_owned());
    };
    let mut block = [0; BLOCK_BYTES];
    superblock.write(&mut block);
    let offset = superblock.place().0 * BLOCK_BYTES as u64;
    file.write_all_at(&block, offset)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    Ok(format!(
        "generation {} of the disk belongs to no store any more: the next one takes it as it is and remembers it\n",
        superblock.generation.get()
    ))
}

fn write_sealed(
    file: &File,
    geometry: &Geometry,
    header: &Header,
    key: Option<&DiskKey>,
) -> io::Result<()> {
    let offset = |block: HostBlock| block.0 * BLOCK_BYTES as u64;
    file.set_len(offset(HostBlock(geometry.total_blocks())))?;
    if let Some(key) = key {
        let seals = Seals::new(key, header.disk(), &rand::random());
        let superblock = Superblock::new(&seals, header, 1, Entry::default(), 0);
        let mut block = [0; BLOCK_BYTES];
        superblock.write(&mut block);
        file.write_all_at(&block, offset(superblock.place()))?;
    }
    file.write_all_at(&header.to_block(), 0)?;
    file.sync_all()
}

fn create(path: &Path) -> Result<File, DiskError> {
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    opened.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists { path: path.into() },
        _ => DiskError::Write {
            path: path.into(),
            source,
        },
    })
}

/// Removes a file that could not be finished.
fn finish(path: &Path, written: io::Result<()>) -> Result<(), DiskError> {
    written.map_err(|source| {
        let _ = std::fs::remove_file(path);
        DiskError::Write {
            path: path.into(),
            source,
        }
    })
}

fn from_digits(digits: &[u8]) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(digits, &mut key).ok()?;
    Some(key)
}

/// The blocks of a file.
struct Blocks<'a> {
    file: &'a File,
}

impl ReadBlocks for Blocks<'_> {
    type Error = io::Error;

    fn read(&mut self, block: HostBlock, into: &mut [u8; BLOCK_BYTES]) -> io::Result<()> {
        self.file.read_exact_at(into, block.0 * BLOCK_BYTES as u64)
    }
}

#[cfg(test)]
mod tests;
