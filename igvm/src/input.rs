//! Files a user names, read whole: regular ones up to a length, for a device may have no end, and a FIFO nobody to write to it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A device, a FIFO or a socket.
    #[error("not a regular file; copy what it gives to one, and name that")]
    Kind,
    /// Too long.
    #[error("longer than {0} bytes, the most there can be; give another file")]
    Length(u64),
}

/// Returns what a regular file of up to `most_bytes` bytes holds. Others are refused for being [`Unfit`].
pub fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, Unfit::Length(most_bytes));
    let found = fs::metadata(path)?;
    // A directory has a good error of its own.
    if !found.is_file() && !found.is_dir() {
        return Err(io::Error::other(Unfit::Kind));
    }
    if found.is_file() && found.len() > most_bytes {
        return Err(too_long());
    }
    let mut content = Vec::new();
    // It may grow meanwhile.
    let mut file = File::open(path)?.take(most_bytes.saturating_add(1));
    file.read_to_end(&mut content)?;
    if content.len() as u64 > most_bytes {
        return Err(too_long());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        let error = read(&path, 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("9 bytes"), "{error}");
        let error = read(folder.path(), 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn what_has_no_end_or_no_writer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        for path in [fifo.as_path(), Path::new("/dev/zero")] {
            let error = read(path, 10).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }
}
