//! A string between a driver's memory and a device's buffer, taken whole: REP MOVSD.
//!
//! Linux's `memcpy_toio` and `memcpy_fromio` go on with up to three bytes that are no whole element, by two tests and two moves. Those make
//! an exit each, so where exactly that code follows, its bytes are of the same string. The driver's memory is found by a walk that checks
//! rights; whatever is not RAM there, or not quite of this kind, is left to the emulator.

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory, MemoryError};
use stockade_intercept::walk::{self, Access, WalkContext};

use super::{WINDOW, instruction};
use crate::gpr;
use crate::vcpu::TRANSLATED_BITS;

const PAGE_BYTES: u64 = 0x1000;
/// Bytes moved at a time.
const CHUNK: usize = 256;
const ELEMENT: u64 = 4;

const REP_MOVSD: [u8; 2] = [0xF3, 0xA5];
/// With what Linux has behind it.
const WHOLE_BYTES: u8 = 15;

const RFLAGS_DF: u64 = 1 << 10;
const RFLAGS_PF: u64 = 1 << 2;
const RFLAGS_ZF: u64 = 1 << 6;
/// CF, PF, ZF, SF, OF. What TEST makes of AF is undefined; it stays.
const RFLAGS_OF_TEST: u64 = 1 | RFLAGS_PF | RFLAGS_ZF | 1 << 7 | 1 << 11;

/// Which way a string goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the device.
    Out,
    /// From the device.
    In,
}

/// Part of a string in RAM, on one page.
type Piece = (Gpa, usize);

/// A string to be moved. It ends on the device's page, so it lies on two of RAM's at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StringMove {
    pub(crate) way: Way,
    pieces: [Piece; 2],
    code: Code,
}

/// What is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Code {
    /// How many bytes it moves.
    moves: u64,
    /// How long it is.
    len: u8,
    /// What its last test leaves in RFLAGS, if it has one.
    flags: Option<u64>,
}

impl StringMove {
    /// Moves the string by `transfer`, which has some of its bytes, those it is to take or those it is to fill in, and where in the string
    /// they are.
    pub(crate) fn carry_out(
        &self,
        memory: &dyn GuestMemory,
        mut transfer: impl FnMut(u64, &mut [u8]),
    ) -> Result<(), MemoryError> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        for (mut gpa, mut left) in self.pieces {
            while left > 0 {
                let part = &mut chunk[..left.min(CHUNK)];
                if self.way == Way::Out {
                    memory.read(gpa, part)?;
                }
                transfer(done, part);
                if self.way == Way::In {
                    memory.write(gpa, part)?;
                }
                done += part.len() as u64;
                left -= part.len();
                // It stays within its page.
                gpa = Gpa(gpa.0.wrapping_add(part.len() as u64));
            }
        }
        Ok(())
    }

    /// Completes the code.
    pub(crate) fn complete(&self, vmsa: &mut Vmsa) {
        vmsa.rcx = 0;
        vmsa.rsi = vmsa.rsi.wrapping_add(self.code.moves);
        vmsa.rdi = vmsa.rdi.wrapping_add(self.code.moves);
        if let Some(flags) = self.code.flags {
            vmsa.rflags = vmsa.rflags & !RFLAGS_OF_TEST | flags;
        }
        gpr::advance(vmsa, self.code.len);
    }
}

/// Returns the string whose first element at `gpa` a fault was for, if it is of this kind.
pub(crate) fn decode(
    vmsa: &Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Option<StringMove> {
    let bytes = instruction(vmsa, memory, info)?;
    let (way, device) = if info.contains(NpfInfo::WRITE) {
        (Way::Out, vmsa.rdi)
    } else {
        (Way::In, vmsa.rsi)
    };
    if device & (PAGE_BYTES - 1) != gpa.page_offset() {
        return None;
    }
    let code = code(&bytes, vmsa, PAGE_BYTES - gpa.page_offset())?;
    let pieces = pieces(vmsa, memory, way, code.moves)?;
    Some(StringMove { way, pieces, code })
}

/// Takes REP MOVSD of up to `room` bytes, and what is known to follow it.
fn code(bytes: &[u8; WINDOW], vmsa: &Vmsa, room: u64) -> Option<Code> {
    let elements = vmsa.rcx.checked_mul(ELEMENT)?;
    let is_upward = vmsa.rflags & RFLAGS_DF == 0;
    if bytes[..2] != REP_MOVSD || !is_upward || elements == 0 || elements > room {
        return None;
    }
    let alone = Code {
        moves: elements,
        len: 2,
        flags: None,
    };
    let whole = rest(bytes, vmsa).map(|(rest, flags)| Code {
        moves: elements + rest,
        len: WHOLE_BYTES,
        flags: Some(flags),
    });
    Some(whole.filter(|code| code.moves <= room).unwrap_or(alone))
}

/// Takes `testb $2, r; jz 1f; movsw; 1: testb $1, r; jz 2f; movsb; 2:` behind the elements. Returns how many bytes it moves, and the flags
/// it leaves.
fn rest(bytes: &[u8; WINDOW], vmsa: &Vmsa) -> Option<(u64, u64)> {
    let tested = bytes[3];
    let code = [
        0xF6, tested, 2, 0x74, 2, 0x66, 0xA5, 0xF6, tested, 1, 0x74, 1, 0xA4,
    ];
    if bytes[2..usize::from(WHOLE_BYTES)] != code {
        return None;
    }
    // Without a prefix it is AL, CL, DL or BL, and CL has been counted down.
    let register = match tested {
        0xC0 => vmsa.rax,
        0xC2 => vmsa.rdx,
        0xC3 => vmsa.rbx,
        _ => return None,
    };
    // Zero has an even number of ones.
    let flags = [RFLAGS_ZF | RFLAGS_PF, 0][usize::from(register & 1 != 0)];
    Some((register & 3, flags))
}

/// Finds the driver's memory, if all of it is what the driver may access, and RAM.
fn pieces(vmsa: &Vmsa, memory: &dyn GuestMemory, way: Way, bytes: u64) -> Option<[Piece; 2]> {
    let (linear, access) = match way {
        Way::Out => (vmsa.rsi, Access::Read),
        Way::In => (vmsa.rdi, Access::Write),
    };
    let context = WalkContext::new(vmsa, TRANSLATED_BITS);
    let place = |linear, bytes| {
        let found = walk::translate(&context, memory, linear, access).ok()?;
        let bytes = usize::try_from(bytes).ok()?;
        memory.is_ram(found.gpa).then_some((found.gpa, bytes))
    };
    let room = PAGE_BYTES - linear % PAGE_BYTES;
    if bytes <= room {
        return Some([place(linear, bytes)?, (Gpa(0), 0)]);
    }
    let next = linear.checked_add(room)?;
    Some([place(linear, room)?, place(next, bytes - room)?])
}

#[cfg(test)]
mod tests;
