//! Values longer than a record: written whole or not at all, too.
//!
//! A value is cut into pieces, each with two places. A changed piece goes to the place that is not in use, then the *head*, the
//! record by the value's own name, is rewritten and says which places count from now on. Before that moment the old value is there,
//! after it the new one. A value that fits beside the head is in it, and then one write is all.

use crate::records::{MAX_VALUE_BYTES, RecordError, Records};

const VERSION: u8 = 1;
/// Version, places (a bit each), length.
const HEAD_BYTES: usize = 1 + 8 + 4;
const MAX_PIECES: usize = 64;
/// The longest value that is written with its head.
const MAX_INLINE_BYTES: usize = MAX_VALUE_BYTES - HEAD_BYTES;
/// The longest value.
pub const MAX_BLOB_BYTES: usize = MAX_PIECES * MAX_VALUE_BYTES;

/// A value of any length up to [`MAX_BLOB_BYTES`], kept by records whose names begin with its own.
#[derive(Debug)]
pub struct Blob {
    name: &'static str,
    /// What lasts now, once it is known.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    places: u64,
    value: Vec<u8>,
}

impl Kept {
    /// Returns piece `index`; nothing past the end, or when the value is in its head.
    fn piece(&self, index: usize) -> &[u8] {
        if self.value.len() <= MAX_INLINE_BYTES {
            return &[];
        }
        self.value.chunks(MAX_VALUE_BYTES).nth(index).unwrap_or(&[])
    }
}

impl Blob {
    /// Returns the value of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, kept: None }
    }

    /// Returns the value, if there is one.
    pub fn load(&mut self, records: &mut dyn Records) -> Result<Option<Vec<u8>>, RecordError> {
        let Some(head) = records.get(self.name)? else {
            self.kept = None;
            return Ok(None);
        };
        let (places, len, inline) = read_head(&head).ok_or_else(|| self.damaged())?;
        let mut value = inline.to_vec();
        if len > MAX_INLINE_BYTES {
            for index in 0..len.div_ceil(MAX_VALUE_BYTES) {
                let piece = records.get(&self.place(index, places))?;
                value.extend(piece.ok_or_else(|| self.damaged())?);
            }
        }
        if value.len() != len {
            return Err(self.damaged());
        }
        self.kept = Some(Kept {
            places,
            value: value.clone(),
        });
        Ok(Some(value))
    }

    /// Writes the value; on return it lasts.
    pub fn store(&mut self, records: &mut dyn Records, value: &[u8]) -> Result<(), RecordError> {
        let len = u32::try_from(value.len()).map_err(|_| RecordError::Refused(self.name.into()))?;
        if value.len() > MAX_BLOB_BYTES {
            return Err(RecordError::Refused(self.name.into()));
        }
        if self.kept.is_none() {
            // What is damaged may be written over.
            let _ = self.load(records);
        }
        let is_inline = value.len() <= MAX_INLINE_BYTES;
        let mut places = self.kept.as_ref().map_or(0, |kept| kept.places);
        for (index, piece) in value.chunks(MAX_VALUE_BYTES).enumerate() {
            let is_kept = self
                .kept
                .as_ref()
                .is_some_and(|kept| kept.piece(index) == piece);
            if !is_inline && !is_kept {
                places ^= 1 << index;
                records.put(&self.place(index, places), piece)?;
            }
        }
        let mut head = vec![VERSION];
        head.extend_from_slice(&places.to_le_bytes());
        head.extend_from_slice(&len.to_le_bytes());
        if is_inline {
            head.extend_from_slice(value);
        }
        records.put(self.name, &head)?;
        self.kept = Some(Kept {
            places,
            value: value.to_vec(),
        });
        Ok(())
    }

    /// Deletes the value.
    pub fn delete(&mut self, records: &mut dyn Records) -> Result<(), RecordError> {
        self.kept = None;
        records.delete(self.name)
    }

    fn place(&self, index: usize, places: u64) -> String {
        format!("{}.{index}.{}", self.name, places >> index & 1)
    }

    fn damaged(&self) -> RecordError {
        RecordError::Damaged(self.name.to_owned())
    }
}

/// Returns the places, the length, and what is behind the head.
fn read_head(head: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (version, rest) = head.split_first()?;
    let (places, rest) = rest.split_first_chunk()?;
    let (len, inline) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let is_sound = *version == VERSION && len <= MAX_BLOB_BYTES;
    is_sound.then_some((u64::from_le_bytes(*places), len, inline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryRecords;

    /// Fails from a given write on, as power does.
    struct Dying {
        records: MemoryRecords,
        writes_left: usize,
    }

    impl Records for Dying {
        fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
            self.records.get(name)
        }

        fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
            self.writes_left = self
                .writes_left
                .checked_sub(1)
                .ok_or(RecordError::Protocol)?;
            self.records.put(name, value)
        }

        fn delete(&mut self, name: &str) -> Result<(), RecordError> {
            self.records.delete(name)
        }
    }

    fn value(len: usize, seed: u8) -> Vec<u8> {
        (0..len)
            .map(|at| seed.wrapping_add(u8::try_from(at / 100 % 251).unwrap()))
            .collect()
    }

    #[test]
    fn values_of_all_lengths_come_back() {
        let mut records = MemoryRecords::default();
        for len in [
            0,
            1,
            MAX_INLINE_BYTES,
            MAX_INLINE_BYTES + 1,
            8000,
            8001,
            70_000,
            5,
        ] {
            Blob::new("v").store(&mut records, &value(len, 3)).unwrap();
            let loaded = Blob::new("v").load(&mut records).unwrap();
            assert_eq!(loaded, Some(value(len, 3)));
        }
        assert!(
            Blob::new("v")
                .store(&mut records, &vec![0; MAX_BLOB_BYTES + 1])
                .is_err()
        );
        Blob::new("v").delete(&mut records).unwrap();
        assert_eq!(Blob::new("v").load(&mut records).unwrap(), None);
    }

    #[test]
    fn power_cut_at_any_write_leaves_the_old_or_the_new_value() {
        for (old_len, new_len) in [
            (100, 30_000),
            (30_000, 100),
            (30_000, 40_000),
            (40_000, 9_000),
        ] {
            for writes_left in 0..8 {
                let mut records = MemoryRecords::default();
                let (old, new) = (value(old_len, 1), value(new_len, 77));
                Blob::new("v").store(&mut records, &old).unwrap();
                let mut dying = Dying {
                    records,
                    writes_left,
                };
                let outcome = Blob::new("v").store(&mut dying, &new);
                let loaded = Blob::new("v").load(&mut dying.records).unwrap().unwrap();
                assert!(loaded == if outcome.is_ok() { new } else { old });
            }
        }
    }

    #[test]
    fn only_changed_pieces_are_written() {
        let mut records = Dying {
            records: MemoryRecords::default(),
            writes_left: 100,
        };
        let mut blob = Blob::new("v");
        let mut long = value(60_000, 1);
        blob.store(&mut records, &long).unwrap();
        long[20_000] ^= 1;
        records.writes_left = 2;
        blob.store(&mut records, &long).unwrap();
        assert_eq!(Blob::new("v").load(&mut records).unwrap(), Some(long));
    }

    #[test]
    fn missing_piece_and_unknown_version_are_damage() {
        let mut records = MemoryRecords::default();
        Blob::new("v")
            .store(&mut records, &value(20_000, 1))
            .unwrap();
        records.delete("v.1.1").unwrap();
        assert!(Blob::new("v").load(&mut records).is_err());
        records.put("v", &[9; 20]).unwrap();
        assert!(Blob::new("v").load(&mut records).is_err());
    }
}
