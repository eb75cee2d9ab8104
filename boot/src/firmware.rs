//! Firmware files: what a guest without a kernel is started with.
//!
//! A file of code is read-only memory that ends at 4 GiB, where the processor fetches its first instruction (APM vol. 2, 14.1.5). A file of
//! variables is what a new machine's flash holds, just below the code.

use core::ops::Range;

use crate::layout::{FIRMWARE_MAX_SIZE, HIGH_RAM_START, PAGE_SIZE};

/// Bytes from the first instruction to the end of the file.
const RESET_VECTOR_BYTES: usize = 16;
/// The last bytes of the code, which are also where a PC has its BIOS: the upper 128 KiB of the first megabyte.
pub const LEGACY_BYTES: u64 = 0x2_0000;
/// Where they are there.
pub const LEGACY_BASE: u64 = 0xE_0000;
/// A firmware volume's signature and its place (UEFI PI 1.8, volume 3, 3.2.1).
const VOLUME_SIGNATURE: (usize, &[u8; 4]) = (0x28, b"_FVH");
/// Where it says how long it is.
const VOLUME_LENGTH: Range<usize> = 0x20..0x28;

/// Why a file is no firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Not whole pages, too little or too much.
    #[error(
        "firmware of {0} bytes; it has whole pages of 4 KiB, from 128 KiB to {max} MiB",
        max = FIRMWARE_MAX_SIZE >> 20
    )]
    Size(u64),
    /// Nothing where the processor starts.
    #[error("the last 16 bytes are all {0:#04x}: there is no reset vector")]
    NoResetVector(u8),
    /// Variables that are not whole pages, or do not fit below the code.
    #[error("variables of {0} bytes; with the code they are whole pages, up to {max} MiB", max = FIRMWARE_MAX_SIZE >> 20)]
    VariablesSize(u64),
    /// Variables that are no firmware volume.
    #[error("the variables do not begin with a firmware volume")]
    NoVolume,
    /// Variables cut short.
    #[error("variables of {file} bytes that say they have {volume}: the file is cut short")]
    Cut {
        /// What the volume says.
        volume: u64,
        /// The file's length.
        file: u64,
    },
    /// Firmware of another size would look for them elsewhere, and begin with none.
    #[error(
        "variables of {variables} bytes are not for code of {code}: together they are 1, 2, 4 or {max} MiB",
        max = FIRMWARE_MAX_SIZE >> 20
    )]
    OtherBuild {
        /// Bytes of the variables.
        variables: u64,
        /// Bytes of the code.
        code: u64,
    },
}

/// Sees whether a processor can start with this file.
pub fn check(code: &[u8]) -> Result<(), FirmwareError> {
    let len_bytes = code.len() as u64;
    if !is_size(len_bytes) {
        return Err(FirmwareError::Size(len_bytes));
    }
    let (_, vector) = code.split_at(code.len() - RESET_VECTOR_BYTES);
    match vector {
        // Erased flash, or a file that was filled up.
        [first, rest @ ..] if rest.iter().all(|byte| byte == first) => {
            Err(FirmwareError::NoResetVector(*first))
        }
        _ => Ok(()),
    }
}

/// Returns whether code can have so many bytes.
#[must_use]
pub const fn is_size(len_bytes: u64) -> bool {
    len_bytes.is_multiple_of(PAGE_SIZE)
        && LEGACY_BYTES <= len_bytes
        && len_bytes <= FIRMWARE_MAX_SIZE
}

