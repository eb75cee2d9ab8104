//! An open disk: everything that is left to do, one step at a time.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::cache::{CacheIndex, Content, NodeCache};
use super::commit::{Commit, Stage};
use super::config::{Access, Anchoring};
use super::entry::Entry;
use super::fault::{Anchor, Event};
use super::format::Header;
use super::geometry::{Geometry, NodeNumber};
use super::request::{Kind, Request, RequestError, SECTORS};
use super::requests::Requests;
use super::seals::Seals;
use super::space::Space;
use super::transfer::{Job, Phase, Transfers};
use crate::host::{BLOCK_BYTES, Memory};

/// Events kept for the caller; more are counted.
const MOST_EVENTS: usize = 16;

/// What goes between a disk and its caller.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) transfers: Transfers,
    /// Private memory a block is worked on in.
    pub(crate) scratch: Box<[u8; BLOCK_BYTES]>,
    pub(crate) events: Events,
}

/// What happened, until the caller asks for it.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Vec<Event>,
    lost: u64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            queue: Vec::with_capacity(MOST_EVENTS),
            lost: 0,
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        if self.queue.len() < MOST_EVENTS {
            self.queue.push(event);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        (!self.queue.is_empty()).then(|| self.queue.remove(0))
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// Whether a step found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It did something; there may be more.
    Done,
    /// It waits for the host, for a commit, or for nothing.
    Waiting,
}

/// An open disk.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) header: Header,
    pub(crate) geometry: Geometry,
    pub(crate) seals: Seals,
    pub(crate) access: Access,
    pub(crate) anchoring: Anchoring,
    /// Changed nodes of level 0 at most.
    pub(crate) dirty_limit: usize,

    pub(crate) generation: u64,
    /// Points to the top node.
    pub(crate) root: Entry,
    pub(crate) cache: NodeCache,
    pub(crate) space: Space,

    pub(crate) requests: Requests,
    pub(crate) commit: Commit,
    /// The newest generation the caller has put into safety.
    pub(crate) anchored: u64,
    /// An anchor the caller has not been given yet.
    pub(crate) anchor: Option<Anchor>,
}

impl Volume {
    /// Returns the number of sectors the guest sees.
    pub(crate) fn sectors(&self) -> u64 {
        self.geometry.logical_blocks() * SECTORS
    }

    /// Takes a request.
    pub(crate) fn submit(&mut self, request: Request) -> Result<(), RequestError> {
        if request.kind == Kind::Flush {
            let nowhere = Request {
                sector: 0,
                sectors: 0,
                ..request
            };
            return self.requests.submit(nowhere);
        }
        let end = request.sector.checked_add(request.sectors);
        if end.is_none_or(|end| end > self.sectors()) {
            return Err(RequestError::OutOfRange);
        }
        if request.kind != Kind::Read && self.access == Access::ReadOnly {
            return Err(RequestError::ReadOnly);
        }
        self.requests.submit(request)
    }

    /// Does the next piece of work: at most one block is encrypted, decrypted or authenticated.
    pub(crate) fn work(&mut self, io: &mut Io, memory: &mut impl Memory) -> Step {
        if let Some(index) = io
            .transfers
            .find(|transfer| matches!(transfer.phase, Phase::Returned(_)))
        {
            self.go_on(io, memory, index);
            return Step::Done;
        }
        if let Some(index) = io
            .transfers
            .find(|transfer| transfer.phase == Phase::Filling)
        {
            self.fill(io, memory, index);
            return Step::Done;
        }
        if self.commit_step(io, memory) == Step::Done {
            return Step::Done;
        }
        self.start_next(io, memory)
    }

    /// Returns the generation that no flush has to wait for.
    pub(crate) fn safe(&self) -> u64 {
        match self.anchoring {
            Anchoring::Strict => self.generation.min(self.anchored),
            Anchoring::Lazy => self.generation,
        }
    }

    /// Returns whether a commit has failed.
    pub(crate) fn is_offline(&self) -> bool {
        self.commit.stage == Stage::Offline
    }

