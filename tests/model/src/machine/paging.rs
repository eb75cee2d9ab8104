//! The model's own page tables: one to one in pages of 1 GiB, as the assembly made them, and finer where a page is to be absent.
//!
//! [`guard`] makes a page absent, so that a stack that overflows, or a null pointer, is an exception instead of a riddle.

use spin::Mutex;

use super::frames;
use super::memory::HostPa;

/// One change at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Present, writable, accessed, dirty. APM vol. 2, 5.4.1.
const MAPPED: u64 = 0x63;
/// A large page.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// Makes a page of the lowest 512 GiB absent; says whether it could.
///
/// # Safety
///
/// 1. Nobody uses the page through the model's mapping, now or later.
pub(super) unsafe fn guard(page: HostPa) -> bool {
    let _turn = TURN.lock();
    // SAFETY: CR3 is readable at ring 0.
    let mut table = unsafe { x86::controlregs::cr3() } & ADDRESS;
    for level in (1..5).rev() {
        let slot = slot(table, page, level);
        // SAFETY: the tables CR3 leads to are live, aligned, and changed only under the lock.
        let entry = unsafe { slot.read_volatile() };
        let next = if entry & LARGE != 0 {
            split(entry, level)
        } else {
            Some(entry)
        };
        let Some(next) = next else { return false };
        // SAFETY: as above; a split entry leads to the same memory as before.
        unsafe { slot.write_volatile(next) };
        table = next & ADDRESS;
    }
    // SAFETY: as above; nobody uses the page (1).
    unsafe { slot(table, page, 0).write_volatile(0) };
    // SAFETY: only forgets translations.
    unsafe { x86::tlb::flush_all() };
    true
}

/// Whether `page`, of the lowest 512 GiB, is mapped: no guard page.
pub(crate) fn is_mapped(page: HostPa) -> bool {
    let _turn = TURN.lock();
    // SAFETY: CR3 is readable at ring 0.
    let mut table = unsafe { x86::controlregs::cr3() } & ADDRESS;
    for level in (0..5).rev() {
        // SAFETY: the tables CR3 leads to are live, aligned, and changed only under the lock.
        let entry = unsafe { slot(table, page, level).read_volatile() };
        if entry & 1 == 0 {
            return false;
        }
        if entry & LARGE != 0 && level > 0 {
            return true;
        }
        table = entry & ADDRESS;
    }
    true
}

/// The entry for `page` in a table of `level`, 0 being the last.
fn slot(table: u64, page: HostPa, level: u32) -> *mut u64 {
    let index = (page.as_u64() >> (12 + 9 * level)) & 0x1FF;
    HostPa::new(table + index * 8).as_ptr()
}

/// Makes a table of the next finer pages; `None` when memory is exhausted.
fn split(entry: u64, level: u32) -> Option<u64> {
    let table = frames::allocate_page()?;
    let flags = if level == 1 { MAPPED } else { MAPPED | LARGE };
    for index in 0..512 {
        let address = (entry & ADDRESS) + (index << (12 + 9 * (level - 1)));
        let slot = HostPa::new(table.as_u64() + index * 8).as_ptr::<u64>();
        // SAFETY: a page of our own with 512 entries.
        unsafe { slot.write(address | flags) };
    }
    Some(table.as_u64() | MAPPED)
}
