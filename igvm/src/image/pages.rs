//! Pages by address, before they become directives.

use std::collections::BTreeMap;

/// Bytes in a page.
pub(crate) const PAGE_BYTES: usize = 0x1000;

/// Content of pages, each filled from any number of pieces; what no piece covers is zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(BTreeMap<u64, Vec<u8>>);

impl Pages {
    /// Copies `bytes` to `gpa`, over what may be there.
    pub(crate) fn put(&mut self, gpa: u64, bytes: &[u8]) {
        let mut left = bytes;
        let mut at = gpa;
        while !left.is_empty() {
            let offset = usize::try_from(at % PAGE_BYTES as u64).unwrap_or(0);
            let (part, rest) = left.split_at(left.len().min(PAGE_BYTES - offset));
            let page = self.page(at - offset as u64);
            page[offset..offset + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            left = rest;
        }
    }

    /// Makes sure that the page at `gpa` is there, zero if nothing else.
    pub(crate) fn page(&mut self, gpa: u64) -> &mut Vec<u8> {
        self.0.entry(gpa).or_insert_with(|| vec![0; PAGE_BYTES])
    }

    /// Returns whether the page at `gpa` is there.
    pub(crate) fn contains(&self, gpa: u64) -> bool {
        self.0.contains_key(&gpa)
    }

    /// Returns whether any page in the range is there.
    pub(crate) fn any_in(&self, range: std::ops::Range<u64>) -> bool {
        self.0.range(range).next().is_some()
    }
}

impl IntoIterator for Pages {
    type Item = (u64, Vec<u8>);
    type IntoIter = std::collections::btree_map::IntoIter<u64, Vec<u8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_across_pages_is_split() {
        let mut pages = Pages::default();
        pages.put(0x1FFE, &[1, 2, 3, 4]);
        let pages: Vec<_> = pages.into_iter().collect();
        assert_eq!(pages.len(), 2);
        assert_eq!(
            (pages[0].0, &pages[0].1[0xFFD..]),
            (0x1000, [0, 1, 2].as_slice())
        );
        assert_eq!(
            (pages[1].0, &pages[1].1[..3]),
            (0x2000, [3, 4, 0].as_slice())
        );
    }
}
