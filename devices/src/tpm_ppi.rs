//! The memory by which an operating system and firmware speak of physical presence (QEMU `docs/specs/tpm.rst`, "ACPI PPI Interface").
//!
//! The system's ACPI methods write a request into it and reset the machine; firmware finds the request there, asks whoever sits at the
//! console, carries it out, and writes what became of it. So it keeps its content over a reset and loses it with the power. To us all of it
//! is bytes, but for one: the request that memory be cleared at the next reset (TCG PRAM 1.10, 4).

use stockade_bus::{AccessError, Mmio};

use crate::RestoreError;
use crate::state::check_version;

const BYTES: usize = 0x400;
/// Bytes of it.
pub const TPM_PPI_BYTES: u64 = BYTES as u64;
/// Offset of the byte whose first bit asks for memory to be cleared.
pub const MEMORY_CLEAR_REQUEST: usize = 0x15A;

/// The memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmPpi {
    bytes: [u8; BYTES],
}

/// Its state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmPpiState {
    /// Format version: 1.
    pub version: u32,
    /// The content.
    pub bytes: [u8; BYTES],
}

impl Default for TpmPpi {
    fn default() -> Self {
        Self { bytes: [0; BYTES] }
    }
}

impl TpmPpi {
    /// Returns whether the system asked for its memory to be cleared, and forgets it.
    pub fn take_clear_request(&mut self) -> bool {
        core::mem::take(&mut self.bytes[MEMORY_CLEAR_REQUEST]) & 1 != 0
    }

    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> TpmPpiState {
        let Self { bytes } = self;
        TpmPpiState {
            version: 1,
            bytes: *bytes,
        }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, saved: &TpmPpiState) -> Result<(), RestoreError> {
        check_version(saved.version, 1)?;
        self.bytes = saved.bytes;
        Ok(())
    }

    fn place(offset: u64, len: usize) -> Result<core::ops::Range<usize>, AccessError> {
        let start = usize::try_from(offset).map_err(|_| AccessError::NoRegister)?;
        let end = start.checked_add(len).ok_or(AccessError::NoRegister)?;
        (end <= BYTES)
            .then_some(start..end)
            .ok_or(AccessError::NoRegister)
    }
}

impl Mmio for TpmPpi {
    /// Any width at any offset, as memory.
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let place = Self::place(offset, data.len())?;
        data.copy_from_slice(&self.bytes[place]);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let place = Self::place(offset, data.len())?;
        self.bytes[place].copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_at_any_width_and_offset() {
        let mut memory = TpmPpi::default();
        assert_eq!(memory.mmio_write(0x109, &[5, 0, 0, 0]), Ok(()));
        let mut wide = [0xFF; 8];
        assert_eq!(memory.mmio_read(0x105, &mut wide), Ok(()));
        assert_eq!(wide, [0, 0, 0, 0, 5, 0, 0, 0]);
    }

    #[test]
    fn what_reaches_beyond_the_end_is_nobody_s() {
        let mut memory = TpmPpi::default();
        for (offset, len) in [(0x3FF, 2), (0x400, 1), (u64::MAX, 8)] {
            let outcome = memory.mmio_write(offset, &[1; 8][..len]);
            assert_eq!(outcome, Err(AccessError::NoRegister));
            let outcome = memory.mmio_read(offset, &mut [0; 8][..len]);
            assert_eq!(outcome, Err(AccessError::NoRegister));
        }
        assert_eq!(memory, TpmPpi::default());
    }

    #[test]
    fn request_to_clear_memory_is_taken_once() {
        let mut memory = TpmPpi::default();
        assert!(!memory.take_clear_request());
        assert_eq!(memory.mmio_write(0x15A, &[0x11]), Ok(()));
        assert!(memory.take_clear_request());
        assert!(!memory.take_clear_request());
    }

    #[test]
    fn restored_memory_is_the_saved_one() {
        let mut memory = TpmPpi::default();
        assert_eq!(memory.mmio_write(0, &[3; 16]), Ok(()));
        let mut other = TpmPpi::default();
        other.restore(&memory.save()).unwrap();
        assert_eq!(other, memory);
        let newer = TpmPpiState {
            version: 2,
            ..memory.save()
        };
        assert!(other.restore(&newer).is_err());
    }
}
