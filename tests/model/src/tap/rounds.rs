//! Which of a sealed disk's writes are data: what comes first after a flush, for its tree follows later and its superblocks lie below.

use super::block::{BlockKind, BlockRequest, SECTOR};
use super::chain::GuestBytes;
use super::exchange::Exchange;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of a block.
const BLOCK: usize = 4096;
const BLOCK_SECTORS: u64 = (BLOCK / SECTOR) as u64;
/// Where header and superblocks end.
const FIRST: u64 = 3 * BLOCK_SECTORS;
/// What a driver asks for with a flush.
const FLUSH: BlockKind = BlockKind::Other(4);
/// Blocks kept of each round.
const KEPT: usize = 2;

/// A block as it was written.
#[derive(Clone)]
pub struct Written {
    /// Where.
    pub sector: u64,
    /// What.
    pub content: Box<[u8; BLOCK]>,
}

/// The first data blocks a disk was given after each flush.
pub struct Rounds {
    rounds: Vec<Vec<Written>>,
    /// Something but data may come now.
    is_over: bool,
}

impl Rounds {
    /// Nothing written.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            rounds: Vec::new(),
            is_over: true,
        }
    }

    /// Looks at what the driver asks for.
    pub fn watch(&mut self, exchange: &mut Exchange<'_>) {
        for head in exchange.posted() {
            if let Some(request) = exchange.request(u32::from(head)) {
                self.note(&request, exchange.memory);
            }
        }
    }

    fn note(&mut self, request: &BlockRequest, memory: &dyn GuestBytes) {
        if request.kind == FLUSH {
            self.is_over = false;
        }
        if self.is_over || request.kind != BlockKind::Write || request.sector < FIRST {
            return;
        }
        if self.rounds.last().is_none_or(|round| round.len() >= KEPT) {
            self.rounds.push(Vec::new());
        }
        let content = request.content(memory);
        let (blocks, _) = content.as_chunks::<BLOCK>();
        let places = (request.sector..).step_by(BLOCK / SECTOR);
        if let Some(round) = self.rounds.last_mut() {
            for (sector, content) in places.zip(blocks).take(KEPT - round.len()) {
                let content = Box::new(*content);
                round.push(Written { sector, content });
            }
            self.is_over = round.len() >= KEPT;
        }
    }

    /// A block of a round that is complete.
    #[must_use]
    pub fn get(&self, round: usize, block: usize) -> Option<&Written> {
        self.rounds.get(round)?.get(block)
    }
}

impl Default for Rounds {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockRequest {
    /// Gives this content in place of what was read at `sector`; says whether the request is a read of that block.
    #[must_use]
    pub fn give(&self, memory: &dyn GuestBytes, sector: u64, block: &[u8; BLOCK]) -> bool {
        let Some(offset) = sector.checked_sub(self.sector) else {
            return false;
        };
        let at = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .saturating_mul(SECTOR);
        if self.kind != BlockKind::Read {
            return false;
        }
        let mut content = self.content(memory);
        let Some(part) = content.get_mut(at..).and_then(|rest| rest.get_mut(..BLOCK)) else {
            return false;
        };
        part.copy_from_slice(block);
        self.replace(memory, &content);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::Segment;
    use super::super::chain::fake::Shared;
    use super::*;

    fn request(kind: BlockKind, sector: u64, len: u32) -> BlockRequest {
        let data = Segment {
            gpa: 0,
            len,
            is_writable: true,
        };
        BlockRequest {
            kind,
            sector,
            data: vec![data],
            status: 0,
        }
    }

    fn write(rounds: &mut Rounds, memory: &Shared, sector: u64, byte: u8, len: u32) {
        memory.write(0, &[byte; 0x4000]);
        rounds.note(&request(BlockKind::Write, sector, len), memory);
    }

    #[test]
    fn the_first_two_blocks_after_a_flush_are_data() {
        let memory = Shared::new(0x4000);
        let mut rounds = Rounds::new();
        write(&mut rounds, &memory, 800, 1, 4096);
        rounds.note(&request(FLUSH, 0, 0), &memory);
        write(&mut rounds, &memory, 16, 2, 4096);
        write(&mut rounds, &memory, 800, 3, 4096);
        write(&mut rounds, &memory, 808, 4, 8192);
        write(&mut rounds, &memory, 824, 5, 4096);
        let found = |round, block| {
            let written: &Written = rounds.get(round, block)?;
            Some((written.sector, written.content[0]))
        };
        assert_eq!(found(0, 0), Some((800, 3)));
        assert_eq!(found(0, 1), Some((808, 4)));
        assert_eq!((found(0, 2), found(1, 0)), (None, None));
    }

    #[test]
    fn another_block_is_given_where_it_was_read() {
        let memory = Shared::new(0x4000);
        let read = request(BlockKind::Read, 100, 0x2000);
        assert!(read.give(&memory, 108, &[7; BLOCK]));
        assert_eq!((memory.word(0xFFE), memory.word(0x1000)), (0, 0x0707));
        for sector in [99, 109, 116] {
            assert!(!read.give(&memory, sector, &[8; BLOCK]));
        }
        assert!(!request(BlockKind::Write, 100, 0x2000).give(&memory, 100, &[8; BLOCK]));
    }
}
