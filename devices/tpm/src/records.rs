//! Where what must last is kept: small records by name, each written whole or not at all.

mod channel;
mod folder;

use std::collections::BTreeMap;
use std::io;

pub use channel::ChannelRecords;
pub use folder::FolderRecords;

/// The longest value of one record. With its name it fits a message of the module's record store.
pub(crate) const MAX_VALUE_BYTES: usize = 7000;

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store does not take it.
    #[error("the record store refuses record {0}")]
    Refused(String),
    /// The store answers what is no answer.
    #[error("the record store does not keep to its protocol")]
    Protocol,
    /// A record is there, but is not what was written.
    #[error("record {0} is damaged")]
    Damaged(String),
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A store of records.
pub trait Records {
    /// Returns a record's value, if there is one.
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError>;
    /// Writes a record; on return it lasts.
    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError>;
    /// Deletes a record. One that is not there is deleted already.
    fn delete(&mut self, name: &str) -> Result<(), RecordError>;
}

/// Records that are gone with the process.
#[derive(Debug, Default)]
pub struct MemoryRecords(BTreeMap<String, Vec<u8>>);

impl Records for MemoryRecords {
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        Ok(self.0.get(name).cloned())
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(RecordError::Refused(name.to_owned()));
        }
        self.0.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), RecordError> {
        self.0.remove(name);
        Ok(())
    }
}

impl<R: Records + ?Sized> Records for Box<R> {
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        (**self).get(name)
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        (**self).put(name, value)
    }

    fn delete(&mut self, name: &str) -> Result<(), RecordError> {
        (**self).delete(name)
    }
}

/// Two who take turns at one store.
impl<R: Records> Records for std::rc::Rc<std::cell::RefCell<R>> {
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        self.borrow_mut().get(name)
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        self.borrow_mut().put(name, value)
    }

    fn delete(&mut self, name: &str) -> Result<(), RecordError> {
        self.borrow_mut().delete(name)
    }
}
