//! Writes: each block is encrypted once, into a free block, and entered in its leaf when the host has it.

use core::ops::Range;

use super::cache::CacheIndex;
use super::entry::Entry;
use super::fault::Event;
use super::reading::{place_in_leaf, transfer_length};
use super::request::{Kind, RequestError};
use super::space::{bit_of, bitmap_of, bits_of, find_free, mark_used};
use super::transfer::{Job, Phase};
use super::tree::{Located, Missing};
use super::volume::{Io, Step, Volume};
use crate::host::{BLOCK_BYTES, HostBlock, Memory};

/// Blocks to write to.
enum Allocated {
    /// These numbers of the data area.
    Blocks(Range<u32>),
    /// Not before something else happens.
    Later,
    /// Not before this step is tried again.
    Again,
    /// There are none.
    Never(RequestError),
}

impl Volume {
    /// Starts writing the next blocks of a request.
    pub(crate) fn start_write(&mut self, io: &mut Io, index: usize) -> Step {
        let Some(active) = self.requests.get(index).copied() else {
            return Step::Waiting;
        };
        let first = active.cursor;
        let leaf = match self.leaf_to_change(io, index) {
            Ok(leaf) => leaf,
            Err(step) => return step,
        };
        let whole = |block: &u64| active.span(*block).is_whole();
        let end = active
            .end
            .min(self.geometry.end_of(self.cache.number(leaf)));
        let wanted = (first..end).take_while(whole).count() as u64;
        let old = self.cache.entry(leaf, place_in_leaf(first));
        if wanted == 0 && !old.is_absent() {
            return self.start_merge(io, index, leaf, old);
        }
        let count = transfer_length(wanted.max(1), io.transfers.available());
        let numbers = match self.prepare(io, active.sequence, count) {
            Allocated::Blocks(numbers) => numbers,
            other => return self.put_off(index, other),
        };
        let Some(block) = self.geometry.data(numbers.start) else {
            return Step::Waiting;
        };
        self.begin_write(io, index, leaf, block, numbers)
    }

    /// Starts changing a part of a block: it is read first.
    pub(crate) fn start_merge(
        &mut self,
        io: &mut Io,
        index: usize,
        leaf: CacheIndex,
        old: Entry,
    ) -> Step {
        let Some(active) = self.requests.get(index).copied() else {
            return Step::Waiting;
        };
        let Some(block) = old.data().and_then(|number| self.geometry.data(number)) else {
            let node = self.cache.number(leaf);
            io.events.push(Event::BadEntry { node });
            self.requests.fail(index, RequestError::Forged);
            return Step::Done;
        };
        let count = io.transfers.available().min(1);
        let numbers = match self.prepare(io, active.sequence, count) {
            Allocated::Blocks(numbers) => numbers,
            other => return self.put_off(index, other),
        };
        let Some(transfer) = io.transfers.start(Job::Merge, Phase::Queued, block, 1) else {
            return Step::Waiting;
        };
        transfer.request = index;
        transfer.first = active.cursor;
        transfer.entries[0] = old;
        transfer.entries[1] = Entry::of_data(numbers.start);
        self.take(leaf, active.cursor, numbers);
        self.requests.began(index, 1);
        Step::Done
    }

    fn begin_write(
        &mut self,
        io: &mut Io,
        index: usize,
        leaf: CacheIndex,
        block: HostBlock,
        numbers: Range<u32>,
    ) -> Step {
        let count = numbers.len();
        let Some(first) = self.requests.get(index).map(|active| active.cursor) else {
            return Step::Waiting;
        };
        let started = io.transfers.start(Job::Write, Phase::Filling, block, count);
        let Some(transfer) = started else {
            return Step::Waiting;
        };
        transfer.request = index;
        transfer.first = first;
        for (number, entry) in numbers.clone().zip(transfer.entries.iter_mut()) {
            *entry = Entry::of_data(number);
        }
        self.take(leaf, first, numbers);
        self.requests.began(index, count as u64);
        Step::Done
    }

    /// Finds the leaf of the next block of a request, or says what to do meanwhile.
    pub(crate) fn leaf_to_change(&mut self, io: &mut Io, index: usize) -> Result<CacheIndex, Step> {
        let Some(active) = self.requests.get(index) else {
            return Err(Step::Waiting);
        };
        let (leaf, sequence) = (self.geometry.leaf(active.cursor), active.sequence);
        let loads = io.transfers.loads();
        match self.locate(io, leaf, Missing::Create, sequence) {
            Located::Here(leaf) => Ok(leaf),
            Located::Bad { was_forged } => {
                self.fail_for(index, was_forged);
                Err(Step::Done)
            }
            _ if io.transfers.loads() > loads => Err(Step::Done),
            _ => Err(Step::Waiting),
        }
    }

