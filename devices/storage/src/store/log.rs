//! The log of an area: a snapshot, then changes, all fragments of entries chained to the one before by its tag.

use core::ops::Range;

use super::format::{ENTRY_HEADER, EntryHeader, EntryKind, Part, Sealer};
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
    /// The highest sequence number of the end of an entry anywhere in it.
    pub(crate) highest: u64,
    /// It holds nothing, or at most a part of a snapshot of nothing.
    pub(crate) is_empty: bool,
}

/// A log as far as it was followed.
#[derive(Default)]
struct Chain {
    /// Of the last whole entry.
    end: Option<End>,
    /// Of the last fragment.
    tip: Option<End>,
    /// What the entry is whose end was not found yet.
    unfinished: Option<EntryKind>,
    is_broken: bool,
}

impl Chain {
    /// Takes a fragment, if it follows; nothing follows one that does not.
    fn take(&mut self, header: &EntryHeader, next: usize) {
        let (sequence, kind) = (header.sequence.get(), header.kind());
        let follows = match (self.tip, self.unfinished) {
            (None, _) => kind == Some(EntryKind::Snapshot),
            (Some(tip), unfinished) => {
                kind == Some(unfinished.unwrap_or(EntryKind::Changes))
                    && tip.sequence.checked_add(1) == Some(sequence)
                    && header.previous == tip.tag
            }
        };
        self.is_broken |= !follows;
        if self.is_broken {
            return;
        }
        let tip = End {
            sequence,
            tag: header.tag,
            block: next,
        };
        self.tip = Some(tip);
        self.unfinished = None;
        match header.part() {
            Part::Last => self.end = Some(tip),
            Part::More => self.unfinished = kind,
        }
    }
}

/// Follows the log of an area and decrypts it in place. Then looks for ends of entries after its own: they were once written
/// after entries that are not there now. An entry without its end is what a power cut leaves, wherever it is.
pub(crate) fn follow(sealer: &Sealer, area: &mut [u8]) -> Found {
    let is_empty = area.iter().skip(ENTRY_HEADER).all(|byte| *byte == 0);
    let mut chain = Chain::default();
    let mut highest = 0;
    let mut block = 0;
    while let Some(rest) = area
        .get_mut(block * BLOCK_BYTES..)
        .filter(|rest| !rest.is_empty())
    {
        let Some(header) = open(sealer, rest) else {
            chain.is_broken = true;
            block += 1;
            continue;
        };
        if header.part() == Part::Last {
            highest = highest.max(header.sequence.get());
        }
        block += header.blocks();
        chain.take(&header, block);
    }
    Found {
        end: chain.end,
        highest,
        is_empty,
    }
}

/// Takes the records from a log that was followed. `false` if an entry is no list, which an authentic one always is.
pub(crate) fn replay(area: &mut [u8], end: &End, records: &mut Records) -> bool {
    records.clear();
    let mut block = 0;
    while block < end.block {
        let Some((payload, next)) = gather(area, block) else {
            return false;
        };
        if !records.apply(area.get(payload).unwrap_or(&[])) {
            return false;
        }
        block = next;
    }
    true
}

/// Moves the payloads of an entry's fragments together. Returns where they are and the block after the entry.
fn gather(area: &mut [u8], first: usize) -> Option<(Range<usize>, usize)> {
    let start = first * BLOCK_BYTES + ENTRY_HEADER;
    let (mut end, mut block) = (start, first);
    loop {
        let at = block * BLOCK_BYTES;
        let header = EntryHeader::read(area.get(at..)?)?;
        let from = payload(&header);
        let length = from.len();
        // What is moved ends before the next fragment begins: a payload is shorter than the blocks it came in.
        area.copy_within(at + from.start..at + from.end, end);
        end += length;
        block += header.blocks();
        if header.part() == Part::Last {
            return Some((start..end, block));
        }
    }
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
