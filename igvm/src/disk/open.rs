//! A disk's file or block device, opened: locked against others, and nothing that would keep who opens it waiting.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::DiskError;

/// What somebody does with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Writes it, and is the only one to use it.
    Exclusive,
    /// Reads it, as others do.
    Shared,
}

/// Opens a disk and locks it for as long as the file is open. QEMU's own locks are of another kind and do not meet these.
pub fn open(path: &Path, lock: Lock) -> Result<File, DiskError> {
    let failed = |source| DiskError::Open {
        path: path.into(),
        source,
    };
    // A FIFO would wait for its other end.
    check_kind(path, fs::metadata(path).map_err(failed)?.file_type())?;
    let is_writable = lock == Lock::Exclusive;
    let file = OpenOptions::new().read(true).write(is_writable).open(path);
    let file = file.map_err(failed)?;
    let locked = match lock {
        Lock::Exclusive => file.try_lock(),
        Lock::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Returns how many bytes a file or a block device has, which does not tell by its metadata.
pub fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn check_kind(path: &Path, kind: fs::FileType) -> Result<(), DiskError> {
    let kind = if kind.is_fifo() {
        "FIFO"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_char_device() {
        "character device"
    } else {
        return Ok(());
    };
    let path = path.into();
    Err(DiskError::Kind { path, kind })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_no_disk_is_named_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, socket) = (folder.path().join("fifo"), folder.path().join("socket"));
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, word) in [
            (fifo.as_path(), "FIFO"),
            (&socket, "socket"),
            (Path::new("/dev/zero"), "character device"),
        ] {
            let error = open(path, Lock::Shared).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
