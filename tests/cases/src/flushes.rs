//! Rounds of writes to a disk, each followed by a flush, that anybody can tell apart afterwards.
//!
//! The program `flushes` makes them inside a guest and says which are flushed; a test that knows what was said last knows what must
//! be on the disk.

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of a disk that are written.
pub const BLOCKS: u32 = 256;
/// Runs of blocks written in a round.
const RUNS: u32 = 4;
const MAGIC: u32 = 0x4653_4C46;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Returns what is written to a disk in a round; rounds begin with 1.
pub fn runs(disk: u32, round: u32) -> impl Iterator<Item = Run> {
    (0..RUNS).map(move |index| {
        let seed = u64::from(disk) << 40 | u64::from(round) << 8 | u64::from(index);
        let dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let dice = (dice ^ dice >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 24;
        let low = |bits: u64| u32::try_from(bits & 0xFFFF).unwrap_or(0);
        let count = 1 + low(dice) % 8;
        let first = low(dice >> 16) % (BLOCKS - count + 1);
        Run { first, count }
    })
}

/// Returns whether a block is written in a round.
#[must_use]
pub fn is_written(disk: u32, round: u32, block: u32) -> bool {
    runs(disk, round).any(|run| (run.first..run.first + run.count).contains(&block))
}

/// Fills a block with its number and its round, again and again.
pub fn fill(bytes: &mut [u8], disk: u32, round: u32, block: u32) {
    let words = [MAGIC, disk, round, block].map(u32::to_le_bytes);
    for (byte, pattern) in bytes.iter_mut().zip(words.as_flattened().iter().cycle()) {
        *byte = *pattern;
    }
}

/// Returns the round a block was written in, 0 if never; `None` if it is neither.
#[must_use]
pub fn round_of(bytes: &[u8; BLOCK_BYTES], disk: u32, block: u32) -> Option<u32> {
    if *bytes == [0; BLOCK_BYTES] {
        return Some(0);
    }
    let round = u32::from_le_bytes(bytes[8..12].try_into().ok()?);
    let mut expected = [0; BLOCK_BYTES];
    fill(&mut expected, disk, round, block);
    (expected == *bytes).then_some(round)
}

/// Returns the rounds a block may be of when all up to `flushed` are durable: the last of these that wrote it, or a later one.
#[must_use]
pub fn may_be(disk: u32, block: u32, flushed: u32, found: u32) -> bool {
    if found > flushed {
        return is_written(disk, found, block);
    }
    let last = (1..=flushed)
        .rev()
        .find(|round| is_written(disk, *round, block));
    last.unwrap_or(0) == found
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, BLOCKS, fill, is_written, may_be, round_of, runs};

    #[test]
    fn a_block_tells_its_round_and_nothing_else_does() {
        let mut bytes = [0; BLOCK_BYTES];
        assert_eq!(round_of(&bytes, 1, 7), Some(0));
        fill(&mut bytes, 1, 9, 7);
        assert_eq!(round_of(&bytes, 1, 7), Some(9));
        assert_eq!(round_of(&bytes, 2, 7), None);
        bytes[4000] ^= 1;
        assert_eq!(round_of(&bytes, 1, 7), None);
    }

    #[test]
    fn an_older_round_than_was_flushed_is_wrong_and_a_later_one_is_not() {
        let rounds: Vec<u32> = (1..100).filter(|round| is_written(3, *round, 50)).collect();
        let (first, second) = (rounds[0], rounds[1]);
        assert!(may_be(3, 50, first - 1, 0) && may_be(3, 50, first - 1, first));
        assert!(may_be(3, 50, first, first) && !may_be(3, 50, first, 0));
        assert!(may_be(3, 50, first, second) && !may_be(3, 50, second, first));
        assert!(!may_be(3, 50, 0, first + 1) || second == first + 1);
    }

    #[test]
    fn rounds_reach_every_block_and_none_beyond() {
        let blocks = (1..400).flat_map(|round| runs(0, round));
        let blocks = blocks.flat_map(|run| run.first..run.first + run.count);
        let found: std::collections::BTreeSet<u32> = blocks.collect();
        assert_eq!(found.len(), BLOCKS as usize);
        assert_eq!(found.last(), Some(&(BLOCKS - 1)));
    }
}
