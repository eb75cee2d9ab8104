//! Taking over the guest's memory: each page validated once, then opened to VMPL2 (APM vol. 2, 15.36.3 and 15.36.6).

use core::ops::Range;

use stockade_abi::rmp::{PageSize, RmpError, RmpPermissions, VmsaPage};
use stockade_boot::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};
use stockade_boot::ram::RamMap;

use super::PageStates;
use crate::processor::{RmpFailure, Validation, pvalidate, rmpadjust};
use crate::vmsa::GUEST_VMPL;

/// A page the host did not give us properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest page at {gpa:#x}: {failure}")]
pub(crate) struct AcceptError {
    gpa: u64,
    failure: RmpFailure,
}

/// Accepts all of `map`, mapped with the C-bit at its address plus `window`, in 2 MiB steps where the host allows.
///
/// # Safety
/// 1. Every range of `map` is mapped there, by entries of at least 2 MiB where aligned, and no Rust object lies in it.
pub(crate) unsafe fn accept(map: &RamMap, window: u64) -> Result<PageStates, AcceptError> {
    let mut states = PageStates::default();
    for range in map.ranges() {
        let mut gpa = range.start;
        while gpa < range.end {
            let is_large =
                gpa.is_multiple_of(LARGE_PAGE_SIZE) && range.end - gpa >= LARGE_PAGE_SIZE;
            let bytes = if is_large { LARGE_PAGE_SIZE } else { PAGE_SIZE };
            // SAFETY: 1. is the caller's promise.
            unsafe { accept_chunk(gpa, bytes, window) }?;
            let unchanged = |_| AcceptError {
                gpa,
                failure: RmpFailure::Unchanged,
            };
            states.accept(gpa, bytes).map_err(unchanged)?;
            gpa += bytes;
        }
    }
    Ok(states)
}

/// Accepts memory of our own, mapped one to one with the C-bit, for VMPL0 alone.
///
/// # Safety
/// 1. The range is mapped so, in large pages, and no Rust object lies in it.
pub(crate) unsafe fn accept_own(range: Range<u64>) -> Result<(), AcceptError> {
    let validate = |gpa, size| {
        // SAFETY: 1. and 2. mapped with the C-bit and without Rust objects, as the caller promises. An unchanged page is refused.
        unsafe { pvalidate(gpa, size, Validation::Valid) }
            .map_err(|failure| AcceptError { gpa, failure })
    };
    for gpa in range.step_by(0x20_0000) {
        match validate(gpa, PageSize::SIZE_2M) {
            Err(AcceptError {
                failure: RmpFailure::Error(RmpError::FAIL_SIZE_MISMATCH),
                ..
            }) => {
                let mut pages = (gpa..gpa + LARGE_PAGE_SIZE).step_by(0x1000);
                pages.try_for_each(|page| validate(page, PageSize::SIZE_4K))?;
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Accepts read-only memory of the guest, mapped with the C-bit at its address plus `window`. Nobody but us may use it yet.
///
/// # Safety
/// 1. As for [`accept`], in pages of any size.
pub(crate) unsafe fn accept_rom(range: Range<u64>, window: u64) -> Result<(), AcceptError> {
    for_pages(range, |gpa, size| {
        // SAFETY: 1. and 2. mapped with the C-bit and without Rust objects, as the caller promises. An unchanged page is refused.
        unsafe { pvalidate(window + gpa, size, Validation::Valid) }
    })
    .map_err(|(gpa, failure)| AcceptError { gpa, failure })
}

/// Lets the guest read and execute read-only memory.
///
/// # Safety
/// 1. It was accepted by [`accept_rom`] with the same window.
pub(crate) unsafe fn open_rom(range: Range<u64>, window: u64) -> Result<(), RmpFailure> {
    let rights = RmpPermissions::READ_EXECUTE;
    for_pages(range, |gpa, size| {
        // SAFETY: 1. mapped and validated, as the caller promises. 2. The memory is never referred to; it becomes no VMSA.
        unsafe { rmpadjust(window + gpa, size, GUEST_VMPL, rights, VmsaPage::No) }
    })
    .map_err(|(_, failure)| failure)
}

/// Does `work` with every page of a range, in large pages where the host backs it so. Returns where it failed.
fn for_pages(
    range: Range<u64>,
    mut work: impl FnMut(u64, PageSize) -> Result<(), RmpFailure>,
) -> Result<(), (u64, RmpFailure)> {
    let mut gpa = range.start;
    while gpa < range.end {
        let is_large = gpa.is_multiple_of(LARGE_PAGE_SIZE) && range.end - gpa >= LARGE_PAGE_SIZE;
        if is_large {
            match work(gpa, PageSize::SIZE_2M) {
                Err(RmpFailure::Error(RmpError::FAIL_SIZE_MISMATCH)) => {}
                outcome => {
                    outcome.map_err(|failure| (gpa, failure))?;
                    gpa += LARGE_PAGE_SIZE;
                    continue;
                }
            }
        }
        let end = if is_large {
            gpa + LARGE_PAGE_SIZE
        } else {
            gpa + PAGE_SIZE
        };
        while gpa < end {
            work(gpa, PageSize::SIZE_4K).map_err(|failure| (gpa, failure))?;
            gpa += PAGE_SIZE;
        }
    }
    Ok(())
}

/// Accepts one large page, in small pages if the host backs it so, or one small page.
///
/// # Safety
/// 1. As for [`accept`].
unsafe fn accept_chunk(gpa: u64, bytes: u64, window: u64) -> Result<(), AcceptError> {
    if bytes == LARGE_PAGE_SIZE {
        // SAFETY: 1. is the caller's promise.
        match unsafe { accept_page(gpa, PageSize::SIZE_2M, window) } {
            Err(AcceptError {
                failure: RmpFailure::Error(RmpError::FAIL_SIZE_MISMATCH),
                ..
            }) => {}
            outcome => return outcome,
        }
    }
    for index in 0..bytes / PAGE_SIZE {
        // SAFETY: 1. is the caller's promise.
        unsafe { accept_page(gpa + index * PAGE_SIZE, PageSize::SIZE_4K, window) }?;
    }
    Ok(())
}

/// Validates a page and opens it to the guest.
///
/// # Safety
/// 1. As for [`accept`].
unsafe fn accept_page(gpa: u64, size: PageSize, window: u64) -> Result<(), AcceptError> {
    let address = window + gpa;
    let failed = |failure| AcceptError { gpa, failure };
    // SAFETY: 1. and 2. mapped with the C-bit and without Rust objects, as the caller promises. An unchanged page is refused,
    // so the host cannot have it validated twice.
    unsafe { pvalidate(address, size, Validation::Valid) }.map_err(failed)?;
    let all = RmpPermissions::READ_WRITE_EXECUTE;
    // SAFETY: 1. mapped, and validated by the line above. 2. Guest RAM is never referred to; it becomes no VMSA.
    unsafe { rmpadjust(address, size, GUEST_VMPL, all, VmsaPage::No) }.map_err(failed)
}
