//! The log of an area: a snapshot, then changes, each entry chained to the one before it by its tag.

use core::ops::Range;

use super::format::{ENTRY_HEADER, EntryHeader, EntryKind, Sealer};
use super::records::Records;
use crate::host::BLOCK_BYTES;

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Of the last entry.
    pub(crate) sequence: u64,
    /// Of the last entry.
    pub(crate) tag: [u8; 16],
    /// The block after it.
    pub(crate) block: usize,
}

/// What an area holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The end of its log; none if it does not begin with an authentic snapshot.
    pub(crate) end: Option<End>,
    /// The highest sequence number of an authentic entry anywhere in it.
    pub(crate) highest: u64,
    /// It holds nothing, or at most a part of a snapshot of nothing.
    pub(crate) is_empty: bool,
}

/// Follows the log of an area and decrypts it in place. Then looks for authentic entries after its end: they were once written
/// after entries that are not there now.
pub(crate) fn follow(sealer: &Sealer, area: &mut [u8]) -> Found {
    let is_empty = area.iter().skip(ENTRY_HEADER).all(|byte| *byte == 0);
    let mut end: Option<End> = None;
    let mut highest = 0;
    let mut block = 0;
    let mut is_chained = true;
    while let Some(rest) = area
        .get_mut(block * BLOCK_BYTES..)
        .filter(|rest| !rest.is_empty())
    {
        let Some(header) = open(sealer, rest) else {
            is_chained = false;
            block += 1;
            continue;
        };
        let sequence = header.sequence.get();
        highest = highest.max(sequence);
        is_chained &= match end {
            None => header.kind() == Some(EntryKind::Snapshot),
            Some(end) => {
                header.kind() == Some(EntryKind::Changes)
                    && end.sequence.checked_add(1) == Some(sequence)
                    && header.previous == end.tag
            }
        };
        let next = block + header.blocks();
        if is_chained {
            end = Some(End {
                sequence,
                tag: header.tag,
                block: next,
            });
        }
        block = next;
    }
    Found {
        end,
        highest,
        is_empty,
    }
}

/// Takes the records from a log that was followed. `false` if an entry is no list, which an authentic one always is.
pub(crate) fn replay(area: &[u8], end: &End, records: &mut Records) -> bool {
    records.clear();
    let mut block = 0;
    while block < end.block {
        let rest = area.get(block * BLOCK_BYTES..).unwrap_or(&[]);
        let Some(header) = EntryHeader::read(rest) else {
            return false;
        };
        let payload = rest.get(payload(&header)).unwrap_or(&[]);
        if !records.apply(payload) {
            return false;
        }
        block += header.blocks();
    }
    true
}

/// Returns where the payload of an entry is.
pub(crate) fn payload(header: &EntryHeader) -> Range<usize> {
    ENTRY_HEADER..ENTRY_HEADER + header.length.get() as usize
}

fn open(sealer: &Sealer, bytes: &mut [u8]) -> Option<EntryHeader> {
    let header = EntryHeader::read(bytes)?;
    let payload = bytes.get_mut(payload(&header))?;
    sealer.open(&header, payload).then_some(header)
}
