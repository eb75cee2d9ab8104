//! Which blocks of the data area are free: bitmaps are nodes of the tree, here are the rules about them.
//!
//! A block given up stays in use until the next commit is durable, because until then a power cut brings it back.

use alloc::vec::Vec;
use core::ops::Range;

use super::geometry::{BITMAP_BLOCKS, Geometry, MOST_DATA_BLOCKS};
use crate::host::BLOCK_BYTES;

/// Bits of the word a bitmap is searched by.
const WORD_BITS: u32 = 64;

/// Blocks given up since the last commit, and where to look for free ones.
#[derive(Debug)]
pub(crate) struct Space {
    cursor: u32,
    given_up: Vec<u32>,
    capacity: usize,
    /// Places of `given_up` promised to writes in progress.
    reserved: usize,
    /// The bitmaps `given_up` will change, a bit each.
    touched: Vec<u64>,
    touched_count: usize,
}

impl Space {
    /// Makes room for so many blocks given up between two commits, on a disk with so many blocks.
    pub(crate) fn new(capacity: usize, host_blocks: u64) -> Self {
        // Whatever a host claims to have, no disk is larger than this.
        let blocks = host_blocks.min(MOST_DATA_BLOCKS);
        let bitmaps = usize::try_from(blocks / BITMAP_BLOCKS + 1).unwrap_or(usize::MAX);
        Self {
            cursor: 0,
            given_up: Vec::with_capacity(capacity),
            capacity,
            reserved: 0,
            touched: alloc::vec![0; bitmaps.div_ceil(64)],
            touched_count: 0,
        }
    }

    /// Returns where the search for free blocks goes on, a block of this disk.
    pub(crate) fn cursor(&self, geometry: &Geometry) -> u32 {
        if u64::from(self.cursor) < geometry.data_blocks() {
            self.cursor
        } else {
            0
        }
    }

    /// Moves the search on.
    pub(crate) fn set_cursor(&mut self, cursor: u32) {
        self.cursor = cursor;
    }

    /// Returns how many more blocks can be given up before a commit is needed.
    pub(crate) fn room(&self) -> usize {
        self.capacity
            .saturating_sub(self.given_up.len() + self.reserved)
    }

    /// Promises room for so many blocks, no more than there is.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.reserved += count;
    }

    /// Gives a block up for which room was promised.
    pub(crate) fn give_up(&mut self, block: u32) {
        self.unreserve(1);
        if self.given_up.len() < self.capacity {
            self.given_up.push(block);
        }
    }

    /// Takes promises back.
    pub(crate) fn unreserve(&mut self, count: usize) {
        self.reserved = self.reserved.saturating_sub(count);
    }

    /// Notes that the bitmap of a block will change when it is given up.
    pub(crate) fn touch(&mut self, block: u32) {
        let bitmap = bitmap_of(block) as usize;
        if let Some(word) = self.touched.get_mut(bitmap / 64) {
            let bit = 1 << (bitmap % 64);
            self.touched_count += usize::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Returns how many bitmaps the next commit changes for blocks given up.
    pub(crate) fn touched(&self) -> usize {
        self.touched_count
    }

    /// Returns whether any block was given up since the last commit.
    pub(crate) fn has_given_up(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Returns whether a write in progress may give blocks up yet.
    pub(crate) fn has_promised(&self) -> bool {
        self.reserved > 0
    }

    /// Sorts the blocks given up, so that those of a bitmap are together.
    pub(crate) fn sort(&mut self) {
        self.given_up.sort_unstable();
    }

    /// Returns the blocks given up.
    pub(crate) fn given_up(&self) -> &[u32] {
        &self.given_up
    }

    /// Forgets the blocks given up: they are free.
    pub(crate) fn settle(&mut self) {
        self.given_up.clear();
        self.touched.fill(0);
        self.touched_count = 0;
    }
}

/// Returns the bitmap of a data block.
pub(crate) fn bitmap_of(block: u32) -> u32 {
    block / BITMAP_BITS
}

/// Returns the bit of a data block in its bitmap.
pub(crate) fn bit_of(block: u32) -> u32 {
    block % BITMAP_BITS
}

const BITMAP_BITS: u32 = 1 << 15;
const _: () = assert!(BITMAP_BITS as u64 == BITMAP_BLOCKS);

/// Returns the end of a bitmap: fewer bits in the last one.
pub(crate) fn bits_of(bitmap: u32, geometry: &Geometry) -> u32 {
    let first = u64::from(bitmap) * BITMAP_BLOCKS;
    let bits = geometry.data_blocks().saturating_sub(first);
    u32::try_from(bits.min(BITMAP_BLOCKS)).unwrap_or(BITMAP_BITS)
}

/// Finds the first free blocks among these bits, at most `most`.
pub(crate) fn find_free(
    bitmap: &[u8; BLOCK_BYTES],
    bits: Range<u32>,
    most: u32,
) -> Option<Range<u32>> {
    let mut start = bits.start;
    while start < bits.end && is_used(bitmap, start) {
        start = if start.is_multiple_of(WORD_BITS) && word(bitmap, start) == u64::MAX {
            start + WORD_BITS
        } else {
            start + 1
        };
    }
    if start >= bits.end {
        return None;
    }
    let last = bits.end.min(start.saturating_add(most));
    let end = (start..last).find(|bit| is_used(bitmap, *bit));
    Some(start..end.unwrap_or(last))
}

/// Returns whether the block of a bit is in use.
pub(crate) fn is_used(bitmap: &[u8; BLOCK_BYTES], bit: u32) -> bool {
    let byte = bitmap.get((bit / 8) as usize).copied().unwrap_or(0xFF);
    byte & (1 << (bit % 8)) != 0
}

/// Marks blocks as in use.
pub(crate) fn mark_used(bitmap: &mut [u8; BLOCK_BYTES], bits: Range<u32>) {
    for bit in bits {
        if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
            *byte |= 1 << (bit % 8);
        }
    }
}

/// Marks a block as free.
pub(crate) fn mark_free(bitmap: &mut [u8; BLOCK_BYTES], bit: u32) {
    if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
        *byte &= !(1 << (bit % 8));
    }
}

