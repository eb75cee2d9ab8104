//! Instructions taken short: what 64-bit kernel code does to devices most, a fifth of what the emulator takes for it.
//!
//! [`mod@write`] and [`read`] move 32 bits between a register of the processor's and one of a device's, [`string`] moves a string. The instruction is
//! found by a walk that checks no rights: the processor has just executed it, so they were there. Whatever is not exactly of these forms is
//! left to the emulator, which does all there is.

pub(crate) mod read;
pub(crate) mod string;
pub(crate) mod write;

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::debug;
use stockade_intercept::walk::control::{CR4_LA57, EFER_LMA};

use crate::gpr;

const ENTRY_PRESENT: u64 = 1 << 0;
const ENTRY_LARGE: u64 = 1 << 7;
/// Bits 51:12: where a page or a table is.
const ENTRY_FRAME: u64 = 0xF_FFFF_FFFF_F000;
/// As many bytes as the longest form has, in two words.
const WINDOW: usize = 16;

/// Returns the bytes of an instruction of 64-bit kernel code that nobody watches, if the fault is for its data.
fn instruction(vmsa: &Vmsa, memory: &dyn GuestMemory, info: NpfInfo) -> Option<[u8; WINDOW]> {
    let is_data = info.contains(NpfInfo::FINAL_GPA)
        && !info.intersects(NpfInfo::PAGE_TABLE_WALK.union(NpfInfo::FETCH));
    let is_long_mode = vmsa.efer & EFER_LMA != 0 && vmsa.cs.attributes.long();
    if !is_data
        || !is_long_mode
        || vmsa.cpl != 0
        || debug::is_watched(vmsa)
        || vmsa.event_inj.valid()
    {
        return None;
    }
    fetch(vmsa, memory)
}

/// Reads the bytes at RIP, unless they end on another page.
fn fetch(vmsa: &Vmsa, memory: &dyn GuestMemory) -> Option<[u8; WINDOW]> {
    if vmsa.rip & 0xFFF > 0x1000 - WINDOW as u64 {
        return None;
    }
    let at = walk(vmsa, memory)?;
    let words = [at, at.checked_add(8)?].map(|at| memory.read_u64(at));
    let [Ok(low), Ok(high)] = words else {
        return None;
    };
    Some((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
}

/// Finds the code RIP points at (APM vol. 2, 5.3.3).
fn walk(vmsa: &Vmsa, memory: &dyn GuestMemory) -> Option<Gpa> {
    let levels = if vmsa.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = vmsa.cr3 & ENTRY_FRAME;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let at = Gpa(table | (vmsa.rip >> shift & 0x1FF) << 3);
        let entry = memory.read_u64(at).ok()?;
        if entry & ENTRY_PRESENT == 0 {
            return None;
        }
        if level == 0 || ((level == 1 || level == 2) && entry & ENTRY_LARGE != 0) {
            let offset = (1 << shift) - 1;
            return Some(Gpa(entry & ENTRY_FRAME & !offset | vmsa.rip & offset));
        }
        table = entry & ENTRY_FRAME;
    }
    None
}

/// What an instruction with a memory operand begins with.
struct Operands {
    opcode: u8,
    /// Of a register, or what extends the opcode.
    number: u8,
    /// Bytes up to an immediate.
    end: usize,
}

/// Returns that of an instruction of 32 bits whose operand is at `gpa` within its page.
fn operands(bytes: &[u8; WINDOW], vmsa: &Vmsa, gpa: Gpa) -> Option<Operands> {
    const REX: u8 = 0x40;
    const REX_W: u8 = 1 << 3;
    const REX_R: u8 = 1 << 2;
    const REX_X_OR_W: u8 = 1 << 1 | REX_W;
    let (rex, at) = match bytes[0] {
        prefix if prefix & 0xF0 == REX => (prefix, 1),
        _ => (0, 0),
    };
    if rex & REX_X_OR_W != 0 {
        return None;
    }
    let (opcode, modrm) = (bytes[at], bytes[at + 1]);
    let (mode, base) = (modrm >> 6, modrm & 7);
    // No index, no address relative to RIP, no register.
    if mode == 3 || base == 4 || (mode == 0 && base == 5) {
        return None;
    }
    let mut end = at + 2;
    let displacement = match mode {
        0 => 0,
        1 => i64::from(i8::from_le_bytes([bytes[end]])),
        _ => i64::from(i32::from_le_bytes(four(bytes, end))),
    };
    end += [0, 1, 4][usize::from(mode)];
    let address = gpr::value(vmsa, base | (rex & 1) << 3).wrapping_add_signed(displacement);
    let number = modrm >> 3 & 7 | (rex & REX_R) << 1;
    (address & 0xFFF == gpa.page_offset()).then_some(Operands {
        opcode,
        number,
        end,
    })
}

/// The longest form has 11 bytes, so the window has them all.
fn four(bytes: &[u8; WINDOW], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

#[cfg(test)]
mod tests;
