//! Discarding and zeroing: entries are removed, nothing is written but the parts of blocks at both ends.

use super::entry::{Entry, FAN_OUT};
use super::reading::place_in_leaf;
use super::request::Kind;
use super::tree::{Located, Missing};
use super::volume::{Io, Step, Volume};
use crate::host::LONGEST_TRANSFER;

impl Volume {
    /// Clears the next blocks of a request.
    pub(crate) fn start_clearing(&mut self, io: &mut Io, index: usize) -> Step {
        let Some(active) = self.requests.get(index).copied() else {
            return Step::Waiting;
        };
        let leaf = self.geometry.leaf(active.cursor);
        let loads = io.transfers.loads();
        match self.locate(io, leaf, Missing::Tell, active.sequence) {
            Located::Absent(above) => {
                let end = self.geometry.end_of(above).min(active.end);
                self.requests_skip_to(index, end)
            }
            Located::Bad { was_forged } => {
                self.fail_for(index, was_forged);
                Step::Done
            }
            Located::OnItsWay if io.transfers.loads() > loads => Step::Done,
            Located::OnItsWay => Step::Waiting,
            Located::Here(leaf) => {
                let old = self.cache.entry(leaf, place_in_leaf(active.cursor));
                let is_part = !active.span(active.cursor).is_whole();
                if is_part && active.kind() == Kind::WriteZeroes && !old.is_absent() {
                    return self.start_merge(io, index, leaf, old);
                }
                self.clear_in_leaf(index, leaf)
            }
        }
    }

    fn clear_in_leaf(&mut self, index: usize, leaf: super::cache::CacheIndex) -> Step {
        let Some(active) = self.requests.get(index).copied() else {
            return Step::Waiting;
        };
        let end = active
            .end
            .min(self.geometry.end_of(self.cache.number(leaf)));
        let bitmaps = self.geometry.bitmaps() as usize;
        let most = LONGEST_TRANSFER.min(self.space.room());
        if most == 0 || !self.has_room_for(1 + most.min(bitmaps)) {
            self.commit.is_wanted = true;
            return Step::Done;
        }
        let mut cleared = 0;
        let mut block = active.cursor;
        while block < end && cleared < most {
            let place = place_in_leaf(block);
            let old = self.cache.entry(leaf, place).data();
            // The part at the end has to be merged.
            if old.is_some() && !active.span(block).is_whole() {
                break;
            }
            if let Some(old) = old {
                self.space.touch(old);
                self.space.reserve(1);
                self.space.give_up(old);
                Entry::default().write(self.cache.bytes_mut(leaf), place);
                cleared += 1;
            }
            block += 1;
        }
        if cleared > 0 {
            self.mark_dirty(leaf);
        }
        self.requests_skip_to(index, block)
    }

    fn requests_skip_to(&mut self, index: usize, block: u64) -> Step {
        if let Some(active) = self.requests.get_mut(index) {
            active.cursor = block;
        }
        Step::Done
    }
}

const _: () = assert!(LONGEST_TRANSFER <= FAN_OUT as usize);
