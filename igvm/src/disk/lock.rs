//! Who may use a disk's file: one who writes, or all who read. QEMU's own locks are of another kind and do not meet these.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::DiskError;

/// What somebody does with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Writes it.
    Exclusive,
    /// Reads it.
    Shared,
}

/// Locks a disk for as long as the file is open.
pub fn lock(file: &File, path: &Path, lock: Lock) -> Result<(), DiskError> {
    let locked = match lock {
        Lock::Exclusive => file.try_lock(),
        Lock::Shared => file.try_lock_shared(),
    };
    let path = || path.into();
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => DiskError::InUse { path: path() },
        TryLockError::Error(source) => DiskError::Read {
            path: path(),
            source,
        },
    })
}
