//! Calls of routines in real mode, protected mode and compatibility mode; the routines are in `legacy_routines.s`.

use core::arch::global_asm;
use core::ptr;

use super::memory::{read32, write32};

global_asm!(
    include_str!("legacy.s"),
    include_str!("legacy_routines.s"),
    options(att_syntax)
);

/// Where the blob runs.
const BLOB: u64 = 0x9000;
/// Where routines are given values and leave them, 4 bytes each.
const VALUES: u64 = 0xB100;
/// Physical memory for page tables of 32-bit routines.
pub(crate) const TABLES: u64 = 0x1_0000;
/// Memory for string operations of routines, 4 KiB.
pub(crate) const BUFFER: u64 = 0xC000;

unsafe extern "C" {
    static legacy_blob: u8;
    static legacy_blob_end: u8;
    fn legacy_call(routine: u32, mode: u32);
}

/// The processor mode a routine runs in; paging off but in compatibility mode.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// Real mode, all segments at 0.
    Real = 0,
    /// Protected mode, 16-bit segments at 0.
    Protected16 = 1,
    /// Protected mode, flat 32-bit segments.
    Protected32 = 2,
    /// 32-bit code under the 64-bit page tables.
    Compatibility = 3,
}

/// Returns where a routine of the blob is when it runs.
pub(crate) fn address(routine: *const u8) -> u32 {
    let start = &raw const legacy_blob;
    (BLOB + (routine.addr() - start.addr()) as u64) as u32
}

/// Calls a routine of the blob with these values and returns what stands in their place afterwards.
pub(crate) fn run(mode: Mode, routine: *const u8, values: &[u32]) -> [u32; 16] {
    let start = &raw const legacy_blob;
    let length = (&raw const legacy_blob_end).addr() - start.addr();
    unsafe { ptr::copy_nonoverlapping(start, BLOB as *mut u8, length) };
    for place in 0..16 {
        let value = values.get(place).copied().unwrap_or(0);
        write32(VALUES + place as u64 * 4, value);
    }
    unsafe { legacy_call(address(routine), mode as u32) };
    core::array::from_fn(|place| read32(VALUES + place as u64 * 4))
}