    /// Finds free blocks, and makes sure that the next commit can hold what the write changes.
    fn prepare(&mut self, io: &mut Io, sequence: u64, count: usize) -> Allocated {
        if count == 0 {
            return Allocated::Later;
        }
        let bitmaps = self.geometry.bitmaps() as usize;
        let room = self.space.room();
        // The leaf, the bitmap of the new blocks, and those of the old.
        if room == 0 || !self.has_room_for(2 + count.min(bitmaps)) {
            self.commit.is_wanted = true;
            return Allocated::Again;
        }
        self.allocate(io, sequence, count.min(room))
    }

    fn put_off(&mut self, index: usize, allocated: Allocated) -> Step {
        match allocated {
            Allocated::Never(error) => {
                self.requests.fail(index, error);
                Step::Done
            }
            Allocated::Later => Step::Waiting,
            Allocated::Again | Allocated::Blocks(_) => Step::Done,
        }
    }

    /// Looks for free blocks in the bitmap of the cursor, and moves it to the next bitmap if there are none.
    fn allocate(&mut self, io: &mut Io, sequence: u64, most: usize) -> Allocated {
        let cursor = self.space.cursor(&self.geometry);
        let (bitmap, bit) = (bitmap_of(cursor), bit_of(cursor));
        let node = self.geometry.bitmap(bitmap);
        let loads = io.transfers.loads();
        let place = match self.locate(io, node, Missing::Create, sequence) {
            Located::Here(place) => place,
            Located::Bad { was_forged: true } => return Allocated::Never(RequestError::Forged),
            Located::Bad { .. } => return Allocated::Never(RequestError::Host),
            _ if io.transfers.loads() > loads => return Allocated::Again,
            _ => return Allocated::Later,
        };
        let bits = bits_of(bitmap, &self.geometry);
        let most = u32::try_from(most).unwrap_or(1);
        let base = cursor - bit;
        match find_free(self.cache.bytes(place), bit..bits, most) {
            Some(free) => {
                self.commit.bitmaps_searched = 0;
                Allocated::Blocks(base + free.start..base + free.end)
            }
            None => self.search_on(base + bits),
        }
    }

    fn search_on(&mut self, cursor: u32) -> Allocated {
        self.space.set_cursor(cursor);
        self.commit.bitmaps_searched += 1;
        // The first one is searched from its middle, so it has its turn again.
        if self.commit.bitmaps_searched <= self.geometry.bitmaps() {
            return Allocated::Again;
        }
        self.commit.bitmaps_searched = 0;
        if self.space.has_given_up() || self.space.has_promised() {
            self.commit.is_wanted = true;
            return Allocated::Again;
        }
        Allocated::Never(RequestError::Full)
    }

    /// Marks blocks as used, and the leaf and the bitmaps of what they replace as changed.
    fn take(&mut self, leaf: CacheIndex, first: u64, numbers: Range<u32>) {
        let bitmap = self.geometry.bitmap(bitmap_of(numbers.start));
        if let Some((place, _)) = self.cache.find(bitmap) {
            let bits = bit_of(numbers.start)..bit_of(numbers.start) + numbers.end - numbers.start;
            mark_used(self.cache.bytes_mut(place), bits);
            self.mark_dirty(place);
        }
        self.space.set_cursor(numbers.end);
        self.space.reserve(numbers.len());
        for block in (first..).take(numbers.len()) {
            if let Some(old) = self.cache.entry(leaf, place_in_leaf(block)).data() {
                self.space.touch(old);
            }
        }
        self.mark_dirty(leaf);
    }

