//! The few instructions that are intercepted, told from their bytes, and how long they are.
//!
//! QEMU gives no next RIP but for port accesses. All the others are an opcode of fixed length after any prefixes, so no
//! general decoder is needed (the paravisor uses one; the model shares nothing with it).

/// The longest instruction.
pub const MAX_LENGTH: usize = 15;

/// An instruction the model cares about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// REP VMMCALL (or REPNE, APM vol. 3): call the host.
    Vmgexit,
    /// Without a prefix.
    Vmmcall,
    /// F2 0F 01 FF.
    Pvalidate,
    /// F3 0F 01 FE.
    Rmpadjust,
    /// F3 0F 01 FD.
    Rmpquery,
    /// F3 0F 01 FF and F2 0F 01 FE: the host's, #UD in a guest.
    HostOnly,
    /// MOV to control register `control` from general register `general`.
    MoveToControl {
        /// Number of the control register.
        control: u8,
        /// Number of the general register.
        general: u8,
    },
    /// INT1, which QEMU takes for undefined.
    Icebp,
    /// INVLPG, INVLPGA, SIDT … whatever else is 0F 01 with a register form or without.
    Other,
}

/// An instruction and its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// What it is.
    pub instruction: Instruction,
    /// Bytes.
    pub length: u8,
}

/// Whether the code segment is 64-bit: there 40 to 4F are prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// 16 or 32 bits.
    Legacy,
    /// 64 bits.
    Long,
}

/// The memory side of INS or OUTS, of which QEMU's exit says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringSide {
    /// Width of the address register in bytes.
    pub address_bytes: u8,
    /// ES, CS, SS, DS, FS, GS from 0.
    pub segment: u8,
}

/// Reads the prefixes of the INS or OUTS at the start of `bytes`; `address_bytes` is what addresses have without any.
/// `None` when it is neither.
pub fn string_side(bytes: &[u8], address_bytes: u8) -> Option<StringSide> {
    const ES: u8 = 0;
    const DS: u8 = 3;
    let mut side = StringSide {
        address_bytes,
        segment: DS,
    };
    for byte in bytes {
        match byte {
            0x26 => side.segment = 0,
            0x2E => side.segment = 1,
            0x36 => side.segment = 2,
            0x3E => side.segment = DS,
            0x64 => side.segment = 4,
            0x65 => side.segment = 5,
            0x67 => side.address_bytes = if address_bytes == 4 { 2 } else { 4 },
            0x66 | 0xF0 | 0xF2 | 0xF3 => {}
            0x40..=0x4F if address_bytes == 8 => {}
            // INS stores to ES whatever its prefixes.
            0x6C | 0x6D => {
                side.segment = ES;
                return Some(side);
            }
            0x6E | 0x6F => return Some(side),
            _ => return None,
        }
    }
    None
}

/// Decodes the intercepted instruction at the start of `bytes`; `None` when it is none that can be intercepted here, or
/// the bytes end early.
pub fn decode(bytes: &[u8], size: CodeSize) -> Option<Decoded> {
    let bytes = &bytes[..bytes.len().min(MAX_LENGTH)];
    let mut repeat = None;
    let mut rex = 0;
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            prefix @ (0xF2 | 0xF3) => repeat = Some(prefix),
            0x66 | 0x67 | 0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0xF0 => {}
            prefix @ 0x40..=0x4F if size == CodeSize::Long => {
                rex = prefix;
                at += 1;
                break;
            }
            _ => break,
        }
        at += 1;
    }
    let (instruction, opcode_length) = match *bytes.get(at)? {
        // HLT.
        0xF4 => (Instruction::Other, 1),
        0xF1 => (Instruction::Icebp, 1),
        0x0F => two_byte(&bytes[at + 1..], repeat, rex)?,
        _ => return None,
    };
    let length = u8::try_from(at + opcode_length).ok()?;
    Some(Decoded {
        instruction,
        length,
    })
}

