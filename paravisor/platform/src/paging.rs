//! The paravisor's own page tables: four levels, C-bit in the entries (APM vol. 2, 5.3 and 15.34.3).
//!
//! [`PageTables`] builds and owns them; tables come from a [`PagePool`] and are mapped one to one, so a table's address is
//! both. No mapping is both writable and executable: [`Access`] cannot say so.

use core::ops::Range;
use core::ptr;

use stockade_boot::layout::{C_BIT, LARGE_PAGE_SIZE, PAGE_SIZE};

const GIGANTIC_PAGE_SIZE: u64 = 1 << 30;

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;
pub(crate) const ENCRYPTED: u64 = 1 << C_BIT;
pub(crate) const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000 & !ENCRYPTED;

/// What may be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Code.
    Execute,
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
}

/// Who may read the bytes of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// This guest alone: C-bit set.
    Private,
    /// The host too.
    Shared,
}

/// The largest page the processor maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LargestPage {
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Gigantic,
}

/// The page pool is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfPages;

/// Free pages, zeroed, mapped one to one; handed out once and never taken back.
#[derive(Debug)]
pub(crate) struct PagePool {
    free: Range<u64>,
}

impl PagePool {
    /// Returns the pool of the whole pages in `free`.
    ///
    /// # Safety
    /// 1. The range is mapped one to one, writable, zero, and nothing else uses it, for ever.
    pub(crate) unsafe fn new(free: Range<u64>) -> Self {
        let start = free.start.next_multiple_of(PAGE_SIZE);
        let end = free.end - free.end % PAGE_SIZE;
        Self {
            free: start..end.max(start),
        }
    }

    /// Returns the first of `count` consecutive zeroed pages.
    pub(crate) fn allocate(&mut self, count: u64) -> Result<u64, OutOfPages> {
        let bytes = count.checked_mul(PAGE_SIZE).ok_or(OutOfPages)?;
        let start = self.free.start;
        if bytes > self.free.end - start {
            return Err(OutOfPages);
        }
        self.free.start += bytes;
        Ok(start)
    }
}

/// A tree of page tables.
#[derive(Debug)]
pub(crate) struct PageTables {
    root: u64,
    largest: LargestPage,
}

impl PageTables {
    /// Returns tables that map nothing.
    pub(crate) fn new(pool: &mut PagePool, largest: LargestPage) -> Result<Self, OutOfPages> {
        Ok(Self {
            root: pool.allocate(1)?,
            largest,
        })
    }

    /// Returns the value of CR3 that switches to the tables.
    pub(crate) fn cr3(&self) -> u64 {
        self.root | ENCRYPTED
    }

    /// Maps `range` of virtual addresses to guest-physical addresses from `gpa` on, in the largest pages that fit.
    ///
    /// # Panics
    /// If an address is no multiple of a page, or part of the range is mapped: the layout is ours.
    pub(crate) fn map(
        &mut self,
        pool: &mut PagePool,
        range: Range<u64>,
        gpa: u64,
        access: Access,
        secrecy: Secrecy,
    ) -> Result<(), OutOfPages> {
        let all = range.start | range.end | gpa;
        assert!(all.is_multiple_of(PAGE_SIZE), "mappings are whole pages");
        let flags = leaf_flags(access, secrecy);
        let mut address = range.start;
        while address < range.end {
            let target = gpa + (address - range.start);
            let (level, size) = self.page_for(address | target, range.end - address);
            let entry = self.entry(pool, address, level)?;
            // SAFETY: `entry` returns an entry of one of our tables.
            let old = unsafe { entry.read() };
            assert!(old & PRESENT == 0, "{address:#x} is mapped already");
            let large = if level == 0 { 0 } else { LARGE };
            // SAFETY: as above. The mapping is new, so nothing yet relies on the address; what it is used for is decided by
            // whoever makes pointers from it.
            unsafe { entry.write(target | flags | large) };
            address += size;
        }
        Ok(())
    }

    /// Maps the 4 KiB page at `address` as `secrecy`; the caller changes the page itself and flushes the translation.
    ///
    /// # Panics
    /// If the page is not mapped by an entry of its own.
    pub(crate) fn set_secrecy(&mut self, address: u64, secrecy: Secrecy) {
        let entry = self.existing_entry(address);
        let entry = entry.expect("only pages mapped by 4 KiB entries change hands");
        // SAFETY: `existing_entry` returns an entry of one of our tables.
        let old = unsafe { entry.read() };
        let new = match secrecy {
            Secrecy::Private => old | ENCRYPTED,
            Secrecy::Shared => old & !ENCRYPTED,
        };
        // SAFETY: as above; the address keeps its page.
        unsafe { entry.write(new) };
    }

