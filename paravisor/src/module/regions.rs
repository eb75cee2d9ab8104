//! Which addresses a module has taken: ranges of whole pages, in order, none touching another.

use alloc::vec::Vec;
use core::ops::Range;

/// The most ranges: a module that makes holes without end is told that there is no memory.
const MOST: usize = 512;

/// The ranges a module has taken.
#[derive(Debug, Default)]
pub(crate) struct Regions(Vec<Range<u64>>);

/// There is no room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Regions {
    /// Takes `range`, of which parts may be taken already.
    pub(crate) fn take(&mut self, range: Range<u64>) -> Result<(), TooMany> {
        if range.is_empty() {
            return Ok(());
        }
        let first = self.0.partition_point(|taken| taken.end < range.start);
        let last = self.0.partition_point(|taken| taken.start <= range.end);
        if first == last {
            if self.0.len() >= MOST {
                return Err(TooMany);
            }
            self.0.insert(first, range);
            return Ok(());
        }
        let start = self.0[first].start.min(range.start);
        let end = self.0[last - 1].end.max(range.end);
        self.0.drain(first + 1..last);
        self.0[first] = start..end;
        Ok(())
    }

    /// Gives `range` back, of which parts may be free.
    pub(crate) fn give_back(&mut self, range: Range<u64>) -> Result<(), TooMany> {
        if range.is_empty() {
            return Ok(());
        }
        let splits = self
            .0
            .iter()
            .any(|taken| taken.start < range.start && range.end < taken.end);
        if splits && self.0.len() >= MOST {
            return Err(TooMany);
        }
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for taken in self.0.drain(..) {
            let below = taken.start..taken.end.min(range.start);
            let above = taken.start.max(range.end)..taken.end;
            left.extend([below, above].into_iter().filter(|part| !part.is_empty()));
        }
        self.0 = left;
        Ok(())
    }

    /// Returns whether all of `range` is taken.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.0
            .iter()
            .any(|taken| taken.start <= range.start && range.end <= taken.end)
    }

    /// Returns whether nothing of `range` is taken.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        !self
            .0
            .iter()
            .any(|taken| taken.start < range.end && range.start < taken.end)
    }

    /// Returns the highest free range of `bytes` bytes in `bounds`.
    pub(crate) fn find(&self, bytes: u64, bounds: &Range<u64>) -> Option<Range<u64>> {
        let mut end = bounds.end;
        for taken in self.0.iter().rev() {
            if taken.end <= end && end - taken.end >= bytes {
                break;
            }
            end = end.min(taken.start);
        }
        let start = end.checked_sub(bytes).filter(|at| *at >= bounds.start)?;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn regions(ranges: &[Range<u64>]) -> Regions {
        let mut regions = Regions::default();
        for range in ranges {
            regions.take(range.clone()).unwrap();
        }
        regions
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let regions = regions(&[10..20, 40..50, 20..40]);
        assert_eq!(regions.0, vec![10..50]);
    }

    #[test]
    fn giving_back_the_middle_leaves_both_ends() {
        let mut regions = regions(&[10..30, 30..50]);
        regions.give_back(20..30).unwrap();
        assert_eq!(regions.0, vec![10..20, 30..50]);
        assert!(regions.has(&(30..50)) && !regions.has(&(19..31)));
        assert!(regions.is_free(&(20..30)) && !regions.is_free(&(25..31)));
    }

    #[test]
    fn the_highest_gap_that_fits_is_found() {
        let regions = regions(&[30..40, 60..70]);
        assert_eq!(regions.find(20, &(0..70)), Some(40..60));
        assert_eq!(regions.find(25, &(0..70)), Some(5..30));
        assert_eq!(regions.find(5, &(0..80)), Some(75..80));
        assert_eq!(regions.find(31, &(0..70)), None);
        assert_eq!(regions.find(u64::MAX, &(0..70)), None);
    }

    /// A module that frees every second page would otherwise fill the paravisor's heap.
    #[test]
    fn the_number_of_ranges_is_bounded() {
        let mut regions = Regions::default();
        for index in 0..MOST as u64 {
            regions.take(index * 4..index * 4 + 3).unwrap();
        }
        assert_eq!(regions.take(100_000..100_001), Err(TooMany));
        assert_eq!(regions.give_back(1..2), Err(TooMany));
        assert_eq!(regions.give_back(0..3), Ok(()));
    }

    #[test]
    fn every_page_is_taken_or_free_as_a_plain_set_says() {
        let mut seed = 7_u64;
        let mut regions = Regions::default();
        let mut model = [false; 64];
        for _ in 0..5000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, len) = (seed >> 33 & 63, seed >> 40 & 15);
            let range = start..(start + len).min(64);
            let takes = seed >> 50 & 1 == 0;
            if takes {
                regions.take(range.clone()).unwrap();
            } else {
                regions.give_back(range.clone()).unwrap();
            }
            for page in range {
                model[usize::try_from(page).unwrap()] = takes;
            }
            for page in 0..64 {
                let taken = model[usize::try_from(page).unwrap()];
                assert_eq!(regions.has(&(page..page + 1)), taken);
                assert_eq!(regions.is_free(&(page..page + 1)), !taken);
            }
        }
    }
}
