//! The paravisor's address space: what is where after the first page tables are left.
//!
//! | address | what |
//! |---|---|
//! | `paravisor::BASE` … | image, launch pages and memory, one to one; guards and the launch's page tables are not mapped |
//! | `MODULES_BASE` … | memory of modules, one to one; their own page tables have what each has of it elsewhere |
//! | `STAGING_BASE` … | staging, one to one, shared, read-only |
//! | `BOUNCE_BASE` … | memory shared with the host's devices, one to one |
//! | [`RAM_WINDOW`] … | guest RAM at its address plus the window, private, not executable |
//!
//! Page-granular memory is of two kinds. *Small* pages lie in the first 2 MiB, which the RMP holds as 4 KiB entries: what the
//! host must know by the page (shared pages, VMSAs). The rest serves page tables and stacks, then the heap.

use core::ops::Range;
use core::ptr::{self, NonNull};

use stockade_abi::rmp::PageSize;
use stockade_boot::layout::{
    BOUNCE_BASE, LARGE_PAGE_SIZE, PAGE_SIZE, STAGING_BASE, STAGING_END, paravisor,
};
use stockade_boot::ram::RamMap;

use super::image;
use crate::bounce::SharedRegion;
use crate::paging::{Access, LargestPage, OutOfPages, PagePool, PageTables, Secrecy};
use crate::processor::{self, RmpFailure, Validation};
use crate::shared::SharedPage;

/// Where guest-physical address 0 of the guest's RAM is mapped.
pub(super) const RAM_WINDOW: u64 = 0xFFFF_8000_0000_0000;

/// Page tables and stacks, those of 16 processors.
const PAGES: Range<u64> = paravisor::IMAGE_END..paravisor::IMAGE_END + (5 << 19);
/// The heap: the rest of what the paravisor has.
pub(super) const HEAP: Range<u64> = PAGES.end..paravisor::END;

/// The page tables and the free pages.
#[derive(Debug)]
pub(super) struct AddressSpace {
    tables: PageTables,
    pages: PagePool,
    small: PagePool,
    /// What modules' page tables have of the paravisor, if there are modules.
    gate: Option<PageTables>,
}

impl AddressSpace {
    /// Builds the page tables; [`Self::enter`] switches to them.
    ///
    /// # Safety
    /// 1. It is called once, while nothing uses the memory after the image.
    pub(super) unsafe fn build(largest: LargestPage) -> Result<Self, OutOfPages> {
        // SAFETY: 1. the launch's page tables map the range one to one, the entry code accepted and zeroed it, and the caller
        // promises that it is free.
        let mut pages = unsafe { PagePool::new(PAGES) };
        // SAFETY: 1. as above.
        let small = unsafe { PagePool::new(image::end()..paravisor::IMAGE_END) };
        let mut tables = PageTables::new(&mut pages, largest)?;
        for (range, access) in own_ranges() {
            let start = range.start;
            tables.map(&mut pages, range, start, access, Secrecy::Private)?;
        }
        Ok(Self {
            tables,
            pages,
            small,
            gate: None,
        })
    }

    /// Switches the processor to the page tables.
    pub(super) fn enter(&self) {
        // SAFETY: the tables map the image, the stack in use and all that Rust refers to where it was before.
        unsafe { x86::controlregs::cr3_write(self.cr3()) }
    }

    /// Returns the value of CR3 on every processor.
    pub(super) fn cr3(&self) -> u64 {
        self.tables.cr3()
    }

    /// Returns the pages for tables and stacks.
    pub(super) fn pages(&mut self) -> &mut PagePool {
        &mut self.pages
    }

    /// Takes the mapping of a page from the pool away for ever.
    pub(super) fn unmap(&mut self, page: u64) {
        self.tables.unmap(page);
        processor::flush_page(page);
    }

    /// Returns a private, zeroed page the RMP holds as 4 KiB entry.
    pub(super) fn small_page(&mut self) -> Result<u64, OutOfPages> {
        self.small.allocate(1)
    }

