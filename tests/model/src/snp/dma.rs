//! Which guest memory the host's devices reach: the IOMMU's tables, from guest-physical address to shared page.
//!
//! A device speaks of memory as the guest does. What is private has no entry: a device can no more touch it than the host
//! itself. VT-d, chapter 9: one root table, one context table for bus 0, one four-level table all its functions share.

use super::addr::{FrameSource, PAGE_SIZE, Phys};
use alloc::boxed::Box;

/// Root and context entry: present. VT-d, 9.1 and 9.3.
const PRESENT: u64 = 1;
/// Context entry, upper half: four levels, domain 1.
const FOUR_LEVELS: u64 = 2;
const DOMAIN: u64 = 1 << 8;
/// Read and write. VT-d, 9.8.
const READ_WRITE: u64 = 3;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// Bits of an address the tables translate.
const WIDTH: u32 = 48;
/// Functions of a bus.
const FUNCTIONS: u64 = 256;

/// The tables.
pub struct DmaTables {
    root: Phys,
    top: Phys,
    frames: Box<dyn FrameSource + Send>,
    /// Makes the IOMMU forget what it remembers of them.
    forget: fn(),
}

impl DmaTables {
    /// Tables that let no device reach anything. `None` when there is no memory.
    pub fn try_new(mut frames: Box<dyn FrameSource + Send>, forget: fn()) -> Option<Self> {
        let [root, context, top] = [frames.frame()?, frames.frame()?, frames.frame()?];
        root.write_u64(context.get() | PRESENT);
        for function in 0..FUNCTIONS {
            let entry = context.in_page(function * 16);
            entry.write_u64(top.get() | PRESENT);
            context
                .in_page(function * 16 + 8)
                .write_u64(DOMAIN | FOUR_LEVELS);
        }
        Some(Self {
            root,
            top,
            frames,
            forget,
        })
    }

    /// Where the root table is.
    pub fn root(&self) -> Phys {
        self.root
    }

    /// Lets devices reach the page at `host` as `address`. `None` when the address is too wide or no memory is left.
    pub fn map(&mut self, address: u64, host: Phys) -> Option<()> {
        if address >> WIDTH != 0 {
            return None;
        }
        let mut table = self.top;
        for level in [3, 2, 1] {
            let entry = slot(table, address, level);
            table = match next(entry) {
                Some(next) => next,
                None => {
                    let fresh = self.frames.frame()?;
                    entry.write_u64(fresh.get() | READ_WRITE);
                    fresh
                }
            };
        }
        let entry = slot(table, address, 0);
        let was_mapped = entry.read_u64() != 0;
        entry.write_u64(host.page().get() | READ_WRITE);
        if was_mapped {
            (self.forget)();
        }
        Some(())
    }

    /// Takes `bytes` from `address` on away from devices; when it returns no device reaches them any more.
    pub fn unmap(&mut self, address: u64, bytes: u64) {
        let mut is_changed = false;
        for page in (0..bytes).step_by(0x1000) {
            let entry = address.checked_add(page).and_then(|at| self.entry(at));
            if let Some(entry) = entry.filter(|entry| entry.read_u64() != 0) {
                entry.write_u64(0);
                is_changed = true;
            }
        }
        if is_changed {
            (self.forget)();
        }
    }

    /// The page devices reach at `address`.
    pub fn translate(&self, address: u64) -> Option<Phys> {
        next(self.entry(address)?)
    }

    fn entry(&self, address: u64) -> Option<Phys> {
        if address >> WIDTH != 0 {
            return None;
        }
        let table = [3, 2, 1]
            .into_iter()
            .try_fold(self.top, |table, level| next(slot(table, address, level)))?;
        Some(slot(table, address, 0))
    }
}

fn slot(table: Phys, address: u64, level: u32) -> Phys {
    table.in_page((address >> (12 + 9 * level) & 0x1FF) * 8)
}

/// What an entry leads to.
fn next(entry: Phys) -> Option<Phys> {
    let value = entry.read_u64();
    // SAFETY: entries hold addresses `map` was given as `Phys` or frames of its own, which are memory for good.
    (value & READ_WRITE != 0).then(|| unsafe { Phys::new(value & ADDRESS) })
}

const _: () = assert!(FUNCTIONS * 16 == PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::addr::fake::HeapFrames;
    use std::sync::atomic::{AtomicU32, Ordering};

    static FORGOTTEN: AtomicU32 = AtomicU32::new(0);

    fn tables() -> (DmaTables, Phys) {
        let mut frames = HeapFrames::new(0x20_0000);
        let page = frames.frame().unwrap();
        let forget = || {
            FORGOTTEN.fetch_add(1, Ordering::Relaxed);
        };
        let frames = Box::new(frames);
        (DmaTables::try_new(frames, forget).unwrap(), page)
    }

    #[test]
    fn every_function_of_the_bus_shares_the_four_level_table() {
        let (tables, _) = tables();
        let root = tables.root().read_u64();
        // SAFETY: the context table the constructor made.
        let context = unsafe { Phys::new(root & ADDRESS) };
        assert_eq!(root & 1, 1);
        for function in 0..256 {
            let low = context.in_page(function * 16).read_u64();
            let high = context.in_page(function * 16 + 8).read_u64();
            assert_eq!((low, high), (tables.top.get() | 1, 0x102));
        }
        assert_eq!(tables.root().in_page(16).read_u64(), 0);
    }

    #[test]
    fn a_page_is_reached_at_its_address_until_it_is_taken_away() {
        let (mut tables, page) = tables();
        let gpa = 0x80_0012_3000;
        assert_eq!(tables.translate(gpa), None);
        tables.map(gpa, page).unwrap();
        assert_eq!(tables.translate(gpa + 0x123), Some(page));
        assert_eq!(tables.translate(gpa + 0x1000), None);
        let before = FORGOTTEN.load(Ordering::Relaxed);
        tables.unmap(gpa, 0x1000);
        assert_eq!(tables.translate(gpa), None);
        assert!(FORGOTTEN.load(Ordering::Relaxed) > before);
    }

    #[test]
    fn an_address_of_more_than_48_bits_is_no_devices() {
        let (mut tables, page) = tables();
        assert_eq!(tables.map(1 << 48, page), None);
        assert_eq!(tables.translate(1 << 48), None);
        tables.unmap(u64::MAX - 0xFFF, 0x2000);
    }
}
