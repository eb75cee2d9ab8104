//! Programs for the paravisor to run, looked at before they are packed: what it cannot start it would give up, and the guest go on without.

use object::LittleEndian;
use object::elf::{EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// Why a file is no such program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// A script, say.
    #[error("no ELF file of 64 bits")]
    NotElf,
    /// A library's object, or for another processor.
    #[error("no program for x86-64")]
    NotProgram,
    /// There is no loader.
    #[error("dynamically linked")]
    Dynamic,
}

/// Sees whether a file can be a static program for this processor.
pub fn check_program(content: &[u8]) -> Result<(), ProgramError> {
    let header = FileHeader64::<LittleEndian>::parse(content).map_err(|_| ProgramError::NotElf)?;
    let endian = header.endian().map_err(|_| ProgramError::NotElf)?;
    let is_program = matches!(header.e_type(endian), ET_EXEC | ET_DYN);
    if !is_program || header.e_machine(endian) != EM_X86_64 {
        return Err(ProgramError::NotProgram);
    }
    let parts = header.program_headers(endian, content);
    let mut parts = parts.map_err(|_| ProgramError::NotElf)?.iter();
    if parts.any(|part| part.p_type(endian) == PT_INTERP) {
        return Err(ProgramError::Dynamic);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_static_and_for_this_processor() {
        let mut program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(check_program(&program), Err(ProgramError::Dynamic));
        let at = usize::from(u16::from_le_bytes([program[32], program[33]]));
        let count = usize::from(u16::from_le_bytes([program[56], program[57]]));
        for part in 0..count {
            // Its type, made one that says nothing.
            program[at + part * 56..][..4].fill(0);
        }
        assert_eq!(check_program(&program), Ok(()));
        program[18] = 183;
        assert_eq!(check_program(&program), Err(ProgramError::NotProgram));
        for content in [&b"#!/bin/sh\n"[..], b"", &program[..40]] {
            assert_eq!(check_program(content), Err(ProgramError::NotElf));
        }
    }
}
