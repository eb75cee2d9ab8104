//! Reads: blocks that are together on the host's file in one transfer, each verified on a private copy before the guest sees it.

use super::fault::Event;
use super::request::RequestError;
use super::transfer::{Job, Phase};
use super::tree::{Located, Missing};
use super::volume::{Io, Step, Volume};
use crate::host::{LONGEST_TRANSFER, Memory};

/// Blocks of zeros handed out in a step.
const ZEROS_AT_ONCE: u64 = 32;

impl Volume {
    /// Starts reading the next blocks of a request.
    pub(crate) fn start_read(
        &mut self,
        io: &mut Io,
        memory: &mut impl Memory,
        index: usize,
    ) -> Step {
        let Some(active) = self.requests.get(index) else {
            return Step::Waiting;
        };
        let (first, end, sequence) = (active.cursor, active.end, active.sequence);
        let leaf = self.geometry.leaf(first);
        let loads = io.transfers.loads();
        match self.locate(io, leaf, Missing::Tell, sequence) {
            Located::Absent(above) => {
                let absent = self.geometry.end_of(above).min(end);
                self.read_zeros(io, memory, index, absent)
            }
            Located::Bad { was_forged } => {
                self.fail_for(index, was_forged);
                Step::Done
            }
            Located::OnItsWay if io.transfers.loads() > loads => Step::Done,
            Located::OnItsWay => Step::Waiting,
            Located::Here(leaf) => {
                let end = end.min(self.geometry.end_of(self.cache.number(leaf)));
                let entry = |block| self.cache.entry(leaf, place_in_leaf(block));
                if entry(first).is_absent() {
                    let present = (first..end).find(|block| !entry(*block).is_absent());
                    return self.read_zeros(io, memory, index, present.unwrap_or(end));
                }
                let (start, mut count) = (entry(first).location.get(), 1);
                while first + count < end
                    && follows(start, count, entry(first + count).location.get())
                {
                    count += 1;
                }
                self.start_reading(io, index, leaf, count)
            }
        }
    }

    fn start_reading(
        &mut self,
        io: &mut Io,
        index: usize,
        leaf: super::cache::CacheIndex,
        contiguous: u64,
    ) -> Step {
        let Some(first) = self.requests.get(index).map(|active| active.cursor) else {
            return Step::Waiting;
        };
        let count = transfer_length(contiguous, io.transfers.available());
        let entry = self.cache.entry(leaf, place_in_leaf(first));
        let block = entry.data().and_then(|number| self.geometry.data(number));
        let Some(block) = block else {
            let node = self.cache.number(leaf);
            io.events.push(Event::BadEntry { node });
            self.requests.fail(index, RequestError::Forged);
            return Step::Done;
        };
        if count == 0 {
            return Step::Waiting;
        }
        let started = io.transfers.start(Job::Read, Phase::Queued, block, count);
        let Some(transfer) = started else {
            return Step::Waiting;
        };
        transfer.request = index;
        transfer.first = first;
        for (block, entry) in (first..).zip(transfer.entries.iter_mut().take(count)) {
            *entry = self.cache.entry(leaf, place_in_leaf(block));
        }
        self.requests.began(index, count as u64);
        Step::Done
    }

    /// Gives the guest zeros for blocks that were never written, up to `end`.
    fn read_zeros(
        &mut self,
        io: &mut Io,
        memory: &mut impl Memory,
        index: usize,
        end: u64,
    ) -> Step {
        io.scratch.fill(0);
        let Some(active) = self.requests.get_mut(index) else {
            return Step::Waiting;
        };
        let end = end.min(active.cursor + ZEROS_AT_ONCE);
        for block in active.cursor..end {
            let span = active.span(block);
            let zeros = &io.scratch[span.bytes];
            if memory
                .write_guest(active.token(), span.offset, zeros)
                .is_err()
            {
                self.requests.fail(index, RequestError::Memory);
                return Step::Done;
            }
        }
        active.cursor = end;
        Step::Done
    }

    /// Verifies and decrypts one block the host returned, and gives it to the guest.
    pub(crate) fn read_block(&mut self, io: &mut Io, memory: &mut impl Memory, index: usize) {
        let Some(transfer) = io.transfers.get_mut(index) else {
            return;
        };
        let (request, done) = (transfer.request, transfer.done);
        let block = transfer.first + done as u64;
        let mut outcome = Ok(());
        if transfer.result().is_err() {
            io.events.push(Event::TransferFailed { block });
            outcome = Err(RequestError::Host);
        } else if let Some(slot) = transfer.slots.list().get(done) {
            memory.read_slot(*slot, &mut io.scratch);
            let seal = transfer.entries[done].seal();
            if self.seals.open_data(block, &seal, &mut io.scratch).is_err() {
                io.events.push(Event::DataForged { block });
                outcome = Err(RequestError::Forged);
            } else if let Some(active) = self.requests.get(request) {
                let span = active.span(block);
                outcome = memory
                    .write_guest(active.token(), span.offset, &io.scratch[span.bytes])
                    .map_err(|_| RequestError::Memory);
            }
        }
        transfer.done += 1;
        let is_last = transfer.done >= transfer.count();
        if let Err(error) = outcome {
            self.requests.fail(request, error);
        }
        if is_last || outcome.is_err() {
            io.transfers.end(index);
            self.requests.ended(request);
        }
    }
}

/// Returns where the entry of a block is in its leaf.
pub(crate) fn place_in_leaf(block: u64) -> usize {
    // Below the fan-out, which is far below any limit.
    usize::try_from(block % u64::from(super::entry::FAN_OUT)).unwrap_or(0)
}

/// Returns how long a transfer to start: what is wanted, or nothing if waiting a little allows for more.
pub(crate) fn transfer_length(wanted: u64, available: usize) -> usize {
    let wanted =
        usize::try_from(wanted).map_or(LONGEST_TRANSFER, |wanted| wanted.min(LONGEST_TRANSFER));
    wanted.min(available)
}

fn follows(start: u32, count: u64, location: u32) -> bool {
    u64::from(start) + count == u64::from(location) && count < LONGEST_TRANSFER as u64
}
