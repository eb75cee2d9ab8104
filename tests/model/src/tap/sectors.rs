//! What sectors held before: an old state of a disk, to be served again.

use super::block::{BlockRequest, SECTOR};
use super::chain::GuestBytes;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;

/// Sectors remembered at most: 16 MiB.
const MOST: usize = 32_768;

/// First known contents.
#[derive(Default)]
pub struct Sectors(BTreeMap<u64, Box<[u8; SECTOR]>>);

impl Sectors {
    /// Nothing known.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Remembers the request's data where nothing is known yet.
    pub fn remember(&mut self, request: &BlockRequest, memory: &dyn GuestBytes) {
        let content = request.content(memory);
        let (sectors, _) = content.as_chunks::<SECTOR>();
        for (sector, bytes) in (request.sector..).zip(sectors) {
            if self.0.len() >= MOST {
                return;
            }
            if let Entry::Vacant(slot) = self.0.entry(sector) {
                slot.insert(Box::new(*bytes));
            }
        }
    }

    /// Puts what is remembered in place of what was read; says whether that is something else.
    pub fn replay(&self, request: &BlockRequest, memory: &dyn GuestBytes) -> bool {
        let mut content = request.content(memory);
        let mut is_changed = false;
        let (sectors, _) = content.as_chunks_mut::<SECTOR>();
        for (sector, bytes) in (request.sector..).zip(sectors) {
            if let Some(old) = self.0.get(&sector).filter(|old| ***old != *bytes) {
                *bytes = **old;
                is_changed = true;
            }
        }
        if is_changed {
            request.replace(memory, &content);
        }
        is_changed
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::Segment;
    use super::super::chain::fake::Shared;
    use super::*;
    use crate::tap::BlockKind;

    #[test]
    fn the_first_content_of_a_sector_comes_back() {
        let memory = Shared::new(0x1000);
        let request = BlockRequest {
            kind: BlockKind::Write,
            sector: 8,
            data: vec![Segment {
                gpa: 0,
                len: 1024,
                is_writable: false,
            }],
            status: 0xFFF,
        };
        let mut sectors = Sectors::new();
        memory.write(0, &[1; 1024]);
        sectors.remember(&request, &memory);
        assert!(!sectors.replay(&request, &memory));
        memory.write(512, &[2; 512]);
        sectors.remember(&request, &memory);
        assert!(sectors.replay(&request, &memory));
        assert_eq!(request.content(&memory), [1; 1024]);
    }
}