    /// Takes the mapping of the 4 KiB page at `address` away; the caller flushes the translation.
    ///
    /// # Panics
    /// If the page is not mapped by an entry of its own.
    pub(crate) fn unmap(&mut self, address: u64) {
        let entry = self.existing_entry(address);
        let entry = entry.expect("only pages mapped by 4 KiB entries are taken away");
        // SAFETY: `existing_entry` returns an entry of one of our tables; whoever unmaps a page has no use for it.
        unsafe { entry.write(0) };
    }

    /// Returns the entry of `address` in the top-level table, if there is something behind it: what other tables may share.
    pub(crate) fn top_entry(&self, address: u64) -> Option<u64> {
        // SAFETY: the root is one of our tables.
        let entry = unsafe { entry_in(self.root, address, 3).read() };
        (entry & PRESENT != 0).then_some(entry)
    }

    fn page_for(&self, alignment: u64, left: u64) -> (u32, u64) {
        let fits = |size| alignment.is_multiple_of(size) && left >= size;
        if self.largest == LargestPage::Gigantic && fits(GIGANTIC_PAGE_SIZE) {
            (2, GIGANTIC_PAGE_SIZE)
        } else if fits(LARGE_PAGE_SIZE) {
            (1, LARGE_PAGE_SIZE)
        } else {
            (0, PAGE_SIZE)
        }
    }

    /// Returns the entry of `address` in the table of `level`, with the tables above it.
    fn entry(
        &mut self,
        pool: &mut PagePool,
        address: u64,
        level: u32,
    ) -> Result<*mut u64, OutOfPages> {
        let mut table = self.root;
        for upper in (level + 1..4).rev() {
            let entry = entry_in(table, address, upper);
            // SAFETY: `table` is one of our tables.
            let mut value = unsafe { entry.read() };
            assert!(value & LARGE == 0, "{address:#x} is mapped already");
            if value & PRESENT == 0 {
                value = pool.allocate(1)? | PRESENT | WRITABLE | ACCESSED | ENCRYPTED;
                // SAFETY: as above; the new table is zero, so it maps nothing.
                unsafe { entry.write(value) };
            }
            table = value & ADDRESS;
        }
        Ok(entry_in(table, address, level))
    }

    /// Returns the 4 KiB entry that maps `address`, if one does.
    fn existing_entry(&self, address: u64) -> Option<*mut u64> {
        let mut table = self.root;
        for level in (1..4).rev() {
            let entry = entry_in(table, address, level);
            // SAFETY: `table` is one of our tables.
            let value = unsafe { entry.read() };
            if value & PRESENT == 0 || value & LARGE != 0 {
                return None;
            }
            table = value & ADDRESS;
        }
        Some(entry_in(table, address, 0))
    }
}

pub(crate) fn entry_in(table: u64, address: u64, level: u32) -> *mut u64 {
    let index = (address >> (12 + 9 * level)) & 0x1FF;
    let entry = usize::try_from(table + 8 * index).expect("tables lie in the address space");
    ptr::with_exposed_provenance_mut(entry)
}

