//! Records in private memory, as a list of bytes that is also the payload of a snapshot.
//!
//! One record: length of the name (1 byte), name, length of the value (4 bytes, little-endian), value. In a payload of
//! changes a length of `0xFFFF_FFFF` removes the record.

use alloc::vec::Vec;
use core::ops::Range;

use zeroize::Zeroize;

use super::fault::StoreError;

/// The length that stands for no value.
const REMOVED: u32 = u32::MAX;

/// Records, at most as many bytes as there was room made for.
pub(crate) struct Records {
    bytes: Vec<u8>,
    capacity: usize,
}

impl core::fmt::Debug for Records {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Records").finish_non_exhaustive()
    }
}

/// One record of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) name: &'a [u8],
    /// None in a list of changes: the record is removed.
    pub(crate) value: Option<&'a [u8]>,
    /// Where it stands in the list.
    range: Range<usize>,
}

impl Records {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
            capacity,
        }
    }

    /// Lowers how many bytes there may be.
    pub(crate) fn limit(&mut self, capacity: usize) {
        self.capacity = self.capacity.min(capacity);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.as_mut_slice().zeroize();
        self.bytes.clear();
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        parse(&self.bytes).find(|record| record.name == name)?.value
    }

    /// Returns all records.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        parse(&self.bytes).filter_map(|record| Some((record.name, record.value?)))
    }

    /// Returns whether a record with this value would fit.
    pub(crate) fn has_room(&self, name: &[u8], value: &[u8]) -> bool {
        let old = parse(&self.bytes).find(|record| record.name == name);
        let old = old.map_or(0, |record| record.range.len());
        self.bytes.len() - old + length(name, value) <= self.capacity
    }

    /// Returns whether all these changes would fit.
    pub(crate) fn have_room_for<'v, N: AsRef<[u8]>>(
        &self,
        changes: impl Iterator<Item = (N, Option<&'v [u8]>)>,
    ) -> bool {
        let (mut less, mut more) = (0, 0_usize);
        for (name, value) in changes {
            let name = name.as_ref();
            let old = parse(&self.bytes).find(|record| record.name == name);
            less += old.map_or(0, |record| record.range.len());
            more += value.map_or(0, |value| length(name, value));
        }
        self.bytes.len() - less + more <= self.capacity
    }

    /// Returns whether all these changes could be added to a list of changes.
    pub(crate) fn can_note<'v, N: AsRef<[u8]>>(
        &self,
        changes: impl Iterator<Item = (N, Option<&'v [u8]>)>,
    ) -> bool {
        let lengths = changes.map(|(name, value)| length(name.as_ref(), value.unwrap_or(&[])));
        self.bytes.len() + lengths.sum::<usize>() <= self.capacity
    }

    /// Puts a record in the place of the one with its name; nothing if there is no room.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        if self.has_room(name, value) {
            self.remove(name);
            self.append(name, Some(value));
        }
    }

    /// Removes a record.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        let found = parse(&self.bytes).find(|record| record.name == name);
        if let Some(range) = found.map(|record| record.range) {
            self.bytes.drain(range);
        }
    }

    /// Adds a change to a list of changes; `false` if there is no room.
    pub(crate) fn note(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        let fits = self.bytes.len() + length(name, value.unwrap_or(&[])) <= self.capacity;
        if fits {
            self.append(name, value);
        }
        fits
    }

    /// Applies a payload of changes; `false` if it is none, or does not fit.
    pub(crate) fn apply(&mut self, changes: &[u8]) -> bool {
        let mut end = 0;
        for record in parse(changes) {
            end = record.range.end;
            match record.value {
                Some(value) if !self.has_room(record.name, value) => return false,
                Some(value) => self.put(record.name, value),
                None => self.remove(record.name),
            }
        }
        end == changes.len()
    }

    fn append(&mut self, name: &[u8], value: Option<&[u8]>) {
        let name = &name[..name.len().min(255)];
        let value_length = value.map_or(Some(REMOVED), |value| u32::try_from(value.len()).ok());
        let (Ok(name_length), Some(value_length)) = (u8::try_from(name.len()), value_length) else {
            return;
        };
        self.bytes.push(name_length);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&value_length.to_le_bytes());
        self.bytes.extend_from_slice(value.unwrap_or(&[]));
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Checks a name.
pub(crate) fn check_name(name: &[u8]) -> Result<(), StoreError> {
    if (1..=255).contains(&name.len()) {
        Ok(())
    } else {
        Err(StoreError::Name)
    }
}

/// Takes a list apart, up to its end or the first record that is none.
pub(crate) fn parse(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut position = 0;
    core::iter::from_fn(move || {
        let start = position;
        let (name_length, rest) = bytes.get(start..)?.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*name_length))?;
        let (value_length, rest) = rest.split_first_chunk()?;
        position = start + 1 + name.len() + 4;
        let value_length = u32::from_le_bytes(*value_length);
        let value = if value_length == REMOVED {
            None
        } else {
            let value = rest.get(..usize::try_from(value_length).ok()?)?;
            position += value.len();
            Some(value)
        };
        Some(Record {
            name,
            value,
            range: start..position,
        })
    })
}

fn length(name: &[u8], value: &[u8]) -> usize {
    1 + name.len() + 4 + value.len()
}

#[cfg(test)]
mod tests {
    use super::{Records, check_name, parse};
    use crate::store::fault::StoreError;

    #[test]
    fn records_are_replaced_and_removed_by_name() {
        let mut records = Records::new(100);
        records.put(b"a", b"1");
        records.put(b"b", b"");
        records.put(b"a", b"22");
        assert_eq!(records.get(b"a"), Some(&b"22"[..]));
        assert_eq!(records.get(b"b"), Some(&b""[..]));
        records.remove(b"a");
        assert_eq!(records.get(b"a"), None);
        assert_eq!(records.iter().count(), 1);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut records = Records::new(12);
        records.put(b"a", b"123456");
        assert!(records.has_room(b"a", b"654321"));
        assert!(!records.has_room(b"a", b"6543210"));
        assert!(!records.has_room(b"b", b""));
        records.put(b"a", b"6543210");
        assert_eq!(records.get(b"a"), Some(&b"123456"[..]));
    }

    #[test]
    fn changes_are_applied_in_order() {
        let mut changes = Records::new(100);
        assert!(changes.note(b"a", Some(b"1")));
        assert!(changes.note(b"b", Some(b"2")));
        assert!(changes.note(b"a", None));
        let mut records = Records::new(100);
        assert!(records.apply(changes.bytes()));
        assert_eq!(
            records.iter().collect::<alloc::vec::Vec<_>>(),
            [(&b"b"[..], &b"2"[..])]
        );
    }

    #[test]
    fn a_list_cut_short_is_no_list() {
        let mut changes = Records::new(100);
        changes.note(b"name", Some(b"value"));
        for length in 1..changes.bytes().len() {
            let cut = &changes.bytes()[..length];
            assert_eq!(parse(cut).count(), 0, "{length}");
            assert!(!Records::new(100).apply(cut), "{length}");
        }
    }

    #[test]
    fn names_have_1_to_255_bytes() {
        assert_eq!(check_name(b""), Err(StoreError::Name));
        assert_eq!(check_name(&[b'x'; 256]), Err(StoreError::Name));
        assert_eq!(check_name(&[b'x'; 255]), Ok(()));
    }
}
