//! Whether a file can be what it is given as, without its key.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use stockade_storage::disk::format::Header;
use stockade_storage::store::format::{Header as StoreHeader, USUAL_AREA_BLOCKS};
use stockade_storage::{BLOCK_BYTES, Fault, StoreFault};

use super::{DiskError, length};

/// Sees whether a raw file can be a sealed disk, as far as one can without its key.
pub fn check_sealed(file: &File, path: &Path) -> Result<(), DiskError> {
    let fault = |fault| DiskError::Fault {
        path: path.into(),
        fault,
    };
    let read = |source| DiskError::Read {
        path: path.into(),
        source,
    };
    let length = length(file).map_err(read)?;
    let mut first = [0; BLOCK_BYTES];
    if length < BLOCK_BYTES as u64 {
        return Err(fault(Fault::NotSealed));
    }
    file.read_exact_at(&mut first, 0).map_err(read)?;
    let (_, geometry) = Header::read(&first).map_err(fault)?;
    let (found, expected) = (length / BLOCK_BYTES as u64, geometry.total_blocks());
    if found < expected {
        return Err(fault(Fault::Truncated { found, expected }));
    }
    Ok(())
}

/// Sees whether a file can be a sealed store, as far as one can without its key.
pub fn check_store(file: &File, path: &Path) -> Result<(), DiskError> {
    let read = |source| DiskError::Read {
        path: path.into(),
        source,
    };
    let fault = |fault| DiskError::Store {
        path: path.into(),
        fault,
    };
    let length = length(file).map_err(read)?;
    let mut first = [0; BLOCK_BYTES];
    if length < BLOCK_BYTES as u64 {
        return Err(fault(StoreFault::NotAStore));
    }
    file.read_exact_at(&mut first, 0).map_err(read)?;
    let header = StoreHeader::read(&first).map_err(fault)?;
    check_store_length(&header, length).map_err(fault)
}

pub(super) fn check_store_length(header: &StoreHeader, length: u64) -> Result<(), StoreFault> {
    let (found, expected) = (length / BLOCK_BYTES as u64, header.total_blocks());
    if found < expected {
        return Err(StoreFault::Truncated { found, expected });
    }
    if header.area_blocks() > USUAL_AREA_BLOCKS {
        return Err(StoreFault::TooLarge {
            found: header.area_blocks(),
            most: USUAL_AREA_BLOCKS,
        });
    }
    Ok(())
}