    /// Notes that the caller has put a generation into safety.
    pub(crate) fn set_anchored(&mut self, generation: u64) {
        self.anchored = self.anchored.max(generation.min(self.generation));
    }

    /// Returns whether anything changed since the last commit.
    pub(crate) fn has_changed(&self) -> bool {
        self.space.has_given_up()
            || self
                .cache
                .find_where(|_, content| content == Content::Dirty)
                .is_some()
    }

    /// Marks a node as changed.
    pub(crate) fn mark_dirty(&mut self, node: CacheIndex) {
        self.cache.set_content(node, Content::Dirty);
    }

    /// Fails a request of which a node is needed that cannot be had.
    pub(crate) fn fail_for(&mut self, request: usize, was_forged: bool) {
        let error = if was_forged {
            RequestError::Forged
        } else {
            RequestError::Host
        };
        self.requests.fail(request, error);
    }

    /// Returns whether a write may begin that changes so many nodes of level 0.
    pub(crate) fn has_room_for(&self, nodes: usize) -> bool {
        let leaves = self.geometry.count(0);
        let is_dirty = |number: NodeNumber, content| number.0 < leaves && content == Content::Dirty;
        self.cache.count_where(is_dirty) + self.space.touched() + nodes <= self.dirty_limit
    }

    fn go_on(&mut self, io: &mut Io, memory: &mut impl Memory, index: usize) {
        let Some(transfer) = io.transfers.get(index) else {
            return;
        };
        match transfer.job {
            Job::Load(place) => self.finish_load(io, memory, index, place),
            Job::Store | Job::Superblock | Job::Flush => self.finish_commit_io(io, index),
            Job::Read => self.read_block(io, memory, index),
            Job::Merge => self.merge_block(io, memory, index),
            Job::Write => self.finish_write(io, index),
            // The disk is open already.
            Job::Open => io.transfers.end(index),
        }
    }

    fn start_next(&mut self, io: &mut Io, memory: &mut impl Memory) -> Step {
        for skipped in 0..self.requests.capacity() {
            let index = self.requests.in_turn(skipped);
            let Some(active) = self.requests.get(index) else {
                continue;
            };
            let kind = active.kind();
            let step = if kind == Kind::Flush {
                self.start_flush(index)
            } else if !self.requests.may_start(index) {
                Step::Waiting
            } else if kind == Kind::Read {
                self.start_read(io, memory, index)
            } else {
                self.start_change(io, index)
            };
            if step == Step::Done {
                self.requests.pass_turn(index);
                return Step::Done;
            }
        }
        Step::Waiting
    }

    fn start_change(&mut self, io: &mut Io, index: usize) -> Step {
        match self.commit.stage {
            Stage::Idle if !self.commit.is_wanted => {}
            Stage::Offline => {
                self.requests.fail(index, RequestError::Offline);
                return Step::Done;
            }
            _ => return Step::Waiting,
        }
        match self.requests.get(index).map(super::requests::Active::kind) {
            Some(Kind::Write) => self.start_write(io, index),
            Some(Kind::Discard | Kind::WriteZeroes) => self.start_clearing(io, index),
            _ => Step::Waiting,
        }
    }

    fn start_flush(&mut self, index: usize) -> Step {
        let (has_changed, generation) = (self.has_changed(), self.generation);
        let is_offline = self.commit.stage == Stage::Offline;
        let Some(active) = self.requests.get_mut(index) else {
            return Step::Waiting;
        };
        if active.needs.is_some() {
            return Step::Waiting;
        }
        if is_offline {
            active.needs = Some(0);
            self.requests.fail(index, RequestError::Offline);
            return Step::Done;
        }
        if self.commit.stage != Stage::Idle || self.commit.is_wanted {
            return Step::Waiting;
        }
        if has_changed {
            self.commit.is_wanted = true;
        } else {
            active.needs = Some(generation);
        }
        Step::Done
    }
}
