//! The commonest exit of a guest in xAPIC mode, taken short: 64-bit kernel code moves 32 bits to a register of its local APIC.
//!
//! [`decode`] reads the instruction by a walk that checks no rights: the processor has just executed it, so they were there. Whatever is
//! not exactly one of two forms of MOV is left to the emulator, which is slower by a factor of five and does all there is.

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::debug;

const EFER_LMA: u64 = 1 << 10;
const CR4_LA57: u64 = 1 << 12;
pub(crate) const RFLAGS_RF: u64 = 1 << 16;
const ENTRY_PRESENT: u64 = 1 << 0;
const ENTRY_LARGE: u64 = 1 << 7;
/// Bits 51:12: where a page or a table is.
const ENTRY_FRAME: u64 = 0xF_FFFF_FFFF_F000;
/// As many bytes as the longest form has, in two words.
pub(crate) const WINDOW: usize = 16;

/// A write to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApicWrite {
    /// What is written.
    pub(crate) value: u32,
    /// The instruction's length.
    len: u8,
}

impl ApicWrite {
    /// Completes the instruction.
    pub(crate) fn complete(self, vmsa: &mut Vmsa) {
        vmsa.rip = vmsa.rip.wrapping_add(u64::from(self.len));
        vmsa.rflags &= !RFLAGS_RF;
        vmsa.vintr_ctrl.set_int_shadow(false);
    }
}

/// Returns the write to `gpa` a fault was for, if it is of the short kind.
pub(crate) fn decode(
    vmsa: &Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Option<ApicWrite> {
    let is_write = info.contains(NpfInfo::WRITE);
    let bytes = is_write.then(|| instruction(vmsa, memory, info))??;
    parse(&bytes, vmsa, gpa)
}

/// Returns the bytes of an instruction of 64-bit kernel code that nobody watches, if the fault is for its data.
pub(crate) fn instruction(
    vmsa: &Vmsa,
    memory: &dyn GuestMemory,
    info: NpfInfo,
) -> Option<[u8; WINDOW]> {
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

/// Finds the code RIP points at (APM volume 2, 5.3.3).
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

/// Takes MOV r/m32, r32 and MOV r/m32, imm32 with a base and perhaps a displacement, to `gpa` within its page.
fn parse(bytes: &[u8; WINDOW], vmsa: &Vmsa, gpa: Gpa) -> Option<ApicWrite> {
    let Operands {
        opcode,
        number,
        mut end,
    } = operands(bytes, vmsa, gpa)?;
    let value = match (opcode, number) {
        (0x89, _) => {
            let [a, b, c, d, ..] = register(vmsa, number).to_le_bytes();
            u32::from_le_bytes([a, b, c, d])
        }
        (0xC7, 0) => {
            end += 4;
            u32::from_le_bytes(four(bytes, end - 4))
        }
        _ => return None,
    };
    let len = u8::try_from(end).ok()?;
    Some(ApicWrite { value, len })
}

/// What an instruction with a memory operand begins with.
pub(crate) struct Operands {
    pub(crate) opcode: u8,
    /// Of a register, or what extends the opcode.
    pub(crate) number: u8,
    /// Bytes up to an immediate.
    pub(crate) end: usize,
}

/// Returns that of an instruction of 32 bits whose operand is at `gpa` within its page.
pub(crate) fn operands(bytes: &[u8; WINDOW], vmsa: &Vmsa, gpa: Gpa) -> Option<Operands> {
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
    let address = register(vmsa, base | (rex & 1) << 3).wrapping_add_signed(displacement);
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

fn register(vmsa: &Vmsa, number: u8) -> u64 {
    match number {
        0 => vmsa.rax,
        1 => vmsa.rcx,
        2 => vmsa.rdx,
        3 => vmsa.rbx,
        4 => vmsa.rsp,
        5 => vmsa.rbp,
        6 => vmsa.rsi,
        7 => vmsa.rdi,
        8 => vmsa.r8,
        9 => vmsa.r9,
        10 => vmsa.r10,
        11 => vmsa.r11,
        12 => vmsa.r12,
        13 => vmsa.r13,
        14 => vmsa.r14,
        _ => vmsa.r15,
    }
}

#[cfg(test)]
pub(crate) mod tests;
