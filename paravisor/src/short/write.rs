//! A write to a device's register: MOV of 32 bits from a register or an immediate.

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory};

use super::{Operands, WINDOW, four, instruction, operands};
use crate::gpr;

/// A write to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegisterWrite {
    /// What is written.
    pub(crate) value: u32,
    /// The instruction's length.
    len: u8,
}

impl RegisterWrite {
    /// Completes the instruction.
    pub(crate) fn complete(self, vmsa: &mut Vmsa) {
        gpr::advance(vmsa, self.len);
    }
}

/// Returns the write to `gpa` a fault was for, if it is of the short kind.
pub(crate) fn decode(
    vmsa: &Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Option<RegisterWrite> {
    let is_write = info.contains(NpfInfo::WRITE);
    let bytes = is_write.then(|| instruction(vmsa, memory, info))??;
    parse(&bytes, vmsa, gpa)
}

/// Takes MOV r/m32, r32 and MOV r/m32, imm32 with a base and perhaps a displacement, to `gpa` within its page.
fn parse(bytes: &[u8; WINDOW], vmsa: &Vmsa, gpa: Gpa) -> Option<RegisterWrite> {
    let Operands {
        opcode,
        number,
        mut end,
    } = operands(bytes, vmsa, gpa)?;
    let value = match (opcode, number) {
        (0x89, _) => {
            let [a, b, c, d, ..] = gpr::value(vmsa, number).to_le_bytes();
            u32::from_le_bytes([a, b, c, d])
        }
        (0xC7, 0) => {
            end += 4;
            u32::from_le_bytes(four(bytes, end - 4))
        }
        _ => return None,
    };
    let len = u8::try_from(end).ok()?;
    Some(RegisterWrite { value, len })
}
