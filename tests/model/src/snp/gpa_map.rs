//! Which guest-physical addresses have memory behind them, and where: ranges of the guest's space, each backed by
//! 2 MiB blocks (or by one page, for the launch VMSA).

use super::addr::{FrameSource, Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use alloc::vec::Vec;

/// What a range is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeKind {
    /// The guest's own RAM.
    Ram,
    /// Memory only VMPL0 uses: the paravisor's region, the launch VMSA.
    Service,
    /// Payload files, shared with the host from the start.
    Staging,
}

/// Why a range was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// It overlaps another range.
    Overlap,
    /// It is empty, misaligned or wraps.
    Shape,
    /// No host memory left.
    OutOfMemory,
}

enum Backing {
    Blocks(Vec<Phys>),
    Page(Phys),
}

/// One range of guest memory.
pub struct Range {
    start: Gpa,
    len: u64,
    kind: RangeKind,
    backing: Backing,
}

impl Range {
    /// Its first address.
    pub fn start(&self) -> Gpa {
        self.start
    }

    /// Its length in bytes, a multiple of the small page.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes (never, once mapped).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is for.
    pub fn kind(&self) -> RangeKind {
        self.kind
    }

    /// Its blocks in order, the first and the last as far as they are its: guest address, length in bytes, host address.
    pub fn blocks(&self) -> impl Iterator<Item = (Gpa, u64, Phys)> + '_ {
        let (blocks, first) = match &self.backing {
            Backing::Blocks(blocks) => (blocks.as_slice(), self.start.large_page().get()),
            Backing::Page(page) => (core::slice::from_ref(page), self.start.get()),
        };
        let end = self.start.get() + self.len;
        blocks.iter().zip(0u64..).map(move |(host, index)| {
            let block = first + index * LARGE_PAGE_SIZE;
            let start = block.max(self.start.get());
            let len = (end - start).min(block + LARGE_PAGE_SIZE - start);
            // SAFETY: every block is LARGE_PAGE_SIZE long, and `start` is in it.
            let host = unsafe { host.add(start - block) };
            (Gpa::new(start), len, host)
        })
    }

    fn translate(&self, gpa: Gpa) -> Option<Phys> {
        let offset = gpa.get().checked_sub(self.start.get())?;
        if offset >= self.len {
            return None;
        }
        match &self.backing {
            Backing::Page(page) => Some(page.in_page(offset)),
            Backing::Blocks(blocks) => {
                let offset = gpa.get() - self.start.large_page().get();
                let block = blocks.get(usize::try_from(offset / LARGE_PAGE_SIZE).ok()?)?;
                // SAFETY: every block is LARGE_PAGE_SIZE long.
                Some(unsafe { block.add(offset % LARGE_PAGE_SIZE) })
            }
        }
    }
}

/// The map of guest-physical memory.
#[derive(Default)]
pub struct GpaMap {
    ranges: Vec<Range>,
}

