//! Saved state of [`MsrFile`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::machine_check::MachineCheck;
use super::mtrr::Mtrrs;
use super::{
    DE_CFG_FP_BACKUP_FIX, DE_CFG_LFENCE_SERIALIZES, HWCR_IGNORED, HWCR_MC_STATUS_WRITE,
    HWCR_TSC_FREQ_SEL, MsrFile, NB_CFG_EXTENDED_CF8, SYSCFG_WRITABLE, TOP_MEM_ADDRESS,
};

/// The registers of [`MsrFile`], version 1. Those in the VMSA are saved with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SavedMsrFile {
    version: u64,
    mtrrs: Mtrrs,
    machine_check: MachineCheck,
    syscfg: u64,
    hwcr: u64,
    top_mem: u64,
    top_mem2: u64,
    nb_cfg: u64,
    de_cfg: u64,
}

const VERSION: u64 = 1;

const _: () = assert!(size_of::<SavedMsrFile>() == 8 * (1 + 28 + 18 + 6));

/// Why a saved state cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreMsrError {
    /// Saved by another version.
    #[error("saved MSRs of version {0}")]
    Version(u64),
    /// A register holds what could not have been written.
    #[error("a saved MSR holds an illegal value")]
    Value,
}

impl MsrFile {
    /// Returns the state to save.
    #[must_use]
    pub const fn save(&self) -> SavedMsrFile {
        let Self {
            features: _,
            mtrrs,
            machine_check,
            syscfg,
            hwcr,
            top_mem,
            top_mem2,
            nb_cfg,
            de_cfg,
        } = *self;
        SavedMsrFile {
            version: VERSION,
            mtrrs,
            machine_check,
            syscfg,
            hwcr,
            top_mem,
            top_mem2,
            nb_cfg,
            de_cfg,
        }
    }

    /// Takes over a saved state, or changes nothing.
    pub fn restore(&mut self, saved: &SavedMsrFile) -> Result<(), RestoreMsrError> {
        let SavedMsrFile {
            version,
            mtrrs,
            machine_check,
            syscfg,
            hwcr,
            top_mem,
            top_mem2,
            nb_cfg,
            de_cfg,
        } = *saved;
        if version != VERSION {
            return Err(RestoreMsrError::Version(version));
        }
        let are_bits_legal = syscfg & !SYSCFG_WRITABLE == 0
            && hwcr & !(HWCR_MC_STATUS_WRITE | HWCR_IGNORED) == HWCR_TSC_FREQ_SEL
            && top_mem & !TOP_MEM_ADDRESS == 0
            && top_mem2 & !TOP_MEM_ADDRESS == 0
            && nb_cfg & !NB_CFG_EXTENDED_CF8 == 0
            && de_cfg & !DE_CFG_FP_BACKUP_FIX == DE_CFG_LFENCE_SERIALIZES;
        if !are_bits_legal || !mtrrs.is_legal() || !machine_check.is_legal() {
            return Err(RestoreMsrError::Value);
        }
        *self = Self {
            features: self.features,
            mtrrs,
            machine_check,
            syscfg,
            hwcr,
            top_mem,
            top_mem2,
            nb_cfg,
            de_cfg,
        };
        Ok(())
    }
}