    /// Encrypts one block of a request into its slot.
    pub(crate) fn fill(&mut self, io: &mut Io, memory: &mut impl Memory, index: usize) {
        let Some(transfer) = io.transfers.get_mut(index) else {
            return;
        };
        let (done, request) = (transfer.done, transfer.request);
        let block = transfer.first + done as u64;
        let Some(active) = self.requests.get(request) else {
            return;
        };
        let span = active.span(block);
        if !span.is_whole() {
            io.scratch.fill(0);
        }
        let part = &mut io.scratch[span.bytes];
        let copied = match active.kind() {
            Kind::Write => memory.read_guest(active.token(), span.offset, part),
            _ => {
                part.fill(0);
                Ok(())
            }
        };
        if copied.is_err() {
            self.abandon_write(io, index, RequestError::Memory);
            return;
        }
        let seal = self.seals.seal_data(block, &mut io.scratch);
        transfer.entries[done] = transfer.entries[done].sealed(seal);
        if let Some(slot) = transfer.slots.list().get(done) {
            memory.write_slot(*slot, &io.scratch);
        }
        transfer.done += 1;
        if transfer.done == transfer.count() {
            transfer.phase = Phase::Queued;
        }
    }

    /// Verifies and decrypts the old block, changes a part of it, and has the whole written to its new place.
    pub(crate) fn merge_block(&mut self, io: &mut Io, memory: &mut impl Memory, index: usize) {
        let Some(transfer) = io.transfers.get_mut(index) else {
            return;
        };
        let (request, block, [old, new]) = (
            transfer.request,
            transfer.first,
            [transfer.entries[0], transfer.entries[1]],
        );
        // From here on the transfer is one of the new block, also when it fails.
        transfer.job = Job::Write;
        transfer.entries[0] = new;
        if transfer.result().is_err() {
            io.events.push(Event::TransferFailed { block });
            return self.abandon_write(io, index, RequestError::Host);
        }
        let slot = transfer.slots.list().first().copied().unwrap_or_default();
        memory.read_slot(slot, &mut io.scratch);
        if self
            .seals
            .open_data(block, &old.seal(), &mut io.scratch)
            .is_err()
        {
            io.events.push(Event::DataForged { block });
            return self.abandon_write(io, index, RequestError::Forged);
        }
        if self
            .change_part(request, block, &mut io.scratch, memory)
            .is_err()
        {
            return self.abandon_write(io, index, RequestError::Memory);
        }
        let seal = self.seals.seal_data(block, &mut io.scratch);
        transfer.entries[0] = new.sealed(seal);
        memory.write_slot(slot, &io.scratch);
        if let Some(block) = new.data().and_then(|number| self.geometry.data(number)) {
            transfer.block = block;
        }
        transfer.phase = Phase::Queued;
    }

    fn change_part(
        &self,
        request: usize,
        block: u64,
        bytes: &mut [u8; BLOCK_BYTES],
        memory: &mut impl Memory,
    ) -> Result<(), crate::host::MemoryError> {
        let Some(active) = self.requests.get(request) else {
            return Ok(());
        };
        let span = active.span(block);
        let part = &mut bytes[span.bytes];
        if active.kind() == Kind::Write {
            return memory.read_guest(active.token(), span.offset, part);
        }
        part.fill(0);
        Ok(())
    }

    /// Enters what was written in its leaf, and gives the old blocks up.
    pub(crate) fn finish_write(&mut self, io: &mut Io, index: usize) {
        let Some(transfer) = io.transfers.get(index) else {
            return;
        };
        let first = transfer.first;
        if transfer.result().is_err() {
            io.events.push(Event::TransferFailed { block: first });
            return self.abandon_write(io, index, RequestError::Host);
        }
        let request = transfer.request;
        // A changed node stays in the cache until the commit that waits for this write.
        if let Some((leaf, _)) = self.cache.find(self.geometry.leaf(first)) {
            let entries = transfer.entries.iter().take(transfer.count());
            for (block, entry) in (first..).zip(entries) {
                let place = place_in_leaf(block);
                match self.cache.entry(leaf, place).data() {
                    Some(old) => self.space.give_up(old),
                    None => self.space.unreserve(1),
                }
                entry.write(self.cache.bytes_mut(leaf), place);
            }
        }
        io.transfers.end(index);
        self.requests.ended(request);
    }

    /// Ends a write that failed: its new blocks are given up, the old ones stay.
    fn abandon_write(&mut self, io: &mut Io, index: usize, error: RequestError) {
        let Some(transfer) = io.transfers.get(index) else {
            return;
        };
        for entry in transfer.entries.iter().take(transfer.count()) {
            match entry.data() {
                Some(number) => {
                    self.space.touch(number);
                    self.space.give_up(number);
                }
                None => self.space.unreserve(1),
            }
        }
        let request = transfer.request;
        self.requests.fail(request, error);
        io.transfers.end(index);
        self.requests.ended(request);
    }
}
