//! Commits: the changed part of the tree goes to its other homes, then the superblock, each followed by a flush of the host.
//!
//! Reads go on meanwhile; what changes the disk waits. A commit that fails leaves the disk readable and nothing else: what the
//! host has of it is not known.

use super::cache::Content;
use super::config::Anchoring;
use super::entry::Entry;
use super::fault::{Anchor, Event};
use super::format::{History, Superblock};
use super::space::{bit_of, bitmap_of, mark_free};
use super::transfer::{Job, Phase};
use super::tree::{Located, Missing};
use super::volume::{Io, Step, Volume};
use crate::host::{HostBlock, Memory};

/// How far a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is none.
    Idle,
    /// Writes in progress end.
    Draining,
    /// Blocks given up are marked free, from this one on.
    Freeing {
        /// Counted in the sorted list.
        from: usize,
        /// The latest request when it began.
        sequence: u64,
    },
    /// Changed nodes of a level are sealed and written.
    Sealing {
        /// From 0.
        level: usize,
    },
    /// The host makes the tree durable.
    FlushingTree,
    /// The superblock is being written.
    WritingSuperblock,
    /// The host makes the superblock durable.
    FlushingSuperblock,
    /// A commit failed.
    Offline,
}

/// The commit in progress.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) stage: Stage,
    /// A commit is to begin.
    pub(crate) is_wanted: bool,
    /// A transfer of this commit failed.
    has_failed: bool,
    /// The code of the superblock being written.
    code: [u8; 32],
    /// Bitmaps searched in vain since a free block was found.
    pub(crate) bitmaps_searched: u32,
}

impl Commit {
    pub(crate) fn new(stage: Stage) -> Self {
        Self {
            stage,
            is_wanted: false,
            has_failed: false,
            code: [0; 32],
            bitmaps_searched: 0,
        }
    }
}

impl Volume {
    /// Does the next step of a commit.
    pub(crate) fn commit_step(&mut self, io: &mut Io, memory: &mut impl Memory) -> Step {
        match self.commit.stage {
            Stage::Idle if self.commit.is_wanted => self.enter(Stage::Draining),
            Stage::Idle | Stage::Offline => Step::Waiting,
            Stage::Draining => self.drain(io),
            Stage::Freeing { from, sequence } => self.free(io, from, sequence),
            Stage::Sealing { level } if level < self.geometry.levels() => {
                self.seal_next(io, memory, level)
            }
            Stage::Sealing { .. } => self.end_sealing(io),
            Stage::FlushingTree if io.transfers.any(Job::Flush) => Step::Waiting,
            Stage::FlushingTree if self.commit.has_failed => self.fail_commit(io),
            // No generation is begun on one that could still be taken back.
            Stage::FlushingTree if self.safe() < self.generation => Step::Waiting,
            Stage::FlushingTree => self.write_superblock(io, memory),
            Stage::WritingSuperblock if io.transfers.any(Job::Superblock) => Step::Waiting,
            Stage::WritingSuperblock => self.flush(io, Stage::FlushingSuperblock),
            Stage::FlushingSuperblock if io.transfers.any(Job::Flush) => Step::Waiting,
            Stage::FlushingSuperblock => self.end_commit(io),
        }
    }

    /// Has an empty disk written its first superblock.
    pub(crate) fn format(&mut self) {
        self.commit.stage = Stage::FlushingTree;
    }

    /// Notes how a transfer of the commit ended.
    pub(crate) fn finish_commit_io(&mut self, io: &mut Io, index: usize) {
        if let Some(transfer) = io.transfers.get(index) {
            self.commit.has_failed |= transfer.result().is_err();
        }
        io.transfers.end(index);
    }

    fn enter(&mut self, stage: Stage) -> Step {
        self.commit.stage = stage;
        Step::Done
    }

    fn drain(&mut self, io: &Io) -> Step {
        if io.transfers.any(Job::Write) || io.transfers.any(Job::Merge) {
            return Step::Waiting;
        }
        self.space.sort();
        let sequence = self.requests.latest();
        self.enter(Stage::Freeing { from: 0, sequence })
    }

    /// Marks the blocks given up free that are of the same bitmap.
    fn free(&mut self, io: &mut Io, from: usize, sequence: u64) -> Step {
        let Some(first) = self.space.given_up().get(from).copied() else {
            return self.enter(Stage::Sealing { level: 0 });
        };
        let bitmap = bitmap_of(first);
        let node = self.geometry.bitmap(bitmap);
        let loads = io.transfers.loads();
        let place = match self.locate(io, node, Missing::Create, sequence) {
            Located::Here(place) => place,
            Located::Bad { .. } => return self.fail_commit(io),
            _ if io.transfers.loads() > loads => return Step::Done,
            _ => return Step::Waiting,
        };
        let blocks = self.space.given_up().iter().skip(from);
        let mut freed = 0;
        for block in blocks.take_while(|block| bitmap_of(**block) == bitmap) {
            mark_free(self.cache.bytes_mut(place), bit_of(*block));
            freed += 1;
        }
        self.mark_dirty(place);
        self.enter(Stage::Freeing {
            from: from + freed,
            sequence,
        })
    }