impl GpaMap {
    /// A map without memory.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Backs `[start, start + len)`, whole small pages, with zeroed blocks.
    pub fn add_blocks(
        &mut self,
        start: Gpa,
        len: u64,
        kind: RangeKind,
        frames: &mut impl FrameSource,
    ) -> Result<(), MapError> {
        if start.page_offset() != 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Shape);
        }
        self.check_free(start, len)?;
        let mut blocks = Vec::new();
        let in_first = start.get() - start.large_page().get();
        for _ in 0..(in_first + len).div_ceil(LARGE_PAGE_SIZE) {
            blocks.push(frames.large_frame().ok_or(MapError::OutOfMemory)?);
        }
        let backing = Backing::Blocks(blocks);
        self.insert(start, len, kind, backing);
        Ok(())
    }

    /// Backs the one page at `start`.
    pub fn add_page(
        &mut self,
        start: Gpa,
        kind: RangeKind,
        frames: &mut impl FrameSource,
    ) -> Result<(), MapError> {
        if start.page_offset() != 0 {
            return Err(MapError::Shape);
        }
        self.check_free(start, PAGE_SIZE)?;
        let page = frames.frame().ok_or(MapError::OutOfMemory)?;
        self.insert(start, PAGE_SIZE, kind, Backing::Page(page));
        Ok(())
    }

    /// Where the byte at `gpa` lies; `None` where there is no memory (device space).
    pub fn translate(&self, gpa: Gpa) -> Option<Phys> {
        self.ranges.iter().find_map(|range| range.translate(gpa))
    }

    /// The range `gpa` lies in.
    pub fn range_of(&self, gpa: Gpa) -> Option<&Range> {
        self.ranges
            .iter()
            .find(|range| range.translate(gpa).is_some())
    }

    /// All ranges, by ascending address.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    fn check_free(&self, start: Gpa, len: u64) -> Result<(), MapError> {
        let end = start.checked_add(len).ok_or(MapError::Shape)?;
        if len == 0 {
            return Err(MapError::Shape);
        }
        let overlaps =
            |range: &Range| start < Gpa::new(range.start.get() + range.len) && range.start < end;
        if self.ranges.iter().any(overlaps) {
            return Err(MapError::Overlap);
        }
        Ok(())
    }

    fn insert(&mut self, start: Gpa, len: u64, kind: RangeKind, backing: Backing) {
        let at = self.ranges.partition_point(|range| range.start < start);
        self.ranges.insert(
            at,
            Range {
                start,
                len,
                kind,
                backing,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::addr::fake::HeapFrames;

    #[test]
    fn bytes_of_a_block_are_contiguous_and_device_space_has_none() {
        let mut map = GpaMap::new();
        map.add_blocks(
            Gpa::new(0),
            0x60_0000,
            RangeKind::Ram,
            &mut HeapFrames::new(0x100_0000),
        )
        .unwrap();
        let first = map.translate(Gpa::new(0x20_0000)).unwrap();
        assert_eq!(
            map.translate(Gpa::new(0x20_1234)).unwrap().get(),
            first.get() + 0x1234
        );
        assert_eq!(map.translate(Gpa::new(0x60_0000)), None);
    }

    /// Firmware ends at 4 GiB and begins wherever its length says; below it are devices.
    #[test]
    fn a_range_may_begin_within_a_block() {
        let mut map = GpaMap::new();
        let (start, len) = (Gpa::new(0xFFC8_4000), 0x37_C000);
        map.add_blocks(
            start,
            len,
            RangeKind::Service,
            &mut HeapFrames::new(0x100_0000),
        )
        .unwrap();
        assert_eq!(map.translate(Gpa::new(0xFFC8_3FFF)), None);
        assert!(map.translate(Gpa::new(0xFFFF_FFF0)).is_some());
        let blocks: Vec<_> = map.ranges()[0].blocks().collect();
        let places: Vec<_> = blocks
            .iter()
            .map(|(gpa, len, _)| (gpa.get(), *len))
            .collect();
        assert_eq!(places, [(0xFFC8_4000, 0x17_C000), (0xFFE0_0000, 0x20_0000)]);
        for (gpa, _, host) in blocks {
            assert_eq!(map.translate(gpa), Some(host));
        }
    }

    #[test]
    fn a_lone_page_backs_its_page_and_nothing_else() {
        let mut map = GpaMap::new();
        let vmsa = Gpa::new(0xFFFF_FFFF_F000);
        map.add_page(vmsa, RangeKind::Service, &mut HeapFrames::new(0x100_0000))
            .unwrap();
        assert!(map.translate(Gpa::new(0xFFFF_FFFF_FFF8)).is_some());
        assert_eq!(map.translate(Gpa::new(0xFFFF_FFFF_EFFF)), None);
        assert_eq!(map.range_of(vmsa).unwrap().kind(), RangeKind::Service);
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let mut map = GpaMap::new();
        map.add_blocks(
            Gpa::new(0),
            0x20_0000,
            RangeKind::Ram,
            &mut HeapFrames::new(0x100_0000),
        )
        .unwrap();
        let again = map.add_page(
            Gpa::new(0x1000),
            RangeKind::Ram,
            &mut HeapFrames::new(0x100_0000),
        );
        assert_eq!(again, Err(MapError::Overlap));
        let empty = map.add_blocks(
            Gpa::new(0x40_0000),
            0,
            RangeKind::Ram,
            &mut HeapFrames::new(0x100_0000),
        );
        assert_eq!(empty, Err(MapError::Shape));
    }
}
