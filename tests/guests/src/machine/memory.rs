//! Memory and memory-mapped registers by exact instructions, and a window of single pages that a check maps as it likes.

use core::arch::asm;
use core::ptr;

/// Where the window starts; it has [`WINDOW_PAGES`] pages, all absent until mapped.
pub(crate) const WINDOW: u64 = 0x80_0000_0000;
const WINDOW_PAGES: usize = 512;

/// Bits of a page-table entry.
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const UNCACHED: u64 = 1 << 4;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

unsafe extern "C" {
    static mut window_pt: [u64; WINDOW_PAGES];
}

/// What LIDT and LGDT read.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(crate) struct Pointer {
    limit: u16,
    base: u64,
}

impl Pointer {
    /// Returns a pointer to a table of `limit + 1` bytes.
    pub(crate) fn new(base: u64, limit: u16) -> Self {
        Self { limit, base }
    }
}

/// Returns the address of a page of the window.
pub(crate) fn window(page: usize) -> u64 {
    WINDOW + page as u64 * 0x1000
}

/// Sets the entry of a page of the window and returns its address.
pub(crate) fn map(page: usize, entry: u64) -> u64 {
    unsafe {
        let table = (&raw mut window_pt).cast::<u64>();
        table.add(page % WINDOW_PAGES).write_volatile(entry);
    }
    let address = window(page);
    unsafe { asm!("invlpg [{}]", in(reg) address) };
    address
}

/// Returns the entry of a page of the window, as the processor left it.
pub(crate) fn entry(page: usize) -> u64 {
    unsafe {
        (&raw const window_pt)
            .cast::<u64>()
            .add(page % WINDOW_PAGES)
            .read_volatile()
    }
}

/// Takes all pages out of the window.
pub(crate) fn unmap_all() {
    for page in 0..32 {
        if entry(page) != 0 {
            map(page, 0);
        }
    }
}

/// Reads a byte by MOV.
pub(crate) fn read8(address: u64) -> u8 {
    let value;
    unsafe { asm!("mov {}, [{}]", out(reg_byte) value, in(reg) address) };
    value
}

/// Reads a word by MOV.
pub(crate) fn read16(address: u64) -> u16 {
    let value;
    unsafe { asm!("mov {:x}, [{}]", out(reg) value, in(reg) address) };
    value
}

/// Reads a double word by MOV.
pub(crate) fn read32(address: u64) -> u32 {
    let value;
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address) };
    value
}

/// Reads a quad word by MOV.
pub(crate) fn read64(address: u64) -> u64 {
    let value;
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address) };
    value
}

/// Writes a byte by MOV.
pub(crate) fn write8(address: u64, value: u8) {
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg_byte) value) };
}

/// Writes a word by MOV.
pub(crate) fn write16(address: u64, value: u16) {
    unsafe { asm!("mov [{}], {:x}", in(reg) address, in(reg) value) };
}

/// Writes a double word by MOV.
pub(crate) fn write32(address: u64, value: u32) {
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value) };
}

/// Writes a quad word by MOV.
pub(crate) fn write64(address: u64, value: u64) {
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value) };
}

/// A page of RAM for checks.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Page(core::cell::UnsafeCell<[u8; 4096]>);
// Reached by raw pointers only.
unsafe impl Sync for Page {}

impl Page {
    const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; 4096]))
    }

    /// Returns its address, virtual and physical.
    pub(crate) fn address(&self) -> u64 {
        self.0.get().addr() as u64
    }

    /// Fills it with a byte.
    pub(crate) fn fill(&self, byte: u8) {
        unsafe { ptr::write_bytes(self.0.get().cast::<u8>(), byte, 4096) };
    }
}

/// Pages of RAM for checks, of no meaning between two checks.
pub(crate) static SPARE: [Page; 8] = [const { Page::new() }; 8];