fn word(bitmap: &[u8; BLOCK_BYTES], bit: u32) -> u64 {
    let bytes = bitmap.get((bit / 8) as usize..).unwrap_or(&[]);
    bytes
        .first_chunk()
        .map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::{Space, bits_of, find_free, mark_free, mark_used};
    use crate::disk::geometry::Geometry;
    use crate::host::BLOCK_BYTES;

    #[test]
    fn the_first_free_blocks_are_found_and_no_more_than_asked_for() {
        let mut bitmap = [0; BLOCK_BYTES];
        mark_used(&mut bitmap, 0..1000);
        mark_used(&mut bitmap, 1010..1011);
        assert_eq!(find_free(&bitmap, 0..32768, 32), Some(1000..1010));
        assert_eq!(find_free(&bitmap, 3..32768, 4), Some(1000..1004));
        assert_eq!(find_free(&bitmap, 1010..32768, 32), Some(1011..1043));
        assert_eq!(find_free(&bitmap, 0..1000, 32), None);
        mark_free(&mut bitmap, 77);
        assert_eq!(find_free(&bitmap, 0..1000, 32), Some(77..78));
    }

    #[test]
    fn a_full_bitmap_has_none() {
        let bitmap = [0xFF; BLOCK_BYTES];
        assert_eq!(find_free(&bitmap, 5..32768, 32), None);
    }

    #[test]
    fn the_last_bitmap_ends_with_the_data_area() {
        // 100_000 blocks and 6250 spare ones.
        let geometry = Geometry::try_new(100_000).unwrap();
        assert_eq!(bits_of(0, &geometry), 32768);
        assert_eq!(bits_of(3, &geometry), 106_250 - 3 * 32768);
    }

    #[test]
    fn room_counts_promises_and_touched_bitmaps_count_once() {
        let mut space = Space::new(3, 100_000);
        space.reserve(2);
        assert_eq!(space.room(), 1);
        space.touch(5);
        space.touch(6);
        space.touch(40_000);
        assert_eq!(space.touched(), 2);
        space.give_up(5);
        space.unreserve(1);
        assert_eq!(space.room(), 2);
        space.settle();
        assert_eq!((space.room(), space.touched()), (3, 0));
    }
}
