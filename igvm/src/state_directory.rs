//! `--state DIR`: the folder with the sealed store, looked at before anything is changed, and the guest's alone while it runs.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use stockade::disk;
use stockade::output::folder_of;

use crate::failure::Failure;

/// The store's file in the folder.
const FILE: &str = "stockade.store";

/// A folder that can be used, locked if there is a store in it.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    folder: PathBuf,
    lock: Option<File>,
}

impl StateDirectory {
    /// Sees that there is a store nobody uses, or room to make one. Changes nothing.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let mut state = Self {
            folder: folder.into(),
            lock: None,
        };
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => state.lock()?,
            Ok(_) => return Err(Failure::NoFolder(folder.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                state.check_writable(folder_of(folder))?;
            }
            Err(source) => return Err(state.failed(source)),
        }
        Ok(state)
    }

    /// Makes what is missing, and returns the store's file.
    pub(crate) fn make(&mut self) -> Result<PathBuf, Failure> {
        if self.lock.is_none() {
            match fs::create_dir(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.failed(error));
                }
                _ => disk::create_store(&self.file())?,
            }
            self.lock()?;
        }
        let file = self.file();
        file.canonicalize().map_err(|source| self.failed(source))
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::State {
            folder: self.folder.clone(),
            source,
        }
    }

    /// Locks the store and looks at it, if there is one.
    fn lock(&mut self) -> Result<(), Failure> {
        let path = self.file();
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.check_writable(&self.folder);
            }
            Err(source) => return Err(self.failed(source)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::StateInUse(self.folder.clone())),
            Err(TryLockError::Error(source)) => return Err(self.failed(source)),
        }
        disk::check_store(&file, &path)?;
        self.lock = Some(file);
        Ok(())
    }

    /// Tries with a file that has no name.
    fn check_writable(&self, folder: &Path) -> Result<(), Failure> {
        tempfile::tempfile_in(folder)
            .map(drop)
            .map_err(|source| self.failed(source))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What is in a folder and its files.
    fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap();
        let mut content: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap_or_default();
                (path, bytes)
            })
            .collect();
        content.sort();
        content
    }

    #[test]
    fn a_folder_is_looked_at_first_and_made_later() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let mut state = StateDirectory::open(&folder).unwrap();
        assert!(!folder.exists());
        let file = state.make().unwrap();
        assert_eq!(content(&folder).len(), 1);
        assert_eq!(file.file_name().unwrap(), FILE);
        drop(state);
        let whole = content(&folder);
        assert_eq!(StateDirectory::open(&folder).unwrap().make().unwrap(), file);
        assert_eq!(content(&folder), whole);
    }

    #[test]
    fn a_store_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = StateDirectory::open(folder.path()).unwrap();
        first.make().unwrap();
        let error = StateDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is in use"), "{error}");
        drop(first);
        assert!(StateDirectory::open(folder.path()).is_ok());
    }

    #[test]
    fn what_is_no_store_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        disk::create_store(&path).unwrap();
        let store = fs::read(&path).unwrap();
        let (mut newer, mut damaged) = (store.clone(), store.clone());
        newer[8] = 9;
        damaged[30] ^= 1;
        for (bytes, code) in [
            (&newer[..], "S03"),
            (&damaged[..], "S04"),
            (&store[..store.len() - 1], "S05"),
            (b"my diary", "S02"),
            (&[0; 8192], "S02"),
            (b"", "S02"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = StateDirectory::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(code), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
