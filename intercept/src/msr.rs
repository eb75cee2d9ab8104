//! What RDMSR and WRMSR do for the guest (APM vol. 2, appendix A).
//!
//! [`MsrFile`] is one vCPU's set. Registers of the processor live in the VMSA and are checked before they get there; the local APIC's
//! are handed back as [`ApicMsr`] for the APIC to answer; the rest is kept here, or reads as it would on a quiet machine. What nobody
//! knows is [`MsrFault::Unknown`]: the guest gets #GP(0) as on hardware, the caller counts it. SEV's own MSRs are among these.

mod machine_check;
mod mtrr;
mod number;
mod saved;
mod vmsa_register;

use stockade_abi::vmsa::Vmsa;
use stockade_bus::Gpa;

use crate::cpuid::{MsrFeatures, TscAdjust, X2Apic};
use machine_check::{MachineCheck, StatusWrites};
use mtrr::Mtrrs;
pub use number::Msr;
pub use saved::{RestoreMsrError, SavedMsrFile};

/// Microcode level told to guests: above what any errata list asks for, as other hypervisors tell it.
const PATCH_LEVEL: u64 = 0x0100_0065;

/// SYSCFG: MTRRs for fixed and variable ranges of memory, their modification, and the second top of memory.
const SYSCFG_WRITABLE: u64 = 0b11111 << 18;
/// HWCR: status of machine-check banks can be written.
const HWCR_MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR: the TSC counts at the frequency of P-state 0. Linux complains about an invariant TSC without it.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// HWCR: cache and FPU quirks that guests set and that do nothing here (TlbCacheDis, FERR emulation, IgnneEmulation).
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
/// NB_CFG: extended configuration space through port CF8.
const NB_CFG_EXTENDED_CF8: u64 = 1 << 46;
/// DE_CFG: LFENCE serializes. Hosts set it; a guest may not clear it.
const DE_CFG_LFENCE_SERIALIZES: u64 = 1 << 1;
/// DE_CFG: a workaround kernels set on some models.
const DE_CFG_FP_BACKUP_FIX: u64 = 1 << 9;

/// One of the local APIC's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMsr {
    /// APIC_BASE.
    Base,
    /// An x2APIC register, by its offset from 800h: the xAPIC offset divided by 16.
    X2Apic(u8),
    /// The TSC deadline.
    TscDeadline,
}

/// What RDMSR returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrRead {
    /// This value.
    Value(u64),
    /// What the guest's TSC says now.
    Tsc,
    /// What the local APIC says.
    Apic(ApicMsr),
}

/// What WRMSR leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// Nothing.
    Done,
    /// The local APIC's to take or refuse.
    Apic(ApicMsr),
    /// A branch prediction barrier: write this to PRED_CMD before the guest runs on.
    PredictionBarrier(u64),
}

/// Why an access faults: #GP(0) for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsrFault {
    /// There is no such register here; worth counting.
    #[error("no such MSR")]
    Unknown,
    /// The register does not take that value, or not that direction.
    #[error("the MSR refuses the access")]
    Refused,
}

/// The MSRs of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrFile {
    features: MsrFeatures,

    mtrrs: Mtrrs,
    machine_check: MachineCheck,
    syscfg: u64,
    hwcr: u64,
    top_mem: u64,
    top_mem2: u64,
    nb_cfg: u64,
    de_cfg: u64,
}

impl MsrFile {
    /// Returns the registers as after power-on.
    #[must_use]
    pub const fn new(features: MsrFeatures) -> Self {
        Self {
            features,
            mtrrs: Mtrrs::new(),
            machine_check: MachineCheck::new(),
            syscfg: 0,
            hwcr: HWCR_TSC_FREQ_SEL,
            top_mem: 0,
            top_mem2: 0,
            nb_cfg: 0,
            de_cfg: DE_CFG_LFENCE_SERIALIZES,
        }
    }

    /// Puts the registers where firmware would have left them, for a kernel started without one: memory below `hole` and
    /// from 4 GiB to `top` is cached. To be called alike for every vCPU, or kernels complain.
    pub fn set_as_firmware_would(&mut self, hole: Gpa, top: Gpa) {
        self.mtrrs = Mtrrs::firmware(hole);
        self.top_mem = hole.0;
        self.top_mem2 = top.0.max(1 << 32);
    }

    /// Reads an MSR.
    pub fn read(&self, msr: Msr, vmsa: &Vmsa) -> Result<MsrRead, MsrFault> {
        if let Some(apic) = self.apic(msr) {
            return Ok(MsrRead::Apic(apic));
        }
        let value = match msr {
            Msr::TSC => return Ok(MsrRead::Tsc),
            Msr::PRED_CMD if self.features.pred_cmd_bits != 0 => return Err(MsrFault::Refused),
            _ => vmsa_register::read(msr, vmsa, &self.features)
                .or_else(|| self.mtrrs.read(msr))
                .or_else(|| self.machine_check.read(msr))
                .or_else(|| self.read_own(msr)),
        };
        value.map(MsrRead::Value).ok_or(MsrFault::Unknown)
    }

