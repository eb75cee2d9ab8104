//! Records kept by who runs the module, asked for over a descriptor, a message each.

use std::io::{Read, Write};

use super::{MAX_VALUE_BYTES, RecordError, Records};

const GET: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;

const DONE: u8 = 0;
const ABSENT: u8 = 1;

/// A store behind a descriptor that keeps messages apart.
#[derive(Debug)]
pub struct ChannelRecords<S> {
    store: S,
    message: Vec<u8>,
}

impl<S: Read + Write> ChannelRecords<S> {
    /// Returns the store behind `store`.
    pub fn new(store: S) -> Self {
        Self {
            store,
            message: Vec::new(),
        }
    }

    /// Asks, and returns what the answer says; `None` if there is no such record.
    fn ask(
        &mut self,
        operation: u8,
        name: &str,
        value: &[u8],
    ) -> Result<Option<&[u8]>, RecordError> {
        let refused = || RecordError::Refused(name.to_owned());
        if value.len() > MAX_VALUE_BYTES {
            return Err(refused());
        }
        let name_len = u8::try_from(name.len()).map_err(|_| refused())?;
        self.message.clear();
        self.message.extend_from_slice(&[operation, name_len]);
        self.message.extend_from_slice(name.as_bytes());
        self.message.extend_from_slice(value);
        // One message is one write, whole or an error.
        if self.store.write(&self.message)? != self.message.len() {
            return Err(RecordError::Protocol);
        }
        self.message.resize(1 + MAX_VALUE_BYTES, 0);
        let len = self.store.read(&mut self.message)?;
        match self.message.get(..len) {
            Some([DONE, value @ ..]) => Ok(Some(value)),
            Some([ABSENT]) => Ok(None),
            Some([_]) => Err(refused()),
            _ => Err(RecordError::Protocol),
        }
    }
}

impl<S: Read + Write> Records for ChannelRecords<S> {
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
        Ok(self.ask(GET, name, &[])?.map(<[u8]>::to_vec))
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
        match self.ask(PUT, name, value)? {
            Some([]) => Ok(()),
            _ => Err(RecordError::Protocol),
        }
    }

    fn delete(&mut self, name: &str) -> Result<(), RecordError> {
        self.ask(DELETE, name, &[]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers in order, and remembers what was asked.
    struct Script {
        answers: Vec<Vec<u8>>,
        asked: Vec<Vec<u8>>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let answer = self.answers.remove(0);
            buffer[..answer.len()].copy_from_slice(&answer);
            Ok(answer.len())
        }
    }

    impl Write for Script {
        fn write(&mut self, message: &[u8]) -> std::io::Result<usize> {
            self.asked.push(message.to_vec());
            Ok(message.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn records(answers: &[&[u8]]) -> ChannelRecords<Script> {
        ChannelRecords::new(Script {
            answers: answers.iter().map(|answer| answer.to_vec()).collect(),
            asked: Vec::new(),
        })
    }

    #[test]
    fn messages_are_as_the_module_interface_has_them() {
        let mut records = records(&[&[0], &[0, 7, 8], &[1], &[0]]);
        records.put("ab", &[7, 8]).unwrap();
        assert_eq!(records.get("ab").unwrap(), Some(vec![7, 8]));
        assert_eq!(records.get("c").unwrap(), None);
        records.delete("ab").unwrap();
        let asked = &records.store.asked;
        assert_eq!(asked[0], [2, 2, b'a', b'b', 7, 8]);
        assert_eq!(asked[1], [1, 2, b'a', b'b']);
        assert_eq!(asked[3], [3, 2, b'a', b'b']);
    }

    #[test]
    fn refusal_and_nonsense_are_errors() {
        assert!(matches!(
            records(&[&[2]]).put("a", &[]),
            Err(RecordError::Refused(_))
        ));
        assert!(matches!(
            records(&[&[]]).get("a"),
            Err(RecordError::Protocol)
        ));
        assert!(matches!(
            records(&[&[0, 1]]).put("a", &[]),
            Err(RecordError::Protocol)
        ));
        assert!(records(&[]).put("a", &[0; MAX_VALUE_BYTES + 1]).is_err());
    }
}
