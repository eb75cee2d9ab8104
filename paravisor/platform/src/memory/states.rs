//! Which guest pages are private: our own record, the only defence against double validation (APM vol. 2, 15.36.6).
//!
//! A host that takes an accepted page away and offers another in its place needs us to accept the same address twice. The
//! record makes that impossible. It is a list of ranges, so a guest of any size that is wholly accepted costs two entries.

use alloc::vec::Vec;
use core::ops::Range;

const PAGE: u64 = 0x1000;

/// Part of the range was accepted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page at {0:#x} was accepted before")]
pub struct AlreadyPrivate(pub u64);

/// The record of private pages. Pages it does not know are not.
#[derive(Clone, Debug, Default)]
pub struct PageStates {
    /// Page numbers; ascending, with a gap between each two, none empty.
    private: Vec<Range<u64>>,
}

impl PageStates {
    /// Records the pages of a range as private; nothing is recorded if one of them already is.
    ///
    /// The range is rounded outwards to pages.
    pub fn accept(&mut self, gpa: u64, len: u64) -> Result<(), AlreadyPrivate> {
        let mut pages = pages(gpa, len);
        if pages.is_empty() {
            return Ok(());
        }
        let after = self.first_ending_after(pages.start);
        if let Some(range) = self.private.get(after)
            && range.start < pages.end
        {
            return Err(AlreadyPrivate(range.start.max(pages.start) * PAGE));
        }
        // Neighbours that touch become one range.
        let mut replaced = after..after;
        if let Some(before) = after.checked_sub(1).map(|before| &self.private[before])
            && before.end == pages.start
        {
            pages.start = before.start;
            replaced.start -= 1;
        }
        if let Some(range) = self.private.get(after)
            && range.start == pages.end
        {
            pages.end = range.end;
            replaced.end += 1;
        }
        self.private.splice(replaced, [pages]);
        Ok(())
    }

    /// Records the pages of a range as no longer private.
    pub fn withdraw(&mut self, gpa: u64, len: u64) {
        let gone = pages(gpa, len);
        if gone.is_empty() {
            return;
        }
        let kept = |range: &Range<u64>| {
            [
                range.start..range.end.min(gone.start),
                range.start.max(gone.end)..range.end,
            ]
        };
        self.private = self
            .private
            .iter()
            .flat_map(kept)
            .filter(|range| !range.is_empty())
            .collect();
    }

    /// Returns whether every page of a range is private. An empty range is.
    #[must_use]
    pub fn is_private(&self, gpa: u64, len: u64) -> bool {
        let pages = pages(gpa, len);
        let range = self.private.get(self.first_ending_after(pages.start));
        pages.is_empty() || range.is_some_and(|r| r.start <= pages.start && pages.end <= r.end)
    }

    /// Returns the index of the first range that ends after `page`.
    fn first_ending_after(&self, page: u64) -> usize {
        self.private.partition_point(|range| range.end <= page)
    }
}

/// Returns the numbers of the pages a range touches; a range over the end of the address space stops there.
fn pages(gpa: u64, len: u64) -> Range<u64> {
    let end = gpa.saturating_add(len).div_ceil(PAGE);
    if len == 0 { 0..0 } else { gpa / PAGE..end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

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
    fn neighbours_become_one_range_in_any_order() {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut states = PageStates::default();
            for chunk in order {
                states.accept(chunk * LARGE, LARGE).unwrap();
            }
            assert_eq!(states.private, vec![0..3 * 512]);
            let again = states.accept(LARGE, LARGE);
            assert_eq!(again, Err(AlreadyPrivate(LARGE)));
        }
    }

    /// Every set of eight pages is reached by accepting and withdrawing, and agrees with a set of bits.
    #[test]
    fn the_record_agrees_with_a_set_of_pages() {
        let mut states = PageStates::default();
        let mut bits = 0_u8;
        let mut seed = 1_u32;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, kind, first, len] = seed.to_le_bytes();
            let (first, len) = (u64::from(first % 8), u64::from(len % 4));
            let mask = (0..8).filter(|page| (first..first + len).contains(page));
            let mask = mask.fold(0, |mask, page| mask | 1_u8 << page);
            let len = len.min(8 - first);
            if kind % 2 == 0 {
                let outcome = states.accept(first * PAGE, len * PAGE);
                assert_eq!(outcome.is_ok(), bits & mask == 0);
                bits |= if outcome.is_ok() { mask } else { 0 };
            } else {
                states.withdraw(first * PAGE, len * PAGE);
                bits &= !mask;
            }
            for page in 0..8 {
                let is_private = states.is_private(page * PAGE, 1);
                assert_eq!(is_private, bits & 1 << page != 0);
            }
            assert!(states.private.windows(2).all(|w| w[0].end < w[1].start));
        }
    }

    #[test]
    fn ranges_are_rounded_outwards_to_pages() {
        let mut states = PageStates::default();
        states.accept(0x1FFF, 2).unwrap();
        assert!(states.is_private(0x1000, 0x2000));
        assert!(!states.is_private(0xFFF, 2) && !states.is_private(0x2FFF, 2));
    }

    #[test]
    fn the_end_of_the_address_space_does_not_wrap() {
        let states = PageStates::default();
        assert!(!states.is_private(u64::MAX, 2));
        assert!(states.is_private(0, 0));
    }
}
