//! MSRs whose value lives in the VMSA, and what may be written there (APM vol. 2, 3.1.7, 6.1, 7.8, 15.5.1).
//!
//! An illegal value in a VMSA makes the next entry fail and ends the machine, so each is checked as hardware would.

use stockade_abi::vmsa::{Vmsa, reset};

use super::number::Msr;
use crate::cpuid::MsrFeatures;

const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const EFER_FFXSR: u64 = 1 << 14;
const EFER_AIBRSE: u64 = 1 << 21;
const CR0_PG: u64 = 1 << 31;
/// DEBUG_CTL: single-step on branches. Recording of branches is not offered.
const DEBUG_CTL_BTF: u64 = 1 << 1;

/// Reads an MSR from the VMSA; `None` if it is not kept there or does not exist.
pub(super) fn read(msr: Msr, vmsa: &Vmsa, features: &MsrFeatures) -> Option<u64> {
    Some(match msr {
        Msr::EFER => vmsa.efer & !reset::EFER_SVME,
        Msr::PAT => vmsa.g_pat,
        Msr::STAR => vmsa.star,
        Msr::LSTAR => vmsa.lstar,
        Msr::CSTAR => vmsa.cstar,
        Msr::SFMASK => vmsa.sfmask,
        Msr::FS_BASE => vmsa.fs.base,
        Msr::GS_BASE => vmsa.gs.base,
        Msr::KERNEL_GS_BASE => vmsa.kernel_gs_base,
        Msr::SYSENTER_CS => vmsa.sysenter_cs,
        Msr::SYSENTER_ESP => vmsa.sysenter_esp,
        Msr::SYSENTER_EIP => vmsa.sysenter_eip,
        Msr::TSC_AUX if features.has_tsc_aux => vmsa.tsc_aux.into(),
        Msr::SPEC_CTRL if features.spec_ctrl_bits != 0 => vmsa.spec_ctrl,
        Msr::XSS if features.has_xss => vmsa.xss,
        Msr::DEBUG_CTL => vmsa.dbgctl,
        Msr::LAST_BRANCH_FROM => vmsa.br_from,
        Msr::LAST_BRANCH_TO => vmsa.br_to,
        Msr::LAST_EXCEPTION_FROM => vmsa.last_excp_from,
        Msr::LAST_EXCEPTION_TO => vmsa.last_excp_to,
        _ => return None,
    })
}

/// Writes an MSR in the VMSA; `None` if it is not kept there or does not exist, `Some(false)` if the value is illegal.
pub(super) fn write(msr: Msr, value: u64, vmsa: &mut Vmsa, features: &MsrFeatures) -> Option<bool> {
    if msr == Msr::EFER {
        return Some(write_efer(value, vmsa, features));
    }
    let is_legal = match msr {
        Msr::PAT => value.to_le_bytes().into_iter().all(is_pat_type),
        Msr::LSTAR
        | Msr::CSTAR
        | Msr::FS_BASE
        | Msr::GS_BASE
        | Msr::KERNEL_GS_BASE
        | Msr::SYSENTER_ESP
        | Msr::SYSENTER_EIP => is_canonical(value),
        Msr::STAR | Msr::SFMASK | Msr::SYSENTER_CS => true,
        Msr::TSC_AUX if features.has_tsc_aux => u32::try_from(value).is_ok(),
        Msr::SPEC_CTRL if features.spec_ctrl_bits != 0 => value & !features.spec_ctrl_bits == 0,
        Msr::XSS if features.has_xss => value == 0,
        Msr::DEBUG_CTL => value & !DEBUG_CTL_BTF == 0,
        Msr::LAST_BRANCH_FROM
        | Msr::LAST_BRANCH_TO
        | Msr::LAST_EXCEPTION_FROM
        | Msr::LAST_EXCEPTION_TO => false,
        _ => return None,
    };
    if is_legal {
        store(msr, value, vmsa);
    }
    Some(is_legal)
}

fn store(msr: Msr, value: u64, vmsa: &mut Vmsa) {
    let place = match msr {
        Msr::PAT => &mut vmsa.g_pat,
        Msr::STAR => &mut vmsa.star,
        Msr::LSTAR => &mut vmsa.lstar,
        Msr::CSTAR => &mut vmsa.cstar,
        Msr::SFMASK => {
            // The upper half is reserved and reads zero.
            vmsa.sfmask = value & 0xFFFF_FFFF;
            return;
        }
        Msr::FS_BASE => &mut vmsa.fs.base,
        Msr::GS_BASE => &mut vmsa.gs.base,
        Msr::KERNEL_GS_BASE => &mut vmsa.kernel_gs_base,
        Msr::SYSENTER_CS => &mut vmsa.sysenter_cs,
        Msr::SYSENTER_ESP => &mut vmsa.sysenter_esp,
        Msr::SYSENTER_EIP => &mut vmsa.sysenter_eip,
        Msr::SPEC_CTRL => &mut vmsa.spec_ctrl,
        Msr::XSS => &mut vmsa.xss,
        Msr::DEBUG_CTL => &mut vmsa.dbgctl,
        Msr::TSC_AUX => {
            if let Ok(aux) = u32::try_from(value) {
                vmsa.tsc_aux = aux;
            }
            return;
        }
        _ => return,
    };
    *place = value;
}

