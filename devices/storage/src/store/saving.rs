//! Saving: the changes that wait become one entry, written and made durable before the next begins.

use zerocopy::IntoBytes;

use super::format::{ENTRY_HEADER, EntryKind};
use super::{Log, SealedStore, Stage, Ticket};
use crate::disk::Work;
use crate::host::{BLOCK_BYTES, HostBlock, HostError, HostOp, Memory};

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saving {
    /// Nothing.
    Nothing,
    /// An entry.
    Writing {
        entry: Entry,
        /// Blocks the host was given.
        written: u32,
    },
    /// An entry is being made durable.
    Flushing(Entry),
}

/// An entry in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its first block in its area.
    first: u32,
    blocks: u32,
    /// The latest change it contains.
    ticket: Ticket,
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
            Saving::Writing { entry, written } if written < entry.blocks => {
                self.write_on(memory, entry, written);
            }
            Saving::Writing { entry, .. } => {
                self.transfer.begin(HostOp::Flush, HostBlock(0), 0);
                log.saving = Saving::Flushing(entry);
            }
            Saving::Flushing(entry) => {
                log.next = entry.first + entry.blocks;
                log.saving = Saving::Nothing;
                self.durable = entry.ticket;
            }
        }
        Work::Again
    }

    /// Makes the first entry of a new store, a snapshot of nothing. If the power goes while it is written, nothing is lost; and a
    /// store with anything more in it, of which nothing is authentic, was not cut short.
    fn begin_log(&mut self) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        let blocks = log.seal_into(&mut self.buffer, EntryKind::Snapshot, &[]);
        let entry = Entry {
            first: log.next,
            blocks,
            ticket: self.durable,
        };
        log.saving = Saving::Writing { entry, written: 0 };
    }

    /// Makes an entry of the changes that wait, or of all records if the area is full.
    fn begin_entry(&mut self) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        let fits = |length: usize| {
            let blocks = (ENTRY_HEADER + length).div_ceil(BLOCK_BYTES);
            log.next as usize + blocks <= log.header.area_blocks() as usize
        };
        let (kind, payload) = if fits(self.changes.bytes().len()) {
            (EntryKind::Changes, self.changes.bytes())
        } else {
            log.area = log.area.other();
            log.next = 0;
            (EntryKind::Snapshot, self.records.bytes())
        };
        let blocks = log.seal_into(&mut self.buffer, kind, payload);
        log.saving = Saving::Writing {
            entry: Entry {
                first: log.next,
                blocks,
                ticket: self.latest,
            },
            written: 0,
        };
        self.changes.clear();
    }

    fn write_on(&mut self, memory: &mut impl Memory, entry: Entry, written: u32) {
        let Stage::Open(log) = &mut self.stage else {
            return;
        };
        let block = log.header.block(log.area, entry.first + written);
        let left = (entry.blocks - written) as usize;
        self.transfer.begin(HostOp::Write, block, left);
        let blocks = self.buffer.chunks_exact(BLOCK_BYTES).skip(written as usize);
        let mut done = written;
        for (slot, block) in self.transfer.slots.list().iter().zip(blocks) {
            self.scratch.copy_from_slice(block);
            memory.write_slot(*slot, &self.scratch);
            done += 1;
        }
        log.saving = Saving::Writing {
            entry,
            written: done,
        };
    }
}

impl Log {
    /// Puts an entry with this payload into the buffer, and returns how many blocks it has.
    fn seal_into(&mut self, buffer: &mut [u8], kind: EntryKind, payload: &[u8]) -> u32 {
        let end = ENTRY_HEADER + payload.len();
        buffer.fill(0);
        self.sequence += 1;
        if let Some(place) = buffer.get_mut(ENTRY_HEADER..end) {
            place.copy_from_slice(payload);
            let header = self.sealer.seal(kind, self.sequence, self.tag, place);
            self.tag = header.tag;
            let _ = header.write_to_prefix(buffer);
        }
        // An area has far fewer blocks than a u32 can count.
        u32::try_from(end.div_ceil(BLOCK_BYTES)).unwrap_or(0)
    }
}
