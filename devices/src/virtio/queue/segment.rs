//! Runs of guest memory, and copying to and from several as if they were one.

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// A run of guest memory that was guest RAM when it was checked; copies check again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub gpa: Gpa,
    /// How many bytes it has.
    pub len: u32,
}

/// Returns how many bytes `segments` have together.
#[must_use]
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Returns the parts of `segments` that hold the `len` bytes from byte `offset` on, as far as there are any.
#[must_use]
pub fn pieces(segments: &[Segment], offset: u64, len: u64) -> Pieces<'_> {
    Pieces {
        segments,
        skip: offset,
        left: len,
    }
}

/// Iterator of [`pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    segments: &'a [Segment],
    skip: u64,
    left: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        while self.left > 0 {
            let (first, rest) = self.segments.split_first()?;
            self.segments = rest;
            let skip = core::mem::take(&mut self.skip);
            let Some(room) = u64::from(first.len).checked_sub(skip).filter(|r| *r > 0) else {
                self.skip = skip - u64::from(first.len);
                continue;
            };
            let len = room.min(self.left);
            self.left -= len;
            // Both fit: `room` is at most a `u32`, and the segment does not wrap.
            let (gpa, len) = (first.gpa.checked_add(skip)?, u32::try_from(len).ok()?);
            return Some(Segment { gpa, len });
        }
        None
    }
}

/// Copies guest memory from byte `offset` of `segments` on into `buffer`; returns how many bytes there were.
pub fn gather<M: GuestMemory + ?Sized>(
    memory: &M,
    segments: &[Segment],
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, MemoryError> {
    let mut done = 0;
    for piece in pieces(segments, offset, buffer.len() as u64) {
        let end = done + piece.len as usize;
        if let Some(part) = buffer.get_mut(done..end) {
            memory.read(piece.gpa, part)?;
            done = end;
        }
    }
    Ok(done)
}

/// Copies `bytes` to guest memory from byte `offset` of `segments` on; returns how many had room.
pub fn scatter<M: GuestMemory + ?Sized>(
    memory: &M,
    segments: &[Segment],
    offset: u64,
    bytes: &[u8],
) -> Result<usize, MemoryError> {
    let mut done = 0;
    for piece in pieces(segments, offset, bytes.len() as u64) {
        let end = done + piece.len as usize;
        if let Some(part) = bytes.get(done..end) {
            memory.write(piece.gpa, part)?;
            done = end;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;
    use stockade_bus::fake::FakeMemory;

    const SEGMENTS: [Segment; 3] = [
        Segment {
            gpa: Gpa(0x100),
            len: 3,
        },
        Segment {
            gpa: Gpa(0x200),
            len: 1,
        },
        Segment {
            gpa: Gpa(0x300),
            len: 4,
        },
    ];

    /// Every offset and length, against one long list of addresses.
    #[test]
    fn pieces_are_the_bytes_asked_for() {
        let bytes = |pieces: Pieces<'_>| -> Vec<u64> {
            pieces
                .flat_map(|piece| piece.gpa.0..piece.gpa.0 + u64::from(piece.len))
                .collect()
        };
        let all = bytes(pieces(&SEGMENTS, 0, u64::MAX));
        assert_eq!(all.len() as u64, total(&SEGMENTS));
        for offset in 0..10_usize {
            for len in 0..10_usize {
                let expected: Vec<u64> = all.iter().skip(offset).take(len).copied().collect();
                assert_eq!(
                    bytes(pieces(&SEGMENTS, offset as u64, len as u64)),
                    expected
                );
            }
        }
    }

    #[test]
    fn what_is_scattered_is_gathered_again() {
        let memory = FakeMemory::new(0x1000);
        assert_eq!(scatter(&memory, &SEGMENTS, 1, b"abcdefghij"), Ok(7));
        let mut back = [0; 9];
        assert_eq!(gather(&memory, &SEGMENTS, 0, &mut back), Ok(8));
        assert_eq!(&back, b"\0abcdefg\0");
        let mut byte = [0];
        memory.read(Gpa(0x200), &mut byte).unwrap();
        assert_eq!(&byte, b"c");
    }
}
