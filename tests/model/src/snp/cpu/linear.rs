//! Memory as the running guest addresses it: linear addresses, through its own tables and the RMP.

use crate::snp::addr::{PAGE_SIZE, Phys};
use crate::snp::memory::{AccessFault, Memory, Stage, Who};
use crate::snp::rmp::AccessKind;
use crate::snp::walk::{EntryWidth, PageFault, Paging, Privilege, Use, WalkError};
use core::cell::Cell;

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

/// How many pages a processor remembers.
const REMEMBERED: usize = 32;

/// Pages a processor found it may touch for its guest, so that the RMP is not asked for the same tables at every exit: the
/// model's own translation cache, good until the memory system takes something away.
pub struct PageCache {
    valid_for: Cell<Option<(u64, Who)>>,
    pages: [Cell<Option<(u64, Phys)>>; REMEMBERED],
}

impl Default for PageCache {
    fn default() -> Self {
        Self {
            valid_for: Cell::new(None),
            pages: [const { Cell::new(None) }; REMEMBERED],
        }
    }
}

impl PageCache {
    fn prepare(&self, memory: &Memory, who: Who) {
        let now = Some((memory.generation(), who));
        if self.valid_for.replace(now) != now {
            self.pages.iter().for_each(|page| page.set(None));
        }
    }
}

/// The guest's view of memory at one moment.
pub struct Linear<'a> {
    memory: &'a Memory,
    who: Who,
    paging: Paging,
    cache: &'a PageCache,
}

impl<'a> Linear<'a> {
    /// The view of `who`, through the tables `paging` names.
    pub fn new(memory: &'a Memory, who: Who, paging: Paging, cache: &'a PageCache) -> Self {
        cache.prepare(memory, who);
        Self {
            memory,
            who,
            paging,
            cache,
        }
    }

    /// Whether long mode is active.
    pub const fn is_long(&self) -> bool {
        self.paging.is_long()
    }

    /// Where the byte at `address` lies, when this access to it is allowed.
    fn locate(&self, address: u64, kind: AccessKind, stage: Stage) -> Result<Phys, AccessFault> {
        let tag = match (stage, kind) {
            (Stage::Walk, _) => 0,
            (Stage::Final, AccessKind::Fetch) => 1,
            (Stage::Final, AccessKind::Read) => 2,
            (Stage::Final, AccessKind::Write) => 3,
        };
        let page = address & !(PAGE_SIZE - 1) | tag;
        let [_, number, ..] = (page >> 4).to_le_bytes();
        let slot = &self.cache.pages[usize::from(number) % REMEMBERED];
        if let Some((known, host)) = slot.get()
            && known == page
        {
            return Ok(host.in_page(address));
        }
        let host = self.memory.locate(self.who, address, kind, stage)?;
        slot.set(Some((page, host.page())));
        Ok(host)
    }

    /// Translates to a guest-physical address, C-bit and all.
    pub fn translate(
        &self,
        address: u64,
        usage: Use,
        privilege: Privilege,
    ) -> Result<u64, LinearFault> {
        let read = |entry: u64, width| {
            let word = self
                .locate(entry, AccessKind::Read, Stage::Walk)?
                .read_u64();
            Ok(match width {
                EntryWidth::Eight => word,
                EntryWidth::Four if entry & 4 == 0 => word & 0xFFFF_FFFF,
                EntryWidth::Four => word >> 32,
            })
        };
        self.paging
            .translate(address, usage, privilege, read)
            .map_err(|error| match error {
                WalkError::Fault(fault) => LinearFault::Page { fault, address },
                WalkError::Entry(fault) => LinearFault::Nested(fault),
            })
    }

    /// Reads bytes; a fault on a later page leaves the bytes before it read.
    pub fn read(
        &self,
        address: u64,
        bytes: &mut [u8],
        usage: Use,
        privilege: Privilege,
    ) -> Result<(), LinearFault> {
        let kind = if usage == Use::Fetch {
            AccessKind::Fetch
        } else {
            AccessKind::Read
        };
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let physical = self.translate(at, usage, privilege)?;
            let host = self
                .locate(physical, kind, Stage::Final)
                .map_err(LinearFault::Nested)?;
            done += host.read_bytes(&mut bytes[done..]);
        }
        Ok(())
    }

    /// Writes bytes within their pages.
    pub fn write(
        &self,
        address: u64,
        bytes: &[u8],
        privilege: Privilege,
    ) -> Result<(), LinearFault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let physical = self.translate(at, Use::Write, privilege)?;
            let host = self
                .locate(physical, AccessKind::Write, Stage::Final)
                .map_err(LinearFault::Nested)?;
            done += host.write_bytes(&bytes[done..]);
        }
        Ok(())
    }

    /// Fetches up to `bytes.len()` bytes of code at `address`: as many as can be read. A fault only when not one can.
    pub fn fetch(
        &self,
        address: u64,
        bytes: &mut [u8],
        privilege: Privilege,
    ) -> Result<usize, LinearFault> {
        let in_page = usize::try_from(PAGE_SIZE - address % PAGE_SIZE)
            .unwrap_or(1)
            .min(bytes.len());
        self.read(address, &mut bytes[..in_page], Use::Fetch, privilege)?;
        let rest = self.read(
            address.wrapping_add(in_page as u64),
            &mut bytes[in_page..],
            Use::Fetch,
            privilege,
        );
        Ok(if rest.is_ok() { bytes.len() } else { in_page })
    }

    /// Reads a 64-bit word as the processor itself does.
    pub fn read_u64(&self, address: u64) -> Result<u64, LinearFault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes, Use::Read, Privilege::Supervisor)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
