//! The page tables of one module: four levels, every entry below the first table its own.
//!
//! The lowest 512 GiB are the module's; the entry behind them is the gate's, shared by all; there are no others. A page a module may do
//! nothing with is present for the supervisor, who has no business there.

use alloc::sync::Arc;
use core::ops::Range;

use spin::Mutex;
use stockade_boot::layout::{PAGE_SIZE, paravisor};

use super::frames::{Frame, Frames};
use super::{NoFrames, NoPage, PageAccess};
use crate::paging::{ACCESSED, ADDRESS, DIRTY, ENCRYPTED, NO_EXECUTE, PRESENT, WRITABLE, entry_in};

const USER: u64 = 1 << 2;
/// The addresses of modules: the top-level table's first entry, without its first page and the last.
const ADDRESSES: Range<u64> = PAGE_SIZE..paravisor::BASE - PAGE_SIZE;
const _: () = assert!(paravisor::BASE == 1 << 39);

/// What the paravisor does with bytes of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Write,
    Load,
}

/// The tables, and through them the pages.
#[derive(Debug)]
pub(super) struct Tables {
    root: Frame,
    pool: Arc<Mutex<Frames>>,
    frames: usize,
}

impl Tables {
    /// Returns tables of no pages with the gate's entry.
    pub(super) fn new(pool: Arc<Mutex<Frames>>, gate_entry: u64) -> Result<Self, NoFrames> {
        let root = pool.lock().take().ok_or(NoFrames)?;
        let gate = entry_in(root.address(), paravisor::BASE, 3);
        // SAFETY: the entry is in our new table.
        unsafe { gate.write(gate_entry) };
        Ok(Self {
            root,
            pool,
            frames: 1,
        })
    }