    /// Seals one changed node of a level, has it written, and enters it in its parent.
    fn seal_next(&mut self, io: &mut Io, memory: &mut impl Memory, level: usize) -> Step {
        let geometry = &self.geometry;
        let next = self.cache.find_where(|number, content| {
            content == Content::Dirty && geometry.node(number).level == level
        });
        let Some(node) = next else {
            return self.enter(Stage::Sealing { level: level + 1 });
        };
        if io.transfers.available() == 0 {
            return Step::Waiting;
        }
        let number = self.cache.number(node);
        let parent = self.cache.parent(node);
        let place = self.place(number);
        let old = parent.map_or(self.root, |parent| self.cache.entry(parent, place));
        let home = old.next_home();
        let block = self.geometry.home(number, home);
        let Some(transfer) = io.transfers.start(Job::Store, Phase::Queued, block, 1) else {
            return Step::Waiting;
        };
        let bytes = self.cache.bytes(node);
        let entry = Entry::of_node(home, self.seals.seal_node(bytes));
        if let Some(slot) = transfer.slots.list().first() {
            memory.write_slot(*slot, bytes);
        }
        self.cache.set_content(node, Content::Sealed);
        if let Some(parent) = parent {
            entry.write(self.cache.bytes_mut(parent), place);
            self.mark_dirty(parent);
        } else {
            self.root = entry;
        }
        Step::Done
    }

    fn end_sealing(&mut self, io: &mut Io) -> Step {
        if io.transfers.any(Job::Store) {
            return Step::Waiting;
        }
        if self.commit.has_failed {
            return self.fail_commit(io);
        }
        self.flush(io, Stage::FlushingTree)
    }

    fn flush(&mut self, io: &mut Io, next: Stage) -> Step {
        if self.commit.has_failed {
            return self.fail_commit(io);
        }
        match io
            .transfers
            .start(Job::Flush, Phase::Queued, HostBlock(0), 0)
        {
            Some(_) => self.enter(next),
            None => Step::Waiting,
        }
    }

    fn write_superblock(&mut self, io: &mut Io, memory: &mut impl Memory) -> Step {
        let superblock = Superblock::with_history(
            &self.seals,
            &self.header,
            self.generation + 1,
            self.root,
            self.space.cursor(&self.geometry),
            self.history(),
        );
        let place = superblock.place();
        let Some(transfer) = io.transfers.start(Job::Superblock, Phase::Queued, place, 1) else {
            return Step::Waiting;
        };
        superblock.write(&mut io.scratch);
        if let Some(slot) = transfer.slots.list().first() {
            memory.write_slot(*slot, &io.scratch);
        }
        self.commit.code = superblock.code;
        self.enter(Stage::WritingSuperblock)
    }

    fn end_commit(&mut self, io: &mut Io) -> Step {
        if self.commit.has_failed {
            return self.fail_commit(io);
        }
        self.generation += 1;
        self.cache.settle();
        self.space.settle();
        self.anchor = Some(Anchor {
            disk: *self.header.disk(),
            generation: self.generation,
            digest: self.commit.code,
        });
        self.commit = Commit::new(Stage::Idle);
        // Nothing was changed since the commit began, so it covers every flush that waits.
        let generation = self.generation;
        for flush in self.requests.iter_mut().filter(|active| active.is_flush()) {
            flush.needs.get_or_insert(generation);
        }
        Step::Done
    }

    /// Says so only once an anchor is safe: if the power goes before the first one is, the disk must open without.
    fn history(&self) -> History {
        if self.anchoring == Anchoring::Strict && self.anchored > 0 {
            History::Anchored
        } else {
            History::Unanchored
        }
    }

    /// Ends all changes: what is committed from now on could be taken back.
    pub(crate) fn lose_anchor(&mut self, io: &mut Io) {
        if self.anchoring == Anchoring::Lazy {
            return;
        }
        // Also when a commit has failed since: they wait for the anchor of the one before.
        let safe = self.safe();
        for flush in self.requests.iter_mut().filter(|active| active.is_flush()) {
            flush.fail_above(safe);
        }
        if self.is_offline() {
            return;
        }
        io.events.push(Event::AnchorLost {
            generation: self.generation,
        });
        self.commit.stage = Stage::Offline;
    }

    fn fail_commit(&mut self, io: &mut Io) -> Step {
        io.events.push(Event::CommitFailed {
            generation: self.generation + 1,
        });
        self.enter(Stage::Offline)
    }
}
