//! Nested page tables: five levels, filled on demand from the RMP and the map of guest memory, emptied when either
//! changes.
//!
//! QEMU has no C-bit, so an address with the bit set is simply another guest-physical address: for a VMSA that uses the
//! C-bit a private page lies under `gpa | C` and a shared one under `gpa`. A VMSA below a virtual top of memory has its
//! private pages under `gpa`. Hence a root for each VMPL and [`Layout`]. Five levels, because with four QEMU ignores
//! bits 48 and up of the address, and with them the C-bit. There is no execute permission for user or supervisor alone:
//! a page is executable when its VMPL may execute it in either mode.

use super::addr::{C_BIT, FrameSource, Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use super::rmp::{PageSize, Permissions, VMPLS, Vmpl};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// A nested walk is a user access.
const USER: u64 = 1 << 2;
/// Set beforehand, so that QEMU never writes an entry.
const ACCESSED_DIRTY: u64 = 0x60;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
const LEVELS: u32 = 5;

/// How a VMSA's addresses tell private from shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// By the C-bit: paging is on in a mode that has one.
    CBit,
    /// All below the top is private: a virtual top of memory, or paging without a C-bit (APM vol. 2, 15.34.4).
    Flat,
}

/// What a root of nested tables stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Whose permissions.
    pub vmpl: Vmpl,
    /// Which addresses.
    pub layout: Layout,
}

/// All nested page tables of the guest.
pub struct NestedTables {
    roots: [[Option<Phys>; 2]; VMPLS],
}

impl Default for NestedTables {
    fn default() -> Self {
        Self::new()
    }
}

impl NestedTables {
    /// No tables yet.
    pub const fn new() -> Self {
        Self {
            roots: [[None; 2]; VMPLS],
        }
    }

    /// The root of `view`, made on first use; `None` without memory.
    pub fn root(&mut self, view: View, frames: &mut impl FrameSource) -> Option<Phys> {
        let slot = &mut self.roots[view.vmpl.index()][view.layout as usize];
        if slot.is_none() {
            *slot = frames.frame();
        }
        *slot
    }

    /// Maps the page of `size` at `address` (with its C-bit, if any) to `host`. `None` without memory for tables.
    pub fn map(
        &mut self,
        view: View,
        address: u64,
        host: Phys,
        size: PageSize,
        rights: Permissions,
        frames: &mut impl FrameSource,
    ) -> Option<()> {
        let last = match size {
            PageSize::Small => 0,
            PageSize::Large => 1,
        };
        let mut table = self.root(view, frames)?;
        for level in (last + 1..LEVELS).rev() {
            table = next_table(slot(table, address, level), frames)?;
        }
        let aligned = host.get() & !(size.bytes() - 1);
        slot(table, address, last).write_u64(aligned | leaf_bits(size, rights));
        Some(())
    }

    /// Takes `[gpa, gpa + len)` out of every table under both aliases; a large entry goes as a whole. Returns whether
    /// anything was mapped, that is whether a processor may still hold a translation.
    pub fn unmap(&mut self, gpa: Gpa, len: u64) -> Unmapped {
        Self::unmap_roots(self.roots.as_flattened(), gpa, len)
    }

    fn unmap_roots(roots: &[Option<Phys>], gpa: Gpa, len: u64) -> Unmapped {
        let mut result = Unmapped::Nothing;
        for root in roots.iter().flatten() {
            for alias in [gpa.get(), gpa.get() | C_BIT] {
                if clear_range(*root, alias, len) {
                    result = Unmapped::Something;
                }
            }
        }
        result
    }

    /// Takes `[gpa, gpa + len)` out of the tables of one VMPL.
    pub fn unmap_for(&mut self, vmpl: Vmpl, gpa: Gpa, len: u64) -> Unmapped {
        Self::unmap_roots(&self.roots[vmpl.index()], gpa, len)
    }

    /// What is mapped at `address`, for tests and assertions.
    pub fn lookup(&self, view: View, address: u64) -> Option<(Phys, PageSize)> {
        let mut table = self.roots[view.vmpl.index()][view.layout as usize]?;
        for level in (0..LEVELS).rev() {
            let entry = slot(table, address, level).read_u64();
            if entry & PRESENT == 0 {
                return None;
            }
            // SAFETY: `map` wrote the entry with an address that was a `Phys`.
            let next = unsafe { Phys::new(entry & ADDRESS) };
            if level == 0 {
                return Some((next, PageSize::Small));
            }
            if entry & LARGE != 0 {
                return Some((next, PageSize::Large));
            }
            table = next;
        }
        None
    }
}

/// Whether [`NestedTables::unmap`] removed a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmapped {
    /// At least one.
    Something,
    /// None: no processor can hold one.
    Nothing,
}

fn leaf_bits(size: PageSize, rights: Permissions) -> u64 {
    let mut bits = PRESENT | USER | ACCESSED_DIRTY;
    if rights.write() {
        bits |= WRITABLE;
    }
    if !rights.user_execute() && !rights.supervisor_execute() {
        bits |= NO_EXECUTE;
    }
    if size == PageSize::Large {
        bits |= LARGE;
    }
    bits
}

/// The entry for `address` in a table of `level`, 0 the one of small pages.
fn slot(table: Phys, address: u64, level: u32) -> Phys {
    table.in_page((address >> (12 + 9 * level) & 0x1FF) * 8)
}

