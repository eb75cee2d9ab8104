//! The record store as a module has it: get, put and delete by name, one at a time, answered when it is durable.
//!
//! A module writes a request to descriptor 4 and reads its answer there. The store behind it may take its time: it is begun, then asked.
//! It is [`SealedRecords`] where the machine has a sealed store, [`VolatileRecords`] where it has none, [`NoRecords`] where it should have one.

mod sealed;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The longest name.
pub const LONGEST_NAME: usize = 255;
/// The longest value.
pub const LONGEST_VALUE: usize = 7 << 10;

/// The most records of one module have, names and values together: libtpms with its memory full, each piece in both its places.
pub const MOST_KEPT: usize = 300 << 10;

pub use sealed::SealedRecords;

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRequest<'a> {
    /// The value of a name.
    Get {
        /// The name.
        name: &'a [u8],
    },
    /// A value for a name.
    Put {
        /// The name.
        name: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A name to be forgotten.
    Delete {
        /// The name.
        name: &'a [u8],
    },
}

impl<'a> RecordRequest<'a> {
    /// Reads a module's message; `None` if it is malformed.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let [op, name_len, rest @ ..] = message else {
            return None;
        };
        let (name, value) = rest.split_at_checked(usize::from(*name_len))?;
        if name.is_empty() || value.len() > LONGEST_VALUE {
            return None;
        }
        match op {
            1 if value.is_empty() => Some(Self::Get { name }),
            2 => Some(Self::Put { name, value }),
            3 if value.is_empty() => Some(Self::Delete { name }),
            _ => None,
        }
    }
}

/// What a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordStatus {
    /// Done. Of a get, the value follows.
    Ok = 0,
    /// There is no such name.
    Absent = 1,
    /// Not done.
    Refused = 2,
}

/// The records of one module: another's have another store, so no name can reach them.
pub trait RecordStore: Send {
    /// Begins what is asked. The one before has been answered.
    fn begin(&mut self, request: RecordRequest<'_>);
    /// Returns the outcome once it is there and durable, after writing the value of a get to `value`, which is empty.
    fn poll(&mut self, value: &mut Vec<u8>) -> Option<RecordStatus>;
}

/// Records that are not there: what a module kept cannot be reached, and what it would keep instead would pass for it.
#[derive(Debug, Default)]
pub struct NoRecords;

impl RecordStore for NoRecords {
    fn begin(&mut self, _: RecordRequest<'_>) {}

    fn poll(&mut self, _: &mut Vec<u8>) -> Option<RecordStatus> {
        Some(RecordStatus::Refused)
    }
}

/// The most a volatile store holds, names and values together.
const MOST_VOLATILE: usize = MOST_KEPT;

/// Records in the paravisor's memory: they survive the guest's reset and the module's restart, and end with the machine.
#[derive(Debug, Default)]
pub struct VolatileRecords {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    outcome: Option<(RecordStatus, Vec<u8>)>,
}

impl VolatileRecords {
    fn put(&mut self, name: &[u8], value: &[u8]) -> RecordStatus {
        let others: usize = self
            .records
            .iter()
            .filter(|(other, _)| other.as_slice() != name)
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if others + name.len() + value.len() > MOST_VOLATILE {
            return RecordStatus::Refused;
        }
        self.records.insert(name.to_vec(), value.to_vec());
        RecordStatus::Ok
    }
}

impl RecordStore for VolatileRecords {
    fn begin(&mut self, request: RecordRequest<'_>) {
        let absent = (RecordStatus::Absent, Vec::new());
        self.outcome = Some(match request {
            RecordRequest::Get { name } => match self.records.get(name) {
                Some(value) => (RecordStatus::Ok, value.clone()),
                None => absent,
            },
            RecordRequest::Put { name, value } => (self.put(name, value), Vec::new()),
            RecordRequest::Delete { name } => match self.records.remove(name) {
                Some(_) => (RecordStatus::Ok, Vec::new()),
                None => absent,
            },
        });
    }

    fn poll(&mut self, value: &mut Vec<u8>) -> Option<RecordStatus> {
        let (status, found) = self.outcome.take()?;
        value.extend_from_slice(&found);
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn ask(store: &mut VolatileRecords, request: RecordRequest<'_>) -> (RecordStatus, Vec<u8>) {
        store.begin(request);
        let mut value = Vec::new();
        let status = store.poll(&mut value).unwrap();
        (status, value)
    }

    #[test]
    fn what_is_put_is_there_until_it_is_deleted() {
        let mut store = VolatileRecords::default();
        let (name, value) = (b"nv".as_slice(), b"state".as_slice());
        let absent = (RecordStatus::Absent, vec![]);
        assert_eq!(ask(&mut store, RecordRequest::Get { name }), absent);
        let put = RecordRequest::Put { name, value };
        assert_eq!(ask(&mut store, put), (RecordStatus::Ok, vec![]));
        let got = ask(&mut store, RecordRequest::Get { name });
        assert_eq!(got, (RecordStatus::Ok, value.to_vec()));
        let deleted = ask(&mut store, RecordRequest::Delete { name });
        assert_eq!(deleted, (RecordStatus::Ok, vec![]));
        assert_eq!(ask(&mut store, RecordRequest::Get { name }), absent);
    }

    #[test]
    fn a_store_that_is_full_refuses_and_keeps_what_it_has() {
        let mut store = VolatileRecords::default();
        let value = &[7; LONGEST_VALUE];
        let mut kept = 0;
        for index in 0..=u8::MAX {
            let name = &[index];
            match ask(&mut store, RecordRequest::Put { name, value }).0 {
                RecordStatus::Ok => kept += 1,
                status => assert_eq!(status, RecordStatus::Refused),
            }
        }
        assert_eq!(kept, MOST_VOLATILE / (LONGEST_VALUE + 1));
        let name = &[0];
        let shorter = RecordRequest::Put { name, value: b"" };
        assert_eq!(ask(&mut store, shorter).0, RecordStatus::Ok);
    }

    #[test]
    fn malformed_requests_are_none() {
        for message in [
            b"".as_slice(),
            &[1],
            &[1, 0],
            &[1, 2, b'a'],
            &[1, 1, b'a', 9],
            &[3, 1, b'a', 9],
            &[4, 1, b'a'],
            &[0, 1, b'a'],
        ] {
            assert_eq!(RecordRequest::parse(message), None, "{message:?}");
        }
        let put = RecordRequest::Put {
            name: b"a",
            value: &[9],
        };
        assert_eq!(RecordRequest::parse(&[2, 1, b'a', 9]), Some(put));
    }
}
