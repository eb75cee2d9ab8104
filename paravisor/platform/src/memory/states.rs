//! Which guest pages are private: our own record, the only defence against double validation (APM vol. 2, 15.36.6).
//!
//! A host that takes an accepted page away and offers another in its place needs us to accept the same address twice. The
//! record makes that impossible. It has one entry for each 2 MiB, and a bit a page only where a chunk is part accepted.

use alloc::collections::BTreeMap;

const PAGE: u64 = 0x1000;
const PAGES_IN_CHUNK: u64 = 512;
const WORDS: usize = 8;

/// Part of the range was accepted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page at {0:#x} was accepted before")]
pub struct AlreadyPrivate(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// All 512 pages are private.
    Whole,
    /// The pages with a bit are.
    Part([u64; WORDS]),
}

/// The record of private pages. Pages it does not know are not.
#[derive(Clone, Debug, Default)]
pub struct PageStates {
    chunks: BTreeMap<u64, Chunk>,
}

impl PageStates {
    /// Records the pages of a range as private; nothing is recorded if one of them already is.
    ///
    /// The range is rounded outwards to pages.
    pub fn accept(&mut self, gpa: u64, len: u64) -> Result<(), AlreadyPrivate> {
        let pages = pages(gpa, len);
        if let Some(page) = pages.clone().find(|page| self.is_page_private(*page)) {
            return Err(AlreadyPrivate(page * PAGE));
        }
        for (chunk, part) in by_chunk(pages) {
            let entry = self.chunks.entry(chunk).or_insert(Chunk::Part([0; WORDS]));
            *entry = entry.with(part, true);
        }
        Ok(())
    }

    /// Records the pages of a range as no longer private.
    pub fn withdraw(&mut self, gpa: u64, len: u64) {
        for (chunk, part) in by_chunk(pages(gpa, len)) {
            if let Some(entry) = self.chunks.get_mut(&chunk) {
                *entry = entry.with(part, false);
            }
        }
    }

    /// Returns whether every page of a range is private. An empty range is.
    #[must_use]
    pub fn is_private(&self, gpa: u64, len: u64) -> bool {
        by_chunk(pages(gpa, len)).all(|(chunk, mut part)| match self.chunks.get(&chunk) {
            Some(Chunk::Whole) => true,
            Some(Chunk::Part(bits)) => part.all(|page| is_set(bits, page)),
            None => false,
        })
    }

    fn is_page_private(&self, page: u64) -> bool {
        match self.chunks.get(&(page / PAGES_IN_CHUNK)) {
            Some(Chunk::Whole) => true,
            Some(Chunk::Part(bits)) => is_set(bits, page % PAGES_IN_CHUNK),
            None => false,
        }
    }
}

impl Chunk {
    fn with(self, pages: core::ops::Range<u64>, private: bool) -> Self {
        let mut bits = match self {
            Self::Whole => [u64::MAX; WORDS],
            Self::Part(bits) => bits,
        };
        for page in pages {
            let (word, mask) = bit(page);
            if private {
                bits[word] |= mask;
            } else {
                bits[word] &= !mask;
            }
        }
        if bits == [u64::MAX; WORDS] {
            Self::Whole
        } else {
            Self::Part(bits)
        }
    }
}

fn bit(page: u64) -> (usize, u64) {
    let [word, ..] = (page / 64).to_le_bytes();
    (usize::from(word) % WORDS, 1 << (page % 64))
}

fn is_set(bits: &[u64; WORDS], page: u64) -> bool {
    let (word, mask) = bit(page);
    bits[word] & mask != 0
}

/// Returns the numbers of the pages a range touches; a range over the end of the address space stops there.
fn pages(gpa: u64, len: u64) -> core::ops::Range<u64> {
    let end = gpa.saturating_add(len).div_ceil(PAGE);
    if len == 0 { 0..0 } else { gpa / PAGE..end }
}

/// Returns each chunk a range of pages touches, with its pages counted within the chunk.
fn by_chunk(pages: core::ops::Range<u64>) -> impl Iterator<Item = (u64, core::ops::Range<u64>)> {
    let chunks = pages.start / PAGES_IN_CHUNK..pages.end.div_ceil(PAGES_IN_CHUNK);
    chunks.map(move |chunk| {
        let first = chunk * PAGES_IN_CHUNK;
        let start = pages.start.max(first) - first;
        let end = pages.end.min(first + PAGES_IN_CHUNK) - first;
        (chunk, start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 0x20_0000;

    #[test]
    fn a_page_is_accepted_once() {
        let mut states = PageStates::default();
        states.accept(0x5000, 0x1000).unwrap();
        assert_eq!(states.accept(0x5FFF, 1), Err(AlreadyPrivate(0x5000)));
        assert_eq!(states.accept(0, LARGE), Err(AlreadyPrivate(0x5000)));
        assert!(!states.is_private(0x4000, 1), "a refusal changes nothing");
    }

    #[test]
    fn ranges_across_chunks_are_recorded_to_the_page() {
        let mut states = PageStates::default();
        states.accept(LARGE - 0x1000, LARGE + 0x2000).unwrap();
        assert!(states.is_private(LARGE - 0x1000, LARGE + 0x2000));
        assert!(!states.is_private(LARGE - 0x1001, 2));
        assert!(!states.is_private(2 * LARGE + 0xFFF, 2));
        assert!(states.is_private(LARGE, LARGE));
    }

    #[test]
    fn a_withdrawn_page_can_be_accepted_again() {
        let mut states = PageStates::default();
        states.accept(0, LARGE).unwrap();
        states.withdraw(0x3000, 0x1000);
        assert!(!states.is_private(0, LARGE));
        assert!(states.is_private(0, 0x3000));
        states.accept(0x3000, 0x1000).unwrap();
        assert_eq!(states.chunks[&0], Chunk::Whole);
    }

    #[test]
    fn the_end_of_the_address_space_does_not_wrap() {
        let states = PageStates::default();
        assert!(!states.is_private(u64::MAX, 2));
        assert!(states.is_private(0, 0));
    }
}
