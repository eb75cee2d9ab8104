//! Files a user names, written whole: whoever looks sees the old file or the new one, never a part.
//!
//! A regular file is replaced by way of a temporary one beside it. What is something else (a pipe, `/dev/stdout`) is written to: replacing it
//! would take it away from everybody.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Readable by all: nothing written here is a secret. The umask still applies.
const USUAL: u32 = 0o666;
const PROGRAM: u32 = 0o777;

/// What there is no place for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no directory {}; make it first", .0.display())]
struct NoFolder(PathBuf);

/// Returns the folder a file lies in, or would.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Sees that a file can be written; tries with one beside it that has no name.
///
/// # Errors
/// There is no folder for it, nobody may write there, or it is a folder itself.
pub fn check(path: &Path) -> io::Result<()> {
    let Some(path) = replaced(path)? else {
        return Ok(());
    };
    tempfile::tempfile_in(folder(&path)?).map(drop)
}

/// Writes a file.
///
/// # Errors
/// As [`check`], and those of writing.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(USUAL, path, bytes)
}

/// Writes a file that can be executed.
///
/// # Errors
/// As [`write()`].
pub fn write_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(PROGRAM, path, bytes)
}

fn write_as(mode: u32, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(path) = replaced(path)? else {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    };
    let mut file = tempfile::Builder::new()
        .prefix(".stockade-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder(&path)?)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

/// Returns the file that gives way to the new one, at the end of all links; nothing if it is none to be replaced.
fn replaced(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => fs::canonicalize(path).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(path.to_owned())),
        Err(error) => Err(error),
    }
}

/// Returns the folder a file would lie in, if there is one.
///
/// # Errors
/// There is none.
pub fn folder(path: &Path) -> io::Result<&Path> {
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(folder);
    }
    let error = NoFolder(folder.to_owned());
    Err(io::Error::new(io::ErrorKind::NotFound, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_gives_way_to_a_whole_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for content in [&b"one"[..], b"another"] {
            check(&path).unwrap();
            write(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        write_program(&path, b"").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111 & !umask());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left");
    }

    fn umask() -> u32 {
        let said = Command::new("sh").args(["-c", "umask"]).output().unwrap();
        let digits = String::from_utf8(said.stdout).unwrap();
        u32::from_str_radix(digits.trim(), 8).unwrap()
    }

    #[test]
    fn a_link_stays_and_what_it_names_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn a_pipe_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        check(&fifo).unwrap();
        let path = fifo.clone();
        let reader = std::thread::spawn(move || fs::read(path));
        write(&fifo, b"words").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), b"words");
        assert!(!fs::metadata(&fifo).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_is_said_before() {
        let folder = tempfile::tempdir().unwrap();
        let error = check(folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        let missing = folder.path().join("none");
        for error in [
            check(&missing.join("file")),
            write(&missing.join("file"), b""),
        ] {
            let words = error.unwrap_err().to_string();
            let expected = format!("there is no directory {}; make it first", missing.display());
            assert_eq!(words, expected);
        }
    }
}
