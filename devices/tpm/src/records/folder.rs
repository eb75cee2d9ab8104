//! Records as files of a folder, for a TPM that runs as a process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{MAX_VALUE_BYTES, RecordError, Records};

/// A folder that one process at a time has.
#[derive(Debug)]
pub struct FolderRecords {
    folder: PathBuf,
    _lock: File,
}

impl FolderRecords {
    /// Opens `folder`, which is made if there is none, and keeps others out.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::other("another process uses this folder as its TPM")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Names come from ourselves; one with another character than these would be a way out of the folder.
    fn path(&self, name: &str) -> Result<PathBuf, RecordError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_fit) {
            return Err(RecordError::Refused(name.to_owned()));
        }
        Ok(self.folder.join(format!("{name}.record")))
    }
}

impl Records for FolderRecords {
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        match fs::read(self.path(name)?) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(RecordError::Refused(name.to_owned()));
        }
        let path = self.path(name)?;
        let part = path.with_extension("part");
        let mut file = File::create(&part)?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), RecordError> {
        match fs::remove_file(self.path(name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = FolderRecords::open(folder.path()).unwrap();
        records.put("permall", &[1, 2, 3]).unwrap();
        records.put("gone", &[4]).unwrap();
        records.delete("gone").unwrap();
        drop(records);
        let mut records = FolderRecords::open(folder.path()).unwrap();
        assert_eq!(records.get("permall").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(records.get("gone").unwrap(), None);
    }

    #[test]
    fn second_user_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderRecords::open(folder.path()).unwrap();
        assert!(FolderRecords::open(folder.path()).is_err());
        drop(first);
        assert!(FolderRecords::open(folder.path()).is_ok());
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = FolderRecords::open(folder.path()).unwrap();
        for name in ["", "../a", "a/b", ".hidden"] {
            assert!(matches!(
                records.put(name, &[]),
                Err(RecordError::Refused(_))
            ));
        }
    }
}