/// The table below `entry`; a large leaf there gives way (its pages are refilled on demand).
fn next_table(entry: Phys, frames: &mut impl FrameSource) -> Option<Phys> {
    let value = entry.read_u64();
    if value & PRESENT != 0 && value & LARGE == 0 {
        // SAFETY: the address was put there below.
        return Some(unsafe { Phys::new(value & ADDRESS) });
    }
    let table = frames.frame()?;
    entry.write_u64(table.get() | TABLE);
    Some(table)
}

fn clear_range(root: Phys, start: u64, len: u64) -> bool {
    let mut cleared = false;
    let mut address = start;
    let end = start.saturating_add(len);
    while address < end {
        let step = match clear_one(root, address) {
            Cleared::Leaf(size) => {
                cleared = true;
                size
            }
            Cleared::Absent(span) => span,
        };
        address = (address & !(step - 1)).saturating_add(step);
    }
    cleared
}

enum Cleared {
    /// A leaf of so many bytes was there.
    Leaf(u64),
    /// Nothing is mapped in the so many bytes around.
    Absent(u64),
}

fn clear_one(root: Phys, address: u64) -> Cleared {
    let mut table = root;
    for level in (1..LEVELS).rev() {
        let entry = slot(table, address, level);
        let value = entry.read_u64();
        if value & PRESENT == 0 {
            return Cleared::Absent(PAGE_SIZE << (9 * level));
        }
        if value & LARGE != 0 {
            entry.write_u64(0);
            return Cleared::Leaf(LARGE_PAGE_SIZE);
        }
        // SAFETY: `next_table` put the address there.
        table = unsafe { Phys::new(value & ADDRESS) };
    }
    let entry = slot(table, address, 0);
    if entry.read_u64() & PRESENT == 0 {
        return Cleared::Absent(PAGE_SIZE);
    }
    entry.write_u64(0);
    Cleared::Leaf(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::addr::fake::HeapFrames;

    const ZERO: View = View {
        vmpl: Vmpl::ZERO,
        layout: Layout::CBit,
    };
    const TWO: View = View {
        vmpl: Vmpl::try_new(2).unwrap(),
        layout: Layout::Flat,
    };

    #[test]
    fn an_address_with_the_c_bit_is_another_address() {
        let mut frames = HeapFrames::new(0x80_0000);
        let page = frames.frame().unwrap();
        let mut tables = NestedTables::new();
        tables
            .map(
                ZERO,
                0x5000 | C_BIT,
                page,
                PageSize::Small,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        assert_eq!(
            tables.lookup(ZERO, 0x5000 | C_BIT),
            Some((page, PageSize::Small))
        );
        assert_eq!(tables.lookup(ZERO, 0x5000), None);
        assert_eq!(tables.lookup(TWO, 0x5000), None);
    }

    #[test]
    fn unmapping_a_page_takes_every_alias_and_the_large_entry_around_it() {
        let mut frames = HeapFrames::new(0x80_0000);
        let block = frames.large_frame().unwrap();
        let mut tables = NestedTables::new();
        tables
            .map(
                ZERO,
                0x20_0000 | C_BIT,
                block,
                PageSize::Large,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        tables
            .map(
                TWO,
                0x20_3000,
                block,
                PageSize::Small,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        assert_eq!(
            tables.unmap(Gpa::new(0x20_3000), PAGE_SIZE),
            Unmapped::Something
        );
        assert_eq!(tables.lookup(ZERO, 0x20_0000 | C_BIT), None);
        assert_eq!(tables.lookup(TWO, 0x20_3000), None);
        assert_eq!(
            tables.unmap(Gpa::new(0x20_3000), PAGE_SIZE),
            Unmapped::Nothing
        );
    }

    #[test]
    fn a_small_page_can_replace_part_of_a_large_one() {
        let mut frames = HeapFrames::new(0x80_0000);
        let block = frames.large_frame().unwrap();
        let page = frames.frame().unwrap();
        let mut tables = NestedTables::new();
        tables
            .map(
                TWO,
                0,
                block,
                PageSize::Large,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        tables
            .map(
                TWO,
                0x1000,
                page,
                PageSize::Small,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        assert_eq!(tables.lookup(TWO, 0x1000), Some((page, PageSize::Small)));
        assert_eq!(tables.lookup(TWO, 0x2000), None);
    }

    /// PVALIDATE of 2 MiB must not walk 512 absent pages one by one, and must not miss the last.
    #[test]
    fn unmapping_a_range_skips_holes_and_reaches_its_end() {
        let mut frames = HeapFrames::new(0x80_0000);
        let page = frames.frame().unwrap();
        let mut tables = NestedTables::new();
        let last = 0x40_0000 - PAGE_SIZE;
        tables
            .map(
                TWO,
                last,
                page,
                PageSize::Small,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        tables
            .map(
                TWO,
                0x40_0000,
                page,
                PageSize::Small,
                Permissions::ALL,
                &mut frames,
            )
            .unwrap();
        tables.unmap(Gpa::new(0), 0x40_0000);
        assert_eq!(tables.lookup(TWO, last), None);
        assert!(tables.lookup(TWO, 0x40_0000).is_some());
    }

    #[test]
    fn rights_become_writable_and_no_execute_bits() {
        let read = Permissions::new().with_read(true);
        assert_eq!(
            leaf_bits(PageSize::Small, read) & (WRITABLE | NO_EXECUTE),
            NO_EXECUTE
        );
        let user = read.with_user_execute(true);
        assert_eq!(leaf_bits(PageSize::Small, user) & NO_EXECUTE, 0);
        assert_eq!(
            leaf_bits(PageSize::Large, Permissions::ALL) & (WRITABLE | LARGE),
            WRITABLE | LARGE
        );
    }
}
