//! Saving: the changes that wait become one entry, written and made durable before the next begins.
//!
//! A long entry goes in fragments. All but its last are durable before that one is written, so that its end is never there without it.

use zerocopy::IntoBytes;

use super::format::{
    ENTRY_HEADER, EntryKind, FRAGMENT_BLOCKS, FRAGMENT_PAYLOAD, Part, entry_blocks,
};
use super::{Log, SealedStore, Stage, Ticket};
use crate::disk::Work;
use crate::host::{BLOCK_BYTES, HostBlock, HostError, HostOp, Memory};

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saving {
    /// Nothing.
    Nothing,
    /// The next fragment of an entry is to be sealed.
    Sealing(Entry),
    /// A fragment is being written.
    Writing { entry: Entry, fragment: Fragment },
    /// An entry is being made durable.
    Flushing(Entry),
}

/// An entry, its payload in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    kind: EntryKind,
    /// Bytes of the payload.
    length: usize,
    /// How many of them were sealed.
    sealed: usize,
    /// The block of its area the next fragment goes to.
    next: u32,
    /// The latest change it contains.
    ticket: Ticket,
}

impl Entry {
    fn left(&self) -> usize {
        self.length - self.sealed
    }

    /// Returns whether what is left goes into one fragment.
    fn is_last(&self) -> bool {
        self.left() <= FRAGMENT_PAYLOAD
    }
}

/// A sealed fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    part: Part,
    blocks: u32,
    /// Blocks the host was given.
    written: u32,
}

impl SealedStore {
    /// Does the next step of saving.
    pub(super) fn save_step(&mut self, memory: &mut impl Memory) -> Work {
        if let Some(Err(HostError)) = self.transfer.take_result() {
            // What the host has of the entry is not known.
            self.stage = Stage::Offline;
            return Work::Idle;
        }
        let Stage::Open(log) = &mut self.stage else {
            return Work::Idle;
        };
        match log.saving {
            Saving::Nothing if log.sequence == 0 => self.begin_log(),
            Saving::Nothing if self.changes.bytes().is_empty() => return Work::Idle,
            Saving::Nothing => self.begin_entry(),
            Saving::Sealing(entry) => {
                let from = self.buffer.get(entry.sealed..entry.length);
                log.seal(entry, from.unwrap_or(&[]), &mut self.fragment);
            }
            Saving::Writing { entry, fragment } if fragment.written < fragment.blocks => {
                self.write_on(memory, entry, fragment);
            }
            Saving::Writing { entry, fragment } => self.end_fragment(entry, fragment.part),
            Saving::Flushing(entry) if entry.left() > 0 => log.saving = Saving::Sealing(entry),
            Saving::Flushing(entry) => {
                log.next = entry.next;
                log.saving = Saving::Nothing;
                self.durable = entry.ticket;
            }
        }
        Work::Again
    }

    /// Makes the first entry of a new store, a snapshot of nothing. If the power goes while it is written, nothing is lost; and a
    /// store with anything more in it, of which nothing is authentic, was not cut short.
    fn begin_log(&mut self) {
        let ticket = self.durable;
        if let Stage::Open(log) = &mut self.stage {
            log.saving = Saving::Sealing(Entry {
                kind: EntryKind::Snapshot,
                length: 0,
                sealed: 0,
                next: log.next,
                ticket,
            });
        }
    }

    /// Makes an entry of the changes that wait, or of all records if the area is full.
    fn begin_entry(&mut self) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        let blocks = entry_blocks(self.changes.bytes().len());
        let fits = log.next as usize + blocks <= log.header.area_blocks() as usize;
        let (kind, payload) = if fits {
            (EntryKind::Changes, self.changes.bytes())
        } else {
            log.area = log.area.other();
            log.next = 0;
            (EntryKind::Snapshot, self.records.bytes())
        };
        if let Some(place) = self.buffer.get_mut(..payload.len()) {
            place.copy_from_slice(payload);
        }
        log.saving = Saving::Sealing(Entry {
            kind,
            length: payload.len(),
            sealed: 0,
            next: log.next,
            ticket: self.latest,
        });
        self.changes.clear();
    }

    fn write_on(&mut self, memory: &mut impl Memory, entry: Entry, fragment: Fragment) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        let first = entry.next - fragment.blocks;
        let block = log.header.block(log.area, first + fragment.written);
        let left = (fragment.blocks - fragment.written) as usize;
        self.transfer.begin(HostOp::Write, block, left);
        let blocks = self.fragment.iter().skip(fragment.written as usize);
        let mut written = fragment.written;
        for (slot, block) in self.transfer.slots.list().iter().zip(blocks) {
            memory.write_slot(*slot, block);
            written += 1;
        }
        let fragment = Fragment {
            written,
            ..fragment
        };
        log.saving = Saving::Writing { entry, fragment };
    }

    /// Goes on to the next fragment, or has the host flush: all but the last before that one, and the last.
    fn end_fragment(&mut self, entry: Entry, part: Part) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        if part == Part::Last || entry.is_last() {
            self.transfer.begin(HostOp::Flush, HostBlock(0), 0);
            log.saving = Saving::Flushing(entry);
        } else {
            log.saving = Saving::Sealing(entry);
        }
    }
}

impl Log {
    /// Seals the next fragment of an entry, of what is left of its payload.
    fn seal(
        &mut self,
        entry: Entry,
        left: &[u8],
        fragment: &mut [[u8; BLOCK_BYTES]; FRAGMENT_BLOCKS],
    ) {
        let part = if entry.is_last() {
            Part::Last
        } else {
            Part::More
        };
        let payload = &left[..left.len().min(FRAGMENT_PAYLOAD)];
        let end = ENTRY_HEADER + payload.len();
        let bytes = fragment.as_flattened_mut();
        bytes.fill(0);
        self.sequence += 1;
        if let Some(place) = bytes.get_mut(ENTRY_HEADER..end) {
            place.copy_from_slice(payload);
            let kind = (entry.kind, part);
            let header = self.sealer.seal(kind, self.sequence, self.tag, place);
            self.tag = header.tag;
            let _ = header.write_to_prefix(bytes);
        }
        // At most as many as a fragment has.
        let blocks = u32::try_from(end.div_ceil(BLOCK_BYTES)).unwrap_or(0);
        self.saving = Saving::Writing {
            entry: Entry {
                sealed: entry.sealed + payload.len(),
                next: entry.next + blocks,
                ..entry
            },
            fragment: Fragment {
                part,
                blocks,
                written: 0,
            },
        };
    }
}