fn leaf_flags(access: Access, secrecy: Secrecy) -> u64 {
    let access = match access {
        Access::Execute => 0,
        Access::Read => NO_EXECUTE,
        Access::ReadWrite => NO_EXECUTE | WRITABLE,
    };
    let secrecy = match secrecy {
        Secrecy::Private => ENCRYPTED,
        Secrecy::Shared => 0,
    };
    PRESENT | ACCESSED | DIRTY | access | secrecy
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec;

    const HIGH: u64 = 0xFFFF_8000_0000_0000;

    fn pool(pages: usize) -> PagePool {
        let memory = Box::leak(vec![0_u64; 512 * (pages + 1)].into_boxed_slice());
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let start = start.next_multiple_of(PAGE_SIZE);
        // SAFETY: the memory is leaked, zero and used by nothing else; a process maps itself one to one.
        unsafe { PagePool::new(start..start + PAGE_SIZE * pages as u64) }
    }

    /// Translates as the processor would: the entry and the bytes it maps.
    fn walk(tables: &PageTables, address: u64) -> Option<(u64, u64)> {
        let mut table = tables.root;
        for level in (0..4).rev() {
            // SAFETY: the tables were made by the code under test in leaked memory.
            let value = unsafe { entry_in(table, address, level).read() };
            if value & PRESENT == 0 {
                return None;
            }
            if level == 0 || value & LARGE != 0 {
                return Some((value, PAGE_SIZE << (9 * level)));
            }
            assert_ne!(value & ENCRYPTED, 0, "tables are private");
            table = value & ADDRESS;
        }
        None
    }

    #[test]
    fn the_largest_pages_that_fit_are_used() {
        let mut pool = pool(16);
        let mut tables = PageTables::new(&mut pool, LargestPage::Gigantic).unwrap();
        let end = GIGANTIC_PAGE_SIZE + LARGE_PAGE_SIZE + PAGE_SIZE;
        tables
            .map(
                &mut pool,
                HIGH..HIGH + end,
                0,
                Access::ReadWrite,
                Secrecy::Private,
            )
            .unwrap();
        for (offset, size) in [
            (0, GIGANTIC_PAGE_SIZE),
            (GIGANTIC_PAGE_SIZE, LARGE_PAGE_SIZE),
            (GIGANTIC_PAGE_SIZE + LARGE_PAGE_SIZE, PAGE_SIZE),
        ] {
            let (entry, mapped) = walk(&tables, HIGH + offset).unwrap();
            assert_eq!((entry & ADDRESS, mapped), (offset, size));
        }
        assert_eq!(walk(&tables, HIGH + end), None);
        assert_eq!(tables.cr3() & ENCRYPTED, ENCRYPTED);
    }

    #[test]
    fn processors_without_gigantic_pages_get_large_ones() {
        let mut pool = pool(16);
        let mut tables = PageTables::new(&mut pool, LargestPage::Large).unwrap();
        tables
            .map(
                &mut pool,
                HIGH..HIGH + GIGANTIC_PAGE_SIZE,
                0,
                Access::Read,
                Secrecy::Shared,
            )
            .unwrap();
        assert_eq!(walk(&tables, HIGH).unwrap().1, LARGE_PAGE_SIZE);
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        for secrecy in [Secrecy::Private, Secrecy::Shared] {
            for access in [Access::Execute, Access::Read, Access::ReadWrite] {
                let flags = leaf_flags(access, secrecy);
                assert!(flags & WRITABLE == 0 || flags & NO_EXECUTE != 0);
            }
        }
    }

    #[test]
    fn a_page_changes_hands_alone() {
        let mut pool = pool(16);
        let mut tables = PageTables::new(&mut pool, LargestPage::Gigantic).unwrap();
        tables
            .map(
                &mut pool,
                0x5000..0x7000,
                0x5000,
                Access::ReadWrite,
                Secrecy::Private,
            )
            .unwrap();
        tables.set_secrecy(0x6000, Secrecy::Shared);
        assert_eq!(walk(&tables, 0x6000).unwrap().0 & ENCRYPTED, 0);
        assert_ne!(walk(&tables, 0x5000).unwrap().0 & ENCRYPTED, 0);
        assert_eq!(walk(&tables, 0x6000).unwrap().0 & ADDRESS, 0x6000);
        tables.set_secrecy(0x6000, Secrecy::Private);
        assert_ne!(walk(&tables, 0x6000).unwrap().0 & ENCRYPTED, 0);
    }

    #[test]
    fn an_unmapped_page_leaves_its_neighbours() {
        let mut pool = pool(16);
        let mut tables = PageTables::new(&mut pool, LargestPage::Gigantic).unwrap();
        tables
            .map(
                &mut pool,
                0x5000..0x8000,
                0x5000,
                Access::ReadWrite,
                Secrecy::Private,
            )
            .unwrap();
        tables.unmap(0x6000);
        assert_eq!(walk(&tables, 0x6000), None);
        assert!(walk(&tables, 0x5000).is_some() && walk(&tables, 0x7000).is_some());
    }

    #[test]
    fn an_empty_pool_is_an_error() {
        let mut pool = pool(1);
        let mut tables = PageTables::new(&mut pool, LargestPage::Gigantic).unwrap();
        let outcome = tables.map(&mut pool, 0..0x1000, 0, Access::Read, Secrecy::Private);
        assert_eq!(outcome, Err(OutOfPages));
        assert_eq!(pool.allocate(u64::MAX), Err(OutOfPages));
    }
}
