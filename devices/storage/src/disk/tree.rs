//! Nodes on their way from the host into the cache, each checked against the entry that points to it.

use super::cache::{CacheIndex, Content};
use super::entry::{Entry, FAN_OUT};
use super::fault::Event;
use super::geometry::NodeNumber;
use super::transfer::{Job, LOADS, Phase};
use super::volume::{Io, Volume};
use crate::host::Memory;

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// In the cache.
    Here(CacheIndex),
    /// Nowhere: nothing was ever written below this node, which is it or above it.
    Absent(NodeNumber),
    /// On its way, or there is no room for it at the moment.
    OnItsWay,
    /// It could not be read, or was forged.
    Bad {
        /// It was forged.
        was_forged: bool,
    },
}

/// What to do about a node that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Say so.
    Tell,
    /// Make it, all zeros.
    Create,
}

impl Volume {
    /// Finds a node, or has it read. `sequence` is that of the request that needs it.
    pub(crate) fn locate(
        &mut self,
        io: &mut Io,
        number: NodeNumber,
        missing: Missing,
        sequence: u64,
    ) -> Located {
        let mut at = Some(number);
        let mut here = None;
        while let Some(candidate) = at {
            match self.cache.find(candidate) {
                Some((_, Content::Loading)) => return Located::OnItsWay,
                Some((_, Content::Bad { last, was_forged })) if sequence <= last => {
                    return Located::Bad { was_forged };
                }
                Some((index, Content::Bad { .. })) => self.cache.remove(index),
                Some((index, _)) => {
                    here = Some(index);
                    break;
                }
                None => {}
            }
            at = self.geometry.parent(candidate);
        }
        self.descend(io, number, here, missing)
    }

    /// Goes down from a node that is here, or from the superblock, as far as nodes are here or can be made.
    fn descend(
        &mut self,
        io: &mut Io,
        number: NodeNumber,
        from: Option<CacheIndex>,
        missing: Missing,
    ) -> Located {
        let mut here = from;
        loop {
            let next = match here {
                Some(index) if self.cache.number(index) == number => return Located::Here(index),
                Some(index) => self.child_towards(self.cache.number(index), number),
                None => self.geometry.top(),
            };
            let entry = match here {
                Some(index) => self.cache.entry(index, self.place(next)),
                None => self.root,
            };
            if !entry.is_absent() {
                return self.load(io, next, here, entry);
            }
            if missing == Missing::Tell {
                return Located::Absent(next);
            }
            match self.cache.insert(next, here, Content::Clean) {
                Some(index) => here = Some(index),
                None => return Located::OnItsWay,
            }
        }
    }

    /// Returns the child of `above` that is on the way to `number`, which is below it.
    fn child_towards(&self, above: NodeNumber, number: NodeNumber) -> NodeNumber {
        let mut child = number;
        while let Some(parent) = self.geometry.parent(child) {
            if parent == above {
                break;
            }
            child = parent;
        }
        child
    }

    /// Returns where the entry of a node is in its parent.
    pub(crate) fn place(&self, number: NodeNumber) -> usize {
        (self.geometry.node(number).index % FAN_OUT) as usize
    }

    fn load(
        &mut self,
        io: &mut Io,
        number: NodeNumber,
        parent: Option<CacheIndex>,
        entry: Entry,
    ) -> Located {
        let Some(home) = entry.home() else {
            io.events.push(Event::BadEntry { node: number });
            return Located::Bad { was_forged: true };
        };
        if io.transfers.loads() >= LOADS || io.transfers.available() == 0 {
            return Located::OnItsWay;
        }
        let Some(place) = self.cache.insert(number, parent, Content::Loading) else {
            return Located::OnItsWay;
        };
        let block = self.geometry.home(number, home);
        let started = io
            .transfers
            .start(Job::Load(place), Phase::Queued, block, 1);
        if let Some(transfer) = started {
            transfer.entries[0] = entry;
        } else {
            self.cache.remove(place);
        }
        Located::OnItsWay
    }

    /// Checks a node the host returned.
    pub(crate) fn finish_load(
        &mut self,
        io: &mut Io,
        memory: &mut impl Memory,
        index: usize,
        place: CacheIndex,
    ) {
        let Some(transfer) = io.transfers.get(index) else {
            return;
        };
        let node = self.cache.number(place);
        let last = self.requests.latest();
        let content = if transfer.result().is_err() {
            io.events.push(Event::LoadFailed { node });
            Content::Bad {
                last,
                was_forged: false,
            }
        } else {
            let bytes = self.cache.bytes_mut(place);
            for slot in transfer.slots.list() {
                memory.read_slot(*slot, bytes);
            }
            let seal = transfer.entries[0].seal();
            if self.seals.check_node(&seal, bytes).is_ok() {
                Content::Clean
            } else {
                io.events.push(Event::NodeForged { node });
                Content::Bad {
                    last,
                    was_forged: true,
                }
            }
        };
        self.cache.set_content(place, content);
        io.transfers.end(index);
    }
}
