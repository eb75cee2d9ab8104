//! The guest's own page tables, walked in software.
//!
//! [`translate`] does what the processor does for one access: it reads the entries, checks rights and reserved bits, and sets the
//! accessed and dirty bits. [`WalkContext`] holds the registers that decide; [`Access`] says what is about to happen. [`probe`] only looks.
//! The walk believes nothing but guest memory: a table outside guest RAM reads as ones, as it would from an empty bus.
//!
//! AMD APM vol. 2, chapter 5 (paging) and 8.4.2 (page-fault error code).

mod context;
mod format;
mod rights;

pub use context::{WalkContext, control};

use format::Format;
use rights::Rights;
use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// How often a walk starts again because another processor changed an entry under it.
const RETRY_LIMIT: usize = 16;

/// The longest path: five levels (CR4.LA57).
const LEVEL_LIMIT: usize = 5;

/// What is about to be done with the memory behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write, or a read that will be followed by a write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address of the byte.
    pub gpa: Gpa,
    /// The size of the page it lies in, in bytes.
    pub page_bytes: u64,
}

bitflags::bitflags! {
    /// Page-fault error code. APM vol. 2, 8.4.2.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageFaultCode: u32 {
        /// The page was present: the fault is one of protection.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access came from user mode.
        const USER = 1 << 2;
        /// An entry had a reserved bit set.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch (told only with NX or SMEP on).
        const FETCH = 1 << 4;
        /// A protection key forbade the access.
        const PROTECTION_KEY = 1 << 5;
    }
}

/// A page fault as the processor would raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address, for CR2.
    pub address: u64,
    /// The error code pushed.
    pub code: PageFaultCode,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The guest's tables forbid the access: a #PF for the guest.
    #[error("page fault at {:#x}, error code {:#x}", .0.address, .0.code.bits())]
    PageFault(PageFault),
    /// The address is not canonical: a #GP, or #SS for a stack access.
    #[error("address {0:#x} is not canonical")]
    NonCanonical(u64),
    /// Other processors kept changing the entries; the access may be tried again.
    #[error("page tables kept changing under the walk")]
    Contended,
    /// The host withdrew a page of the tables.
    #[error(transparent)]
    Memory(MemoryError),
}

/// Returns where `address` leads for `access`, setting the accessed and dirty bits on the way.
pub fn translate<M: GuestMemory + ?Sized>(
    context: &WalkContext,
    memory: &M,
    address: u64,
    access: Access,
) -> Result<Translation, WalkError> {
    for _ in 0..RETRY_LIMIT {
        let (translation, path) = look(context, memory, address, access)?;
        if path.mark(memory, access)? {
            return Ok(translation);
        }
    }
    Err(WalkError::Contended)
}

/// Returns where `address` leads for `access`, and leaves the tables as they are.
pub fn probe<M: GuestMemory + ?Sized>(
    context: &WalkContext,
    memory: &M,
    address: u64,
    access: Access,
) -> Result<Translation, WalkError> {
    look(context, memory, address, access).map(|(translation, _)| translation)
}

fn look<M: GuestMemory + ?Sized>(
    context: &WalkContext,
    memory: &M,
    address: u64,
    access: Access,
) -> Result<(Translation, Path), WalkError> {
    let mut path = Path::default();
    let Some(format) = Format::of(context) else {
        let gpa = Gpa(address & 0xFFFF_FFFF);
        let page_bytes = 0x1000;
        return Ok((Translation { gpa, page_bytes }, path));
    };
    let address = format
        .linear(address)
        .ok_or(WalkError::NonCanonical(address))?;
    let fault = |code| WalkError::PageFault(context.fault(address, access, code));
    let mut rights = Rights::ALL;
    let mut table = format.root(context.cr3);
    let mut level = format.levels();
    loop {
        let entry = Entry::read(&format, memory, table, address, level)?;
        if entry.value & format::PRESENT == 0 {
            return Err(fault(PageFaultCode::empty()));
        }
        if entry.value & format.reserved(level, entry.value) != 0 {
            return Err(fault(PageFaultCode::PRESENT | PageFaultCode::RESERVED));
        }
        if format.has_rights(level) {
            rights = rights.narrowed_by(entry.value);
            path.push(entry);
        }
        if format.is_leaf(level, entry.value) {
            rights
                .check(context, entry.value, access)
                .map_err(|code| fault(code | PageFaultCode::PRESENT))?;
            return Ok((format.leaf(level, entry.value, address), path));
        }
        table = format.table(entry.value);
        level -= 1;
    }
}

/// One entry as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    gpa: Gpa,
    value: u64,
    width: u8,
}

impl Entry {
    fn read<M: GuestMemory + ?Sized>(
        format: &Format,
        memory: &M,
        table: Gpa,
        address: u64,
        level: u8,
    ) -> Result<Self, WalkError> {
        let width = format.entry_width();
        let gpa = Gpa(table.0 | (format.index(address, level) * u64::from(width)));
        let mut bytes = [0; 8];
        match memory.read(gpa, &mut bytes[..usize::from(width)]) {
            Ok(()) => {}
            Err(MemoryError::NotMemory(_)) => bytes[..usize::from(width)].fill(0xFF),
            Err(error @ MemoryError::Withdrawn(_)) => return Err(WalkError::Memory(error)),
        }
        Ok(Self {
            gpa,
            value: u64::from_le_bytes(bytes),
            width,
        })
    }
}

/// The entries a walk used, from the root to the leaf.
#[derive(Default)]
struct Path {
    entries: [Entry; LEVEL_LIMIT],
    len: usize,
}

impl Path {
    fn push(&mut self, entry: Entry) {
        self.entries[self.len] = entry;
        self.len += 1;
    }

    /// Sets the accessed bits and, for a write, the leaf's dirty bit. Returns false if an entry had changed since it was read.
    fn mark<M: GuestMemory + ?Sized>(&self, memory: &M, access: Access) -> Result<bool, WalkError> {
        for (position, entry) in self.entries[..self.len].iter().enumerate() {
            let is_leaf = position + 1 == self.len;
            let mut bits = format::ACCESSED;
            if is_leaf && access == Access::Write {
                bits |= format::DIRTY;
            }
            let new = entry.value | bits;
            if new == entry.value {
                continue;
            }
            match memory.compare_exchange(entry.gpa, entry.width, entry.value, new) {
                // A table in read-only memory stays as it is.
                Ok(true) | Err(MemoryError::NotMemory(_)) => {}
                Ok(false) => return Ok(false),
                Err(error @ MemoryError::Withdrawn(_)) => return Err(WalkError::Memory(error)),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
