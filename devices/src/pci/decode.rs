//! Which function answers an address: a small table that every vCPU reads without a lock.
//!
//! Entries are sorted by address. Somebody who changes the table makes its version odd meanwhile; a reader that saw an odd or a
//! changed version looks again. Changes are rare (software moves a window, or has a function answer or fall silent).

use alloc::boxed::Box;
use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::bars::{BARS, Bar, BarRange};

/// What an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The slot, as [`DecodeMap::set`] was given it.
    pub slot: u8,
    /// The register whose window it is.
    pub bar: Bar,
    /// How far into the window.
    pub offset: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    base: u64,
    last: u64,
    owner: u32,
}

#[derive(Debug, Default)]
struct Entry {
    base: AtomicU64,
    last: AtomicU64,
    /// The slot in the second byte, the register in the first.
    owner: AtomicU32,
}

impl Entry {
    fn load(&self) -> Window {
        Window {
            base: self.base.load(Ordering::Relaxed),
            last: self.last.load(Ordering::Relaxed),
            owner: self.owner.load(Ordering::Relaxed),
        }
    }

    fn store(&self, window: Window) {
        self.base.store(window.base, Ordering::Relaxed);
        self.last.store(window.last, Ordering::Relaxed);
        self.owner.store(window.owner, Ordering::Relaxed);
    }
}

/// The table.
#[derive(Debug)]
pub struct DecodeMap {
    /// Where windows may lie; elsewhere they answer nothing.
    allowed: [Range<u64>; 2],
    version: AtomicU32,
    len: AtomicUsize,
    entries: Box<[Entry]>,
}

impl DecodeMap {
    /// Returns an empty table for `slots` functions whose windows must lie in one of the ranges `allowed`.
    #[must_use]
    pub fn new(slots: usize, allowed: [Range<u64>; 2]) -> Self {
        Self {
            allowed,
            version: AtomicU32::new(0),
            len: AtomicUsize::new(0),
            entries: (0..slots * BARS).map(|_| Entry::default()).collect(),
        }
    }