    /// Makes a small page shared with the host: validation, the host's record by `tell_host`, mapping, in this order.
    pub(super) fn share_page<E>(
        &mut self,
        tell_host: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<SharedPage, ShareError<E>> {
        let page = self.small_page().map_err(|_| ShareError::OutOfPages)?;
        // SAFETY: 1. the page is mapped with the C-bit. 2. It comes from the pool, so nothing lives in it.
        unsafe { processor::pvalidate(page, PageSize::SIZE_4K, Validation::Invalid) }
            .map_err(ShareError::Rmp)?;
        tell_host(page).map_err(ShareError::Host)?;
        self.tables.set_secrecy(page, Secrecy::Shared);
        processor::flush_page(page);
        let shared = shared_page(page);
        shared.zero();
        Ok(shared)
    }

    /// Maps the first `bytes` of the memory shared with the host's devices, which is so from the launch on.
    pub(super) fn map_bounce(&mut self, bytes: u64) -> Result<Option<SharedRegion>, OutOfPages> {
        if bytes == 0 {
            return Ok(None);
        }
        let range = BOUNCE_BASE..BOUNCE_BASE + bytes;
        let (tables, pages) = (&mut self.tables, &mut self.pages);
        let access = Access::ReadWrite;
        tables.map(pages, range, BOUNCE_BASE, access, Secrecy::Shared)?;
        let address = usize::try_from(BOUNCE_BASE).expect("addresses are 64 bits");
        let len = usize::try_from(bytes).expect("sizes are 64 bits");
        let start = NonNull::new(ptr::with_exposed_provenance_mut(address));
        let start = start.expect("the layout does not begin at 0");
        // SAFETY: 1. just mapped so, and never unmapped. 2. nothing of ours lies there; a second call would have found the range mapped.
        Ok(Some(unsafe { SharedRegion::new(start, len, BOUNCE_BASE) }))
    }

    /// Maps what memory the image gives the paravisor beyond its first.
    pub(super) fn map_extra(&mut self, bytes: u64) -> Result<Range<u64>, OutOfPages> {
        let range = paravisor::END..paravisor::END + bytes;
        let (tables, pages) = (&mut self.tables, &mut self.pages);
        let (start, access) = (range.start, Access::ReadWrite);
        tables.map(pages, range.clone(), start, access, Secrecy::Private)?;
        Ok(range)
    }

    /// Maps memory for modules, which the paravisor fills.
    pub(super) fn map_modules(&mut self, range: Range<u64>) -> Result<(), OutOfPages> {
        let start = range.start;
        let (tables, pages) = (&mut self.tables, &mut self.pages);
        tables.map(pages, range, start, Access::ReadWrite, Secrecy::Private)
    }

    /// Returns whether there are modules.
    pub(super) fn has_modules(&self) -> bool {
        self.gate.is_some()
    }

    /// Has the page tables of modules map `range` one to one for the supervisor, as the paravisor's own do.
    pub(super) fn map_in_modules(
        &mut self,
        range: Range<u64>,
        access: Access,
        secrecy: Secrecy,
    ) -> Result<(), OutOfPages> {
        let gate = match &mut self.gate {
            Some(gate) => gate,
            none => none.insert(PageTables::new(&mut self.pages, LargestPage::Large)?),
        };
        let start = range.start;
        gate.map(&mut self.pages, range, start, access, secrecy)
    }

    /// Returns the entry that modules' top-level tables have for the paravisor.
    pub(super) fn gate_entry(&self) -> Option<u64> {
        let gate = self.gate.as_ref()?;
        gate.top_entry(paravisor::BASE)
    }

    /// Maps the staging range and the guest's RAM.
    pub(super) fn map_guest(&mut self, ram: &RamMap) -> Result<(), OutOfPages> {
        let staging = STAGING_BASE..STAGING_END;
        let (tables, pages) = (&mut self.tables, &mut self.pages);
        tables.map(pages, staging, STAGING_BASE, Access::Read, Secrecy::Shared)?;
        for range in ram.ranges() {
            let window = RAM_WINDOW + range.start..RAM_WINDOW + range.end;
            tables.map(
                pages,
                window,
                range.start,
                Access::ReadWrite,
                Secrecy::Private,
            )?;
        }
        Ok(())
    }

    /// Maps the guest's read-only memory beside its RAM.
    pub(super) fn map_rom(&mut self, rom: Range<u64>) -> Result<(), OutOfPages> {
        let window = RAM_WINDOW + rom.start..RAM_WINDOW + rom.end;
        let (tables, pages) = (&mut self.tables, &mut self.pages);
        tables.map(
            pages,
            window,
            rom.start,
            Access::ReadWrite,
            Secrecy::Private,
        )
    }
}

/// Why a page could not be shared.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShareError<E> {
    /// No small page is left.
    #[error("no page is left to share")]
    OutOfPages,
    /// The page could not be given up.
    #[error("a page cannot be given up: {0}")]
    Rmp(RmpFailure),
    /// The host did not take it.
    #[error(transparent)]
    Host(E),
}

fn shared_page(page: u64) -> SharedPage {
    let address = usize::try_from(page).expect("addresses are 64 bits");
    let start = NonNull::new(ptr::with_exposed_provenance_mut(address));
    let start = start.expect("the pool does not hold address 0");
    // SAFETY: 1. the page is mapped one to one and never unmapped. 2. It comes from the pool and is handed out once.
    unsafe { SharedPage::new(start) }
}

/// Returns what of the paravisor's 8 MiB is mapped, and how. All but the last 2 MiB get 4 KiB entries, as no range there fills
/// 2 MiB: guard pages are taken out of [`PAGES`].
fn own_ranges() -> [(Range<u64>, Access); 13] {
    let page = |address| address..address + PAGE_SIZE;
    let whole = |range: Range<u64>| range.start..range.end.next_multiple_of(PAGE_SIZE);
    let pages_split = PAGES.start + (1 << 20);
    let heap_split = paravisor::END - LARGE_PAGE_SIZE;
    [
        (page(paravisor::CPUID_PAGE), Access::Read),
        (page(paravisor::SECRETS_PAGE), Access::ReadWrite),
        (page(paravisor::MANIFEST_PAGE), Access::Read),
        (page(paravisor::PARAMETERS_PAGE), Access::Read),
        (
            paravisor::STACK_BASE..paravisor::STACK_TOP,
            Access::ReadWrite,
        ),
        (whole(image::text()), Access::Execute),
        (whole(image::rodata()), Access::Read),
        (whole(image::data()), Access::ReadWrite),
        (
            image::end().next_multiple_of(PAGE_SIZE)..paravisor::IMAGE_END,
            Access::ReadWrite,
        ),
        (PAGES.start..pages_split, Access::ReadWrite),
        (pages_split..PAGES.end, Access::ReadWrite),
        (HEAP.start..heap_split, Access::ReadWrite),
        (heap_split..HEAP.end, Access::ReadWrite),
    ]
}