/// Sees whether this file can be the variables of a machine whose code has `code_bytes`.
pub fn check_variables(variables: &[u8], code_bytes: u64) -> Result<(), FirmwareError> {
    let len_bytes = variables.len() as u64;
    let fits = code_bytes.saturating_add(len_bytes) <= FIRMWARE_MAX_SIZE;
    if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_SIZE) || !fits {
        return Err(FirmwareError::VariablesSize(len_bytes));
    }
    let (at, signature) = VOLUME_SIGNATURE;
    let found = variables.get(at..at + signature.len());
    if found != Some(signature.as_slice()) {
        return Err(FirmwareError::NoVolume);
    }
    let volume = variables.get(VOLUME_LENGTH);
    let volume = volume.and_then(|bytes| bytes.try_into().ok());
    let volume = volume.map_or(0, u64::from_le_bytes);
    if volume > len_bytes {
        let file = len_bytes;
        return Err(FirmwareError::Cut { volume, file });
    }
    // Firmware knows by its build where they are, in a flash chip that holds both.
    if !(code_bytes + len_bytes).is_power_of_two() {
        return Err(FirmwareError::OtherBuild {
            variables: len_bytes,
            code: code_bytes,
        });
    }
    Ok(())
}

/// Returns where code of so many bytes lies.
#[must_use]
pub const fn code_range(len_bytes: u64) -> Range<u64> {
    HIGH_RAM_START - len_bytes..HIGH_RAM_START
}

/// Returns where so many bytes of variables lie below so many of code.
#[must_use]
pub const fn variables_range(len_bytes: u64, code_bytes: u64) -> Range<u64> {
    let end = code_range(code_bytes).start;
    end - len_bytes..end
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    fn code(len: usize) -> Vec<u8> {
        let mut code = vec![0xFF; len];
        code[len - 16] = 0xEA;
        code
    }

    #[test]
    fn code_ends_at_4_gib_with_the_variables_below() {
        assert_eq!(code_range(0x37_C000), 0xFFC8_4000..0x1_0000_0000);
        assert_eq!(
            variables_range(0x8_4000, 0x37_C000),
            0xFFC0_0000..0xFFC8_4000
        );
    }

    #[test]
    fn code_is_whole_pages_of_a_sensible_number() {
        assert_eq!(check(&code(0x37_C000)), Ok(()));
        assert_eq!(check(&code(0x80_0000)), Ok(()));
        for len in [0x1_F000, 0x2_0001, 0x80_1000] {
            assert_eq!(check(&code(len)), Err(FirmwareError::Size(len as u64)));
        }
        assert_eq!(check(&[]), Err(FirmwareError::Size(0)));
    }

    /// A file of variables in place of the code is the likeliest mistake: its end is erased flash.
    #[test]
    fn blank_end_is_no_reset_vector() {
        for byte in [0, 0xFF] {
            let error = check(&vec![byte; 0x2_0000]).unwrap_err();
            assert_eq!(error, FirmwareError::NoResetVector(byte));
        }
    }

    #[test]
    fn variables_are_a_volume_that_fits_below_the_code() {
        let mut variables = vec![0xFF; 0x8_4000];
        let check = |variables: &[u8]| check_variables(variables, 0x37_C000);
        assert_eq!(check(&variables), Err(FirmwareError::NoVolume));
        variables[0x28..0x2C].copy_from_slice(b"_FVH");
        variables[0x20..0x28].copy_from_slice(&0x8_4000_u64.to_le_bytes());
        assert_eq!(check(&variables), Ok(()));
        variables[0x21] = 0x50;
        assert_eq!(
            check(&variables),
            Err(FirmwareError::Cut {
                volume: 0x8_5000,
                file: 0x8_4000
            })
        );
        variables.resize(0x8_5000, 0xFF);
        let (code, len) = (0x37_C000, 0x8_5000);
        assert_eq!(
            check(&variables),
            Err(FirmwareError::OtherBuild {
                variables: len,
                code
            })
        );
        variables.resize(0x48_5000, 0xFF);
        assert_eq!(
            check(&variables),
            Err(FirmwareError::VariablesSize(0x48_5000))
        );
        variables.truncate(0x10);
        assert_eq!(check(&variables), Err(FirmwareError::VariablesSize(0x10)));
    }
}