fn two_byte(bytes: &[u8], repeat: Option<u8>, rex: u8) -> Option<(Instruction, usize)> {
    Some(match *bytes.first()? {
        // INVD, WBINVD, WRMSR, RDTSC, RDMSR, RDPMC, CPUID.
        0x08 | 0x09 | 0x30..=0x33 | 0xA2 => (Instruction::Other, 2),
        0x22 => {
            let modrm = *bytes.get(1)?;
            let control = modrm >> 3 & 7 | (rex & 4) << 1;
            let general = modrm & 7 | (rex & 1) << 3;
            (Instruction::MoveToControl { control, general }, 3)
        }
        0x01 => {
            let modrm = *bytes.get(1)?;
            let instruction = match (repeat, modrm) {
                (Some(_), 0xD9) => Instruction::Vmgexit,
                (None, 0xD9) => Instruction::Vmmcall,
                (Some(0xF2), 0xFF) => Instruction::Pvalidate,
                (Some(0xF3), 0xFE) => Instruction::Rmpadjust,
                (Some(0xF3), 0xFD) => Instruction::Rmpquery,
                (Some(_), 0xFE | 0xFF) => Instruction::HostOnly,
                (_, 0xC0..) => Instruction::Other,
                _ => return None,
            };
            (instruction, 3)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Option<(Instruction, u8)> {
        decode(bytes, CodeSize::Long).map(|decoded| (decoded.instruction, decoded.length))
    }

    /// The paravisor refuses a string access that names no address size.
    #[test]
    fn string_port_accesses_tell_their_memory_side() {
        let cases: [(&[u8], u8, (u8, u8)); 6] = [
            (&[0xF3, 0x6E], 8, (8, 3)),
            (&[0xF3, 0x67, 0x48, 0x6F], 8, (4, 3)),
            (&[0x65, 0x6E], 8, (8, 5)),
            (&[0x65, 0xF2, 0x6C], 4, (4, 0)),
            (&[0x67, 0x6D], 4, (2, 0)),
            (&[0x67, 0x2E, 0x6F], 2, (4, 1)),
        ];
        for (bytes, default, (address_bytes, segment)) in cases {
            let side = StringSide {
                address_bytes,
                segment,
            };
            assert_eq!(string_side(bytes, default), Some(side), "{bytes:x?}");
        }
        assert_eq!(string_side(&[0xEE], 8), None);
        assert_eq!(string_side(&[0x66], 8), None);
    }

    #[test]
    fn snp_instructions_are_told_apart_by_their_prefix() {
        assert_eq!(
            long(&[0xF3, 0x0F, 0x01, 0xD9]),
            Some((Instruction::Vmgexit, 4))
        );
        assert_eq!(
            long(&[0xF2, 0x0F, 0x01, 0xD9]),
            Some((Instruction::Vmgexit, 4))
        );
        assert_eq!(long(&[0x0F, 0x01, 0xD9]), Some((Instruction::Vmmcall, 3)));
        assert_eq!(
            long(&[0xF2, 0x0F, 0x01, 0xFF]),
            Some((Instruction::Pvalidate, 4))
        );
        assert_eq!(
            long(&[0xF3, 0x0F, 0x01, 0xFE]),
            Some((Instruction::Rmpadjust, 4))
        );
        assert_eq!(
            long(&[0xF3, 0x0F, 0x01, 0xFD]),
            Some((Instruction::Rmpquery, 4))
        );
        assert_eq!(
            long(&[0xF3, 0x0F, 0x01, 0xFF]),
            Some((Instruction::HostOnly, 4))
        );
        assert_eq!(
            long(&[0xF2, 0x0F, 0x01, 0xFE]),
            Some((Instruction::HostOnly, 4))
        );
    }

    #[test]
    fn prefixes_count_towards_the_length() {
        assert_eq!(long(&[0x0F, 0xA2]), Some((Instruction::Other, 2)));
        assert_eq!(
            long(&[0x66, 0x48, 0x0F, 0x32]),
            Some((Instruction::Other, 4))
        );
        assert_eq!(long(&[0xF3, 0xF4]), Some((Instruction::Other, 2)));
        assert_eq!(long(&[0x0F, 0x01, 0xC8]), Some((Instruction::Other, 3)));
    }

    #[test]
    fn rex_extends_both_registers_of_a_move() {
        let moved = |control, general, length| {
            Some((Instruction::MoveToControl { control, general }, length))
        };
        assert_eq!(long(&[0x44, 0x0F, 0x22, 0xC0]), moved(8, 0, 4));
        assert_eq!(long(&[0x45, 0x0F, 0x22, 0xC7]), moved(8, 15, 4));
        assert_eq!(long(&[0x0F, 0x22, 0xE2]), moved(4, 2, 3));
    }

    #[test]
    fn in_legacy_code_there_is_no_rex() {
        assert_eq!(decode(&[0x48, 0x0F, 0x32], CodeSize::Legacy), None);
    }

    #[test]
    fn other_instructions_and_torn_ones_are_none() {
        for bytes in [&[0x8B, 0x07][..], &[0x0F], &[0xF3], &[], &[0x66; 20]] {
            assert_eq!(long(bytes), None);
        }
    }
}