    /// Returns the value of CR3.
    #[cfg_attr(
        not(any(test, feature = "image")),
        expect(dead_code, reason = "entered by the image")
    )]
    pub(super) fn cr3(&self) -> u64 {
        self.root.address() | ENCRYPTED
    }

    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    pub(super) fn map(
        &mut self,
        page: u64,
        access: PageAccess,
        limit: usize,
    ) -> Result<(), NoFrames> {
        if !ADDRESSES.contains(&page) || !page.is_multiple_of(PAGE_SIZE) {
            return Err(NoFrames);
        }
        let old = self.leaf(page).map_or(0, |(_, value)| value);
        if old & PRESENT == 0 && access == PageAccess::None {
            return Ok(());
        }
        let entry = self.entry(page, limit)?;
        let address = if old & PRESENT == 0 {
            self.take(limit)?.into_address()
        } else {
            old & ADDRESS
        };
        // SAFETY: `entry` returns an entry of our tables; it keeps its frame, or holds a new one from now on.
        unsafe { entry.write(address | flags(access)) };
        Ok(())
    }

    pub(super) fn unmap(&mut self, pages: Range<u64>) {
        let mut page = pages.start.max(ADDRESSES.start);
        let end = pages.end.min(ADDRESSES.end);
        while page < end {
            match self.lookup(page) {
                // Nothing is in all that the missing table would map.
                Err(level) => {
                    let span = PAGE_SIZE << (9 * level);
                    page = (page / span + 1).saturating_mul(span);
                }
                Ok((entry, value)) => {
                    if value & PRESENT != 0 {
                        // SAFETY: `lookup` returns an entry of our tables, whose frame is nobody's after this.
                        unsafe { entry.write(0) };
                        // SAFETY: 1. the entry held the frame, and no longer does.
                        let frame = unsafe { Frame::from_address(value & ADDRESS) };
                        self.give_back(frame);
                    }
                    page += PAGE_SIZE;
                }
            }
        }
    }

    pub(super) fn shift(&mut self, from: u64, to: u64, limit: usize) -> Result<(), NoFrames> {
        if !ADDRESSES.contains(&to) || self.leaf(to).is_some_and(|(_, value)| value & PRESENT != 0)
        {
            return Err(NoFrames);
        }
        let Some((old, value)) = self.leaf(from).filter(|(_, value)| value & PRESENT != 0) else {
            return Ok(());
        };
        let new = self.entry(to, limit)?;
        // SAFETY: both are entries of our tables; the frame changes from one to the other.
        unsafe { old.write(0) };
        // SAFETY: as above.
        unsafe { new.write(value) };
        Ok(())
    }

    /// Gives back all but the top-level table.
    pub(super) fn clear(&mut self) {
        let top = entry_in(self.root.address(), ADDRESSES.start, 3);
        // SAFETY: the entry is in our table.
        let value = unsafe { top.read() };
        if value & PRESENT != 0 {
            // SAFETY: as above; what it held is given back by the next line.
            unsafe { top.write(0) };
            self.give_back_table(value & ADDRESS, 2);
        }
    }

    /// Gives back a table that nothing refers to any more, with all behind it.
    fn give_back_table(&mut self, table: u64, level: u32) {
        for index in 0..512 {
            let entry = entry_in(table, index << (12 + 9 * level), level);
            // SAFETY: the table was one of ours and is still whole.
            let value = unsafe { entry.read() };
            if value & PRESENT == 0 {
                continue;
            }
            if level > 0 {
                self.give_back_table(value & ADDRESS, level - 1);
            } else {
                // SAFETY: 1. the entry held the frame, and its table goes away.
                let frame = unsafe { Frame::from_address(value & ADDRESS) };
                self.give_back(frame);
            }
        }
        // SAFETY: 1. the entry above held the table, and no longer does.
        let frame = unsafe { Frame::from_address(table) };
        self.give_back(frame);
    }

    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NoPage> {
        self.pieces(address, buffer.len(), Use::Read, |at, piece| {
            let piece = &mut buffer[piece];
            // SAFETY: `pieces` names bytes of one of our frames; no module runs on them while its space is borrowed.
            let bytes = unsafe { core::slice::from_raw_parts(at.cast_const(), piece.len()) };
            piece.copy_from_slice(bytes);
        })
    }

    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), NoPage> {
        self.put(address, bytes, Use::Write)
    }

    pub(super) fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), NoPage> {
        self.put(address, bytes, Use::Load)
    }

    /// Writes all or nothing.
    fn put(&mut self, address: u64, bytes: &[u8], wanted: Use) -> Result<(), NoPage> {
        self.pieces(address, bytes.len(), wanted, |_, _| ())?;
        self.pieces(address, bytes.len(), wanted, |at, piece| {
            let piece = &bytes[piece];
            // SAFETY: as for reading; the space is borrowed for writing, so this is the only reference.
            let target = unsafe { core::slice::from_raw_parts_mut(at, piece.len()) };
            target.copy_from_slice(piece);
        })
    }

    /// Visits the bytes at `address` page by page: where they are for us, and which of the `len` they are.
    fn pieces(
        &self,
        address: u64,
        len: usize,
        wanted: Use,
        mut visit: impl FnMut(*mut u8, Range<usize>),
    ) -> Result<(), NoPage> {
        let mut done = 0;
        while done < len {
            let at = address.checked_add(done as u64).ok_or(NoPage(address))?;
            let (_, value) = self.leaf(at).ok_or(NoPage(at))?;
            if !allows(value, wanted) {
                return Err(NoPage(at));
            }
            let offset = at % PAGE_SIZE;
            let place = usize::try_from((value & ADDRESS) + offset).map_err(|_| NoPage(at))?;
            let left = usize::try_from(PAGE_SIZE - offset).map_err(|_| NoPage(at))?;
            let end = len.min(done + left);
            visit(core::ptr::with_exposed_provenance_mut(place), done..end);
            done = end;
        }
        Ok(())
    }

    /// Returns the entry of the page `address` lies in, and its value, if there is a table for it.
    fn leaf(&self, address: u64) -> Option<(*mut u64, u64)> {
        self.lookup(address).ok()
    }

    /// Looks for the entry of a page; without it, the level of the entry that has no table behind it.
    fn lookup(&self, address: u64) -> Result<(*mut u64, u64), u32> {
        if !ADDRESSES.contains(&address) {
            return Err(3);
        }
        let mut table = self.root.address();
        for level in (0..4).rev() {
            let entry = entry_in(table, address, level);
            // SAFETY: `table` is one of our tables.
            let value = unsafe { entry.read() };
            if level == 0 {
                return Ok((entry, value));
            }
            if value & PRESENT == 0 {
                return Err(level);
            }
            table = value & ADDRESS;
        }
        Err(3)
    }

    /// Returns the entry of a page of ours, with the tables above it.
    fn entry(&mut self, page: u64, limit: usize) -> Result<*mut u64, NoFrames> {
        let mut table = self.root.address();
        for level in (1..4).rev() {
            let entry = entry_in(table, page, level);
            // SAFETY: `table` is one of our tables.
            let mut value = unsafe { entry.read() };
            if value & PRESENT == 0 {
                let frame = self.take(limit)?.into_address();
                value = frame | PRESENT | WRITABLE | USER | ACCESSED | ENCRYPTED;
                // SAFETY: as above; the new table is zero, so it maps nothing.
                unsafe { entry.write(value) };
            }
            table = value & ADDRESS;
        }
        Ok(entry_in(table, page, 0))
    }

    /// Takes a frame for a page or a table, if there are not as many as allowed. Tables stay until [`Self::clear`], so that they count is what
    /// keeps a space from emptying the pool by addresses far apart.
    fn take(&mut self, limit: usize) -> Result<Frame, NoFrames> {
        if self.frames >= limit {
            return Err(NoFrames);
        }
        let frame = self.pool.lock().take().ok_or(NoFrames)?;
        self.frames += 1;
        Ok(frame)
    }

    fn give_back(&mut self, frame: Frame) {
        self.frames -= 1;
        self.pool.lock().give_back(frame);
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: 1. the tables are no more, so nothing else holds their root.
        let root = unsafe { Frame::from_address(self.root.address()) };
        self.pool.lock().give_back(root);
    }
}

fn flags(access: PageAccess) -> u64 {
    let access = match access {
        PageAccess::None => NO_EXECUTE,
        PageAccess::Read => USER | NO_EXECUTE,
        PageAccess::Write => USER | NO_EXECUTE | WRITABLE,
        PageAccess::Execute => USER,
    };
    PRESENT | ACCESSED | DIRTY | ENCRYPTED | access
}

fn allows(value: u64, wanted: Use) -> bool {
    let needed = match wanted {
        Use::Load => PRESENT,
        Use::Read => PRESENT | USER,
        Use::Write => PRESENT | USER | WRITABLE,
    };
    value & needed == needed
}