    /// Writes an MSR.
    pub fn write(&mut self, msr: Msr, value: u64, vmsa: &mut Vmsa) -> Result<MsrWrite, MsrFault> {
        if let Some(apic) = self.apic(msr) {
            return Ok(MsrWrite::Apic(apic));
        }
        if msr == Msr::PRED_CMD {
            return self.write_pred_cmd(value);
        }
        let status = if self.hwcr & HWCR_MC_STATUS_WRITE == 0 {
            StatusWrites::ZeroOnly
        } else {
            StatusWrites::Any
        };
        let is_legal = vmsa_register::write(msr, value, vmsa, &self.features)
            .or_else(|| self.mtrrs.write(msr, value))
            .or_else(|| self.machine_check.write(msr, value, status))
            .or_else(|| self.write_own(msr, value));
        match is_legal {
            Some(true) => Ok(MsrWrite::Done),
            Some(false) => Err(MsrFault::Refused),
            None => Err(MsrFault::Unknown),
        }
    }

    fn apic(&self, msr: Msr) -> Option<ApicMsr> {
        match msr {
            Msr::APIC_BASE => Some(ApicMsr::Base),
            Msr::TSC_DEADLINE => Some(ApicMsr::TscDeadline),
            _ if self.features.x2apic == X2Apic::Offered && is_x2apic(msr) => {
                u8::try_from(msr.0 - Msr::X2APIC_FIRST.0)
                    .ok()
                    .map(ApicMsr::X2Apic)
            }
            _ => None,
        }
    }

    fn read_own(&self, msr: Msr) -> Option<u64> {
        Some(match msr {
            Msr::TSC_ADJUST if self.features.tsc_adjust == TscAdjust::AlwaysZero => 0,
            Msr::PATCH_LEVEL => PATCH_LEVEL,
            Msr::SYSCFG => self.syscfg,
            Msr::HWCR => self.hwcr,
            Msr::TOP_MEM => self.top_mem,
            Msr::TOP_MEM2 => self.top_mem2,
            Msr::NB_CFG => self.nb_cfg,
            Msr::DE_CFG => self.de_cfg,
            _ if is_quiet(msr) => 0,
            _ => return None,
        })
    }

    fn write_own(&mut self, msr: Msr, value: u64) -> Option<bool> {
        let (place, writable, sticky) = match msr {
            // Nobody can shift the TSC: it is hardware's, and never intercepted. Writes to it are lost, shifts refused.
            Msr::TSC => return Some(true),
            Msr::TSC_ADJUST if self.features.tsc_adjust == TscAdjust::AlwaysZero => {
                return Some(value == 0);
            }
            // Kernels write zero before they read the level; microcode is the host's business.
            Msr::PATCH_LEVEL | Msr::PATCH_LOADER => return Some(true),
            Msr::SYSCFG => (&mut self.syscfg, SYSCFG_WRITABLE, 0),
            Msr::HWCR => (
                &mut self.hwcr,
                HWCR_MC_STATUS_WRITE | HWCR_IGNORED,
                HWCR_TSC_FREQ_SEL,
            ),
            Msr::TOP_MEM => (&mut self.top_mem, TOP_MEM_ADDRESS, 0),
            Msr::TOP_MEM2 => (&mut self.top_mem2, TOP_MEM_ADDRESS, 0),
            Msr::NB_CFG => (&mut self.nb_cfg, NB_CFG_EXTENDED_CF8, 0),
            Msr::DE_CFG => (
                &mut self.de_cfg,
                DE_CFG_FP_BACKUP_FIX,
                DE_CFG_LFENCE_SERIALIZES,
            ),
            Msr::MMIO_CFG_BASE => return Some(value == 0),
            _ if is_quiet(msr) => return Some(true),
            _ => return None,
        };
        let is_legal = value & !(writable | sticky) == 0;
        if is_legal {
            *place = value | sticky;
        }
        Some(is_legal)
    }

    const fn write_pred_cmd(&self, value: u64) -> Result<MsrWrite, MsrFault> {
        let bits = self.features.pred_cmd_bits;
        if bits == 0 {
            return Err(MsrFault::Unknown);
        }
        match value {
            0 => Ok(MsrWrite::Done),
            _ if value & !bits == 0 => Ok(MsrWrite::PredictionBarrier(value)),
            _ => Err(MsrFault::Refused),
        }
    }
}

/// TOP_MEM and TOP_MEM2 count in 8 MiB.
const TOP_MEM_ADDRESS: u64 = ((1 << crate::cpuid::PHYSICAL_ADDRESS_BITS) - 1) & !0x7F_FFFF;

/// Registers that read zero and forget what is written: counters that never count, so that a kernel that probes them finds none;
/// configuration nobody needs; PCI configuration space that is told by ACPI and not here.
const fn is_quiet(msr: Msr) -> bool {
    let is_counter = msr.0 >= Msr::PERF_LEGACY_FIRST.0 && msr.0 <= Msr::PERF_LEGACY_LAST.0;
    is_counter
        || matches!(
            msr,
            Msr::INT_PENDING
                | Msr::MMIO_CFG_BASE
                | Msr::LS_CFG
                | Msr::IC_CFG
                | Msr::DC_CFG
                | Msr::FP_CFG
                | Msr::BU_CFG2
        )
}

const fn is_x2apic(msr: Msr) -> bool {
    msr.0 >= Msr::X2APIC_FIRST.0 && msr.0 <= Msr::X2APIC_LAST.0
}

#[cfg(test)]
mod tests;
