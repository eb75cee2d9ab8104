//! Memory as the running guest addresses it: linear addresses, through its own tables and the RMP.

use crate::snp::addr::PAGE_SIZE;
use crate::snp::memory::{AccessFault, Memory, Stage, Who};
use crate::snp::rmp::AccessKind;
use crate::snp::walk::{EntryWidth, PageFault, Paging, Privilege, Use, WalkError};

/// Why an access on the guest's behalf failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinearFault {
    /// #PF, with CR2.
    Page {
        /// The error code.
        fault: PageFault,
        /// The linear address.
        address: u64,
    },
    /// The nested level refuses.
    Nested(AccessFault),
}

/// The guest's view of memory at one moment.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// The memory system.
    pub memory: &'a Memory,
    /// Whose nested tables.
    pub who: Who,
    /// The guest's own tables.
    pub paging: Paging,
}

impl Linear<'_> {
    /// Translates to a guest-physical address, C-bit and all.
    pub fn translate(&self, address: u64, usage: Use, privilege: Privilege) -> Result<u64, LinearFault> {
        let read = |entry: u64, width| {
            let host = self.memory.locate(self.who, entry, AccessKind::Read, Stage::Walk)?;
            let word = host.read_u64();
            Ok(match width {
                EntryWidth::Eight => word,
                EntryWidth::Four if entry & 4 == 0 => word & 0xFFFF_FFFF,
                EntryWidth::Four => word >> 32,
            })
        };
        self.paging.translate(address, usage, privilege, read).map_err(|error| match error {
            WalkError::Fault(fault) => LinearFault::Page { fault, address },
            WalkError::Entry(fault) => LinearFault::Nested(fault),
        })
    }

    /// Reads bytes; a fault on a later page leaves the bytes before it read.
    pub fn read(&self, address: u64, bytes: &mut [u8], usage: Use, privilege: Privilege) -> Result<(), LinearFault> {
        let kind = if usage == Use::Fetch { AccessKind::Fetch } else { AccessKind::Read };
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let physical = self.translate(at, usage, privilege)?;
            let host = self.memory.locate(self.who, physical, kind, Stage::Final).map_err(LinearFault::Nested)?;
            done += host.read_bytes(&mut bytes[done..]);
        }
        Ok(())
    }

    /// Writes bytes within their pages.
    pub fn write(&self, address: u64, bytes: &[u8], privilege: Privilege) -> Result<(), LinearFault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let physical = self.translate(at, Use::Write, privilege)?;
            let host =
                self.memory.locate(self.who, physical, AccessKind::Write, Stage::Final).map_err(LinearFault::Nested)?;
            done += host.write_bytes(&bytes[done..]);
        }
        Ok(())
    }

    /// Fetches up to `bytes.len()` bytes of code at `address`: as many as can be read. A fault only when not one can.
    pub fn fetch(&self, address: u64, bytes: &mut [u8], privilege: Privilege) -> Result<usize, LinearFault> {
        let in_page = usize::try_from(PAGE_SIZE - address % PAGE_SIZE).unwrap_or(1).min(bytes.len());
        self.read(address, &mut bytes[..in_page], Use::Fetch, privilege)?;
        let rest = self.read(address.wrapping_add(in_page as u64), &mut bytes[in_page..], Use::Fetch, privilege);
        Ok(if rest.is_ok() { bytes.len() } else { in_page })
    }

    /// Reads a 64-bit word as the processor itself does.
    pub fn read_u64(&self, address: u64) -> Result<u64, LinearFault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes, Use::Read, Privilege::Supervisor)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