/// LMA belongs to the processor, SVME to us; LME cannot change under paging.
fn write_efer(value: u64, vmsa: &mut Vmsa, features: &MsrFeatures) -> bool {
    let optional = [
        (features.has_nx, EFER_NXE),
        (features.has_fast_fxsr, EFER_FFXSR),
        (features.has_automatic_ibrs, EFER_AIBRSE),
    ];
    let allowed = optional
        .into_iter()
        .filter(|(is_there, _)| *is_there)
        .fold(EFER_SCE | EFER_LME | EFER_LMA, |bits, (_, bit)| bits | bit);
    let changes_lme = (value ^ vmsa.efer) & EFER_LME != 0;
    if value & !allowed != 0 || (changes_lme && vmsa.cr0 & CR0_PG != 0) {
        return false;
    }
    vmsa.efer = value & !EFER_LMA | vmsa.efer & (EFER_LMA | reset::EFER_SVME);
    true
}

/// Uncacheable, write-combining, write-through, write-protect, write-back, uncached.
const fn is_pat_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4..=7)
}

/// Bits 63 to 47 are all alike.
const fn is_canonical(address: u64) -> bool {
    (address.cast_signed() << 16 >> 16).cast_unsigned() == address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::tests::{INPUTS, policy};

    fn features() -> MsrFeatures {
        policy(INPUTS).msr_features()
    }

    fn vmsa() -> Vmsa {
        let mut vmsa = Vmsa::zeroed();
        vmsa.efer = reset::EFER_SVME;
        vmsa
    }

    #[test]
    fn guest_neither_sees_nor_touches_svme() {
        let mut vmsa = vmsa();
        assert_eq!(read(Msr::EFER, &vmsa, &features()), Some(0));
        let set_svme = reset::EFER_SVME;
        assert_eq!(
            write(Msr::EFER, set_svme, &mut vmsa, &features()),
            Some(false)
        );
        assert_eq!(write(Msr::EFER, 0xD01, &mut vmsa, &features()), Some(true));
        assert_eq!(vmsa.efer, 0x901 | reset::EFER_SVME);
        assert_eq!(read(Msr::EFER, &vmsa, &features()), Some(0x901));
    }

    /// Clearing LME under paging would leave a state hardware refuses to enter.
    #[test]
    fn long_mode_cannot_be_switched_under_paging() {
        let mut vmsa = vmsa();
        vmsa.cr0 = 1 << 31;
        vmsa.efer |= EFER_LME | EFER_LMA;
        assert_eq!(write(Msr::EFER, 0x001, &mut vmsa, &features()), Some(false));
        assert_eq!(write(Msr::EFER, 0x901, &mut vmsa, &features()), Some(true));
        assert_eq!(vmsa.efer, 0xD01 | reset::EFER_SVME);
    }

    #[test]
    fn efer_bits_that_do_not_exist_are_refused() {
        for bit in [1, 9, 12, 13, 15, 17, 18, 20, 21, 22, 63] {
            let result = write(Msr::EFER, 1 << bit, &mut vmsa(), &features());
            assert_eq!(result, Some(false), "{bit}");
        }
        let with_ibrs = MsrFeatures {
            has_automatic_ibrs: true,
            ..features()
        };
        assert_eq!(
            write(Msr::EFER, 1 << 21, &mut vmsa(), &with_ibrs),
            Some(true)
        );
    }

    #[test]
    fn addresses_must_be_canonical() {
        for msr in [
            Msr::LSTAR,
            Msr::CSTAR,
            Msr::FS_BASE,
            Msr::GS_BASE,
            Msr::KERNEL_GS_BASE,
            Msr::SYSENTER_ESP,
            Msr::SYSENTER_EIP,
        ] {
            let mut vmsa = vmsa();
            for good in [0, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, u64::MAX] {
                assert_eq!(write(msr, good, &mut vmsa, &features()), Some(true));
                assert_eq!(read(msr, &vmsa, &features()), Some(good));
            }
            for bad in [0x8000_0000_0000, 1 << 63, 0xFFFF_7FFF_FFFF_FFFF] {
                assert_eq!(write(msr, bad, &mut vmsa, &features()), Some(false));
            }
            assert_eq!(read(msr, &vmsa, &features()), Some(u64::MAX));
        }
    }

    #[test]
    fn page_attributes_must_be_types() {
        let mut vmsa = vmsa();
        let linux = 0x0407_0506_0007_0106;
        assert_eq!(write(Msr::PAT, linux, &mut vmsa, &features()), Some(true));
        assert_eq!(write(Msr::PAT, 2, &mut vmsa, &features()), Some(false));
        assert_eq!(
            write(Msr::PAT, 3 << 56, &mut vmsa, &features()),
            Some(false)
        );
        assert_eq!(vmsa.g_pat, linux);
    }

    #[test]
    fn optional_registers_exist_with_their_feature_only() {
        let without = MsrFeatures {
            has_tsc_aux: false,
            has_xss: false,
            spec_ctrl_bits: 0,
            ..features()
        };
        for msr in [Msr::TSC_AUX, Msr::XSS, Msr::SPEC_CTRL] {
            assert_eq!(read(msr, &vmsa(), &without), None);
            assert_eq!(write(msr, 0, &mut vmsa(), &without), None);
            assert_eq!(read(msr, &vmsa(), &features()), Some(0));
            assert_eq!(write(msr, 0, &mut vmsa(), &features()), Some(true));
        }
        assert_eq!(
            write(Msr::XSS, 1 << 11, &mut vmsa(), &features()),
            Some(false)
        );
        assert_eq!(
            write(Msr::TSC_AUX, 1 << 32, &mut vmsa(), &features()),
            Some(false)
        );
        assert_eq!(
            write(Msr::SPEC_CTRL, 8, &mut vmsa(), &features()),
            Some(false)
        );
    }

    #[test]
    fn upper_half_of_the_flag_mask_reads_zero() {
        let mut vmsa = vmsa();
        assert_eq!(
            write(Msr::SFMASK, u64::MAX, &mut vmsa, &features()),
            Some(true)
        );
        assert_eq!(read(Msr::SFMASK, &vmsa, &features()), Some(0xFFFF_FFFF));
    }
}
