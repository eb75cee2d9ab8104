//! Files a user names, read whole: regular ones and pipes up to a length, for a device may have no end.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A device or a socket.
    #[error("neither a regular file nor a pipe; copy what it gives to a file, and name that")]
    Kind,
    /// Too long.
    #[error("longer than {0} bytes, the most there can be; give another file")]
    Length(u64),
}

/// Returns what a regular file of up to `most_bytes` bytes holds, or what as much comes from a pipe. Others are refused for being [`Unfit`].
pub fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, Unfit::Length(most_bytes));
    let found = fs::metadata(path)?;
    // A directory has a good error of its own.
    let kind = found.file_type();
    if !(kind.is_file() || kind.is_fifo() || kind.is_dir()) {
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
    fn a_device_is_refused_and_a_pipe_read_up_to_its_end() {
        let error = read(Path::new("/dev/zero"), 10).unwrap_err();
        assert!(error.to_string().contains("neither a regular"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        for (most_bytes, is_read) in [(10, true), (9, false)] {
            let path = fifo.clone();
            let writer = std::thread::spawn(move || fs::write(path, [7; 10]));
            let content = read(&fifo, most_bytes);
            assert_eq!(content.is_ok_and(|content| content == [7; 10]), is_read);
            writer.join().unwrap().unwrap();
        }
    }
}