    /// Returns what answers `address`. Where windows overlap it is the one that begins last.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Place> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let found = self.look_up(address);
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.version.load(Ordering::Relaxed) == version {
                return found;
            }
            spin_loop();
        }
    }

    fn look_up(&self, address: u64) -> Option<Place> {
        let entries = self.entries.get(..self.len.load(Ordering::Relaxed))?;
        let after = entries.partition_point(|entry| entry.base.load(Ordering::Relaxed) <= address);
        let window = entries.get(after.checked_sub(1)?)?.load();
        let [bar, slot, ..] = window.owner.to_le_bytes();
        let offset = address.checked_sub(window.base)?;
        (address <= window.last).then_some(Place {
            slot,
            bar: Bar::try_new(bar)?,
            offset,
        })
    }

    /// Replaces the windows of `slot`; more functions than the table was made for are not answered.
    pub fn set(&self, slot: u8, ranges: &[Option<BarRange>; BARS]) {
        let version = self.begin();
        if self.has_already(slot, ranges) {
            self.version.store(version, Ordering::Release);
            return;
        }
        let kept = self.remove(slot);
        self.len.store(kept, Ordering::Relaxed);
        for (bar, range) in (0_u8..).zip(ranges) {
            let window = range.as_ref().and_then(|range| self.window(range));
            if let Some((base, last)) = window {
                let owner = u32::from_le_bytes([bar, slot, 0, 0]);
                self.insert(Window { base, last, owner });
            }
        }
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// Shuts other writers out; returns the version to count on from.
    fn begin(&self) -> u32 {
        loop {
            let version = self.version.load(Ordering::Relaxed) & !1;
            let odd = version.wrapping_add(1);
            let begun = self.version.compare_exchange_weak(
                version,
                odd,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if begun.is_ok() {
                fence(Ordering::Release);
                return version;
            }
            spin_loop();
        }
    }

    fn window(&self, range: &BarRange) -> Option<(u64, u64)> {
        let last = range.base.checked_add(range.size.checked_sub(1)?)?;
        let is_allowed = |window: &Range<u64>| window.start <= range.base && last < window.end;
        self.allowed
            .iter()
            .any(is_allowed)
            .then_some((range.base, last))
    }

    fn has_already(&self, slot: u8, ranges: &[Option<BarRange>; BARS]) -> bool {
        let len = self.len.load(Ordering::Relaxed);
        let mut known = [None; BARS];
        for window in self.entries.iter().take(len).map(Entry::load) {
            let [bar, owner, ..] = window.owner.to_le_bytes();
            if let Some(place) = known.get_mut(usize::from(bar))
                && owner == slot
            {
                *place = Some((window.base, window.last));
            }
        }
        let wanted = ranges.map(|range| range.as_ref().and_then(|range| self.window(range)));
        known == wanted
    }

    /// Closes the gaps the windows of `slot` leave; returns how many entries stay.
    fn remove(&self, slot: u8) -> usize {
        let mut kept = 0;
        for entry in self.entries.iter().take(self.len.load(Ordering::Relaxed)) {
            let window = entry.load();
            if window.owner.to_le_bytes()[1] != slot
                && let Some(place) = self.entries.get(kept)
            {
                place.store(window);
                kept += 1;
            }
        }
        kept
    }

    fn insert(&self, window: Window) {
        let len = self.len.load(Ordering::Relaxed);
        if len >= self.entries.len() {
            return;
        }
        let mut at = len;
        for (index, pair) in self.entries.windows(2).enumerate().take(len).rev() {
            let [before, after] = pair else { continue };
            let earlier = before.load();
            if earlier.base <= window.base {
                break;
            }
            after.store(earlier);
            at = index;
        }
        if let Some(entry) = self.entries.get(at) {
            entry.store(window);
            self.len.store(len + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{BARS, Bar, BarRange, DecodeMap, Place};

    const ALLOWED: [core::ops::Range<u64>; 2] = [0xC000_0000..0xFEC0_0000, 1 << 40..1 << 41];

    fn one(bar: usize, base: u64, size: u64) -> [Option<BarRange>; BARS] {
        let mut ranges = [None; BARS];
        ranges[bar] = Some(BarRange { base, size });
        ranges
    }

    fn place(slot: u8, bar: u8, offset: u64) -> Option<Place> {
        let bar = Bar::try_new(bar).unwrap();
        Some(Place { slot, bar, offset })
    }

    #[test]
    fn first_and_last_byte_belong_to_the_window_and_their_neighbours_do_not() {
        let map = DecodeMap::new(2, ALLOWED);
        map.set(3, &one(1, 0xC000_1000, 0x1000));
        assert_eq!(map.find(0xC000_0FFF), None);
        assert_eq!(map.find(0xC000_1000), place(3, 1, 0));
        assert_eq!(map.find(0xC000_1FFF), place(3, 1, 0xFFF));
        assert_eq!(map.find(0xC000_2000), None);
    }

    #[test]
    fn moved_window_leaves_nothing_behind() {
        let map = DecodeMap::new(2, ALLOWED);
        map.set(3, &one(1, 0xC000_1000, 0x1000));
        map.set(4, &one(4, 1 << 40, 0x4000));
        map.set(3, &one(1, 0xD000_0000, 0x1000));
        assert_eq!(map.find(0xC000_1000), None);
        assert_eq!(map.find(0xD000_0010), place(3, 1, 0x10));
        assert_eq!(map.find((1 << 40) + 0x3FFF), place(4, 4, 0x3FFF));
        map.set(3, &[None; BARS]);
        assert_eq!(map.find(0xD000_0010), None);
    }

    /// A window over the IOAPIC, over RAM, or half outside would hide what is there.
    #[test]
    fn windows_outside_the_bridges_windows_answer_nothing() {
        let map = DecodeMap::new(2, ALLOWED);
        for base in [
            0,
            0xFEBF_F000,
            0xFEC0_0000,
            0xFFFF_E000,
            (1 << 41) - 0x1000,
            u64::MAX - 0x1FFF,
        ] {
            map.set(1, &one(0, base, 0x2000));
            assert_eq!(map.find(base), None, "{base:#x}");
        }
    }

    proptest! {
        /// Against a plain list; with windows that do not overlap there is only one right answer.
        #[test]
        fn table_agrees_with_a_list(
            moves in prop::collection::vec((0_u8..8, 0_usize..BARS, 0_u64..64), 0..60),
        ) {
            let map = DecodeMap::new(8, ALLOWED);
            let mut list = [[None; BARS]; 8];
            for (slot, bar, page) in moves {
                let base = 0xC000_0000 + page * 0x1000;
                let is_free = list.iter().flatten().flatten().all(|range: &BarRange| range.base != base);
                let slot_index = usize::from(slot);
                list[slot_index][bar] = is_free.then_some(BarRange { base, size: 0x1000 });
                map.set(slot, &list[slot_index]);
            }
            let found: Vec<_> = (0..64)
                .map(|page| map.find(0xC000_0000 + page * 0x1000 + 5))
                .collect();
            for (page, found) in (0..64_u64).zip(found) {
                let base = 0xC000_0000 + page * 0x1000;
                let expected = list.iter().zip(0..).find_map(|(ranges, slot)| {
                    let bar = ranges.iter().position(|range| range.is_some_and(|r| r.base == base))?;
                    place(slot, u8::try_from(bar).unwrap(), 5)
                });
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn readers_never_see_half_a_change() {
        let map = DecodeMap::new(1, ALLOWED);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20_000 {
                    map.set(0, &one(0, 0xC000_0000, 0x1000));
                    map.set(0, &one(5, 0xC000_0000, 0x1000));
                }
            });
            while !writer.is_finished() {
                let found = map.find(0xC000_0008);
                assert!(found.is_none() || found == place(0, 0, 8) || found == place(0, 5, 8));
            }
        });
    }
}
