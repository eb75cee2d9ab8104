//! MSRs a guest of SEV-SNP has for itself: in hardware part of the VMSA or of SEV, never the host's business.
//!
//! QEMU would give the guest the machine's own copy, so all but those SVM swaps are intercepted, and these few are
//! answered here without an exit. Whatever is not listed is a non-automatic exit, as on a host that intercepts it.

use super::vmsa::Image;
use crate::snp::walk::{CR0_PG, EFER_LMA, EFER_LME, EFER_SVME};
use crate::svm::{ExtendedState, SaveArea};
use stockade_abi::ghcb_msr::GHCB_MSR;
use stockade_abi::vmsa::{SEV_STATUS_MSR, SevFeatures, SevStatus};

const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const DEBUG_CTL: u32 = 0x1D9;
const LAST_BRANCH: core::ops::RangeInclusive<u32> = 0x1DB..=0x1DE;
const PAT: u32 = 0x277;
const XSS: u32 = 0xDA0;
const EFER: u32 = 0xC000_0080;
const TSC_AUX: u32 = 0xC000_0103;
const GUEST_TSC_FREQ: u32 = 0xC001_0134;
const VIRTUAL_TOM: u32 = 0xC001_0135;

/// EFER bits software may set: SCE, LME, NXE, LMSLE, FFXSR, TCE. LMA is read-only, SVME ignored (APM vol. 2, 15.35.10).
const EFER_WRITABLE: u64 = 0xE901 & !EFER_SVME;
/// Virtual TOM is a 2 MiB page number in bits 51:21 (APM vol. 2, 15.36.8).
const VIRTUAL_TOM_BITS: u64 = 0x000F_FFFF_FFE0_0000;

/// Where a guest's own MSRs live.
pub struct MsrFile<'a> {
    /// Those SVM has in the VMCB.
    pub save: &'a mut SaveArea,
    /// Those only the VMSA has.
    pub image: &'a mut Image,
    /// TSC_AUX.
    pub extended: &'a mut ExtendedState,
    /// MSR C001_0130.
    pub ghcb: &'a mut u64,
    /// What GUEST_TSC_FREQ tells, in MHz.
    pub tsc_mhz: u64,
}

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access<T> {
    /// It is done.
    Done(T),
    /// #GP(0).
    Fault,
    /// The MSR is not the guest's own: intercepted.
    Intercepted,
}

impl MsrFile<'_> {
    /// RDMSR.
    pub fn read(&self, msr: u32) -> Access<u64> {
        let vmsa = self.image.vmsa();
        Access::Done(match msr {
            EFER => self.save.efer,
            PAT => self.save.g_pat,
            DEBUG_CTL => self.save.dbgctl,
            XSS => vmsa.xss,
            SPEC_CTRL => vmsa.spec_ctrl,
            TSC_AUX => self.extended.tsc_aux,
            GHCB_MSR => *self.ghcb,
            SEV_STATUS_MSR => SevStatus::from_features(vmsa.sev_features).bits(),
            GUEST_TSC_FREQ if self.image.has(SevFeatures::SECURE_TSC) => self.tsc_mhz,
            VIRTUAL_TOM if self.image.has(SevFeatures::VTOM) => vmsa.virtual_tom & VIRTUAL_TOM_BITS,
            PRED_CMD | GUEST_TSC_FREQ | VIRTUAL_TOM => return Access::Fault,
            _ if LAST_BRANCH.contains(&msr) => 0,
            _ => return Access::Intercepted,
        })
    }

    /// WRMSR.
    pub fn write(&mut self, msr: u32, value: u64) -> Access<()> {
        match msr {
            EFER => return self.write_efer(value),
            PAT if value
                .to_le_bytes()
                .iter()
                .any(|kind| !matches!(kind, 0 | 1 | 4..=7)) =>
            {
                return Access::Fault;
            }
            PAT => self.save.g_pat = value,
            DEBUG_CTL if value & !0x3F != 0 => return Access::Fault,
            DEBUG_CTL => self.save.dbgctl = value,
            // No component is supervisor state on this processor.
            XSS if value != 0 => return Access::Fault,
            XSS => {}
            SPEC_CTRL if value & !0x7 != 0 => return Access::Fault,
            SPEC_CTRL => self.image.edit().spec_ctrl = value,
            PRED_CMD if value & !1 != 0 => return Access::Fault,
            PRED_CMD => {}
            TSC_AUX => self.extended.tsc_aux = value & 0xFFFF_FFFF,
            GHCB_MSR => *self.ghcb = value,
            VIRTUAL_TOM if self.image.has(SevFeatures::VTOM) && value & !VIRTUAL_TOM_BITS == 0 => {
                self.image.edit().virtual_tom = value;
            }
            SEV_STATUS_MSR | GUEST_TSC_FREQ | VIRTUAL_TOM => return Access::Fault,
            _ => return Access::Intercepted,
        }
        Access::Done(())
    }

    fn write_efer(&mut self, value: u64) -> Access<()> {
        let efer = self.save.efer;
        let paging = self.save.cr0 & CR0_PG != 0;
        if value & !(EFER_WRITABLE | EFER_SVME | EFER_LMA) != 0
            || (paging && (value ^ efer) & EFER_LME != 0)
        {
            return Access::Fault;
        }
        self.save.efer = value & EFER_WRITABLE | efer & EFER_LMA | EFER_SVME;
        Access::Done(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    struct Fixture {
        save: SaveArea,
        image: Image,
        extended: alloc::boxed::Box<ExtendedState>,
        ghcb: u64,
    }

    fn fixture(features: SevFeatures) -> Fixture {
        let mut image = Image::new();
        image.edit().sev_features = SevFeatures::SNP_ACTIVE | features;
        Fixture {
            save: SaveArea::new_zeroed(),
            image,
            extended: ExtendedState::new_reset(),
            ghcb: 0,
        }
    }

    impl Fixture {
        fn file(&mut self) -> MsrFile<'_> {
            MsrFile {
                save: &mut self.save,
                image: &mut self.image,
                extended: &mut self.extended,
                ghcb: &mut self.ghcb,
                tsc_mhz: 2000,
            }
        }
    }

    #[test]
    fn status_tells_the_features_and_cannot_be_written() {
        let mut fixture = fixture(SevFeatures::RESTRICTED_INJECTION);
        assert_eq!(fixture.file().read(SEV_STATUS_MSR), Access::Done(0b10_0111));
        assert_eq!(fixture.file().write(SEV_STATUS_MSR, 0), Access::Fault);
    }

    /// A guest that clears EFER.SVME would make its own VMSA unrunnable, and VMMCALL undefined in QEMU.
    #[test]
    fn efer_keeps_svme_and_lma_whatever_is_written() {
        let mut fixture = fixture(SevFeatures::empty());
        fixture.save.efer = EFER_SVME | EFER_LMA | EFER_LME;
        fixture.save.cr0 = CR0_PG;
        assert_eq!(
            fixture.file().write(EFER, EFER_LME | 0x801),
            Access::Done(())
        );
        assert_eq!(fixture.save.efer, EFER_SVME | EFER_LMA | EFER_LME | 0x801);
        assert_eq!(
            fixture.file().write(EFER, 0x801),
            Access::Fault,
            "LME while paging"
        );
        assert_eq!(
            fixture.file().write(EFER, EFER_LME | 2),
            Access::Fault,
            "reserved"
        );
    }

    #[test]
    fn virtual_top_and_secure_tsc_exist_only_with_their_feature() {
        let mut plain = fixture(SevFeatures::empty());
        assert_eq!(plain.file().read(VIRTUAL_TOM), Access::Fault);
        assert_eq!(plain.file().read(GUEST_TSC_FREQ), Access::Fault);
        let mut full = fixture(SevFeatures::VTOM | SevFeatures::SECURE_TSC);
        assert_eq!(full.file().write(VIRTUAL_TOM, 1 << 46), Access::Done(()));
        assert_eq!(full.file().read(VIRTUAL_TOM), Access::Done(1 << 46));
        assert_eq!(full.file().write(VIRTUAL_TOM, 0x1000), Access::Fault);
        assert_eq!(full.file().read(GUEST_TSC_FREQ), Access::Done(2000));
    }

    #[test]
    fn the_hosts_msrs_are_intercepted() {
        let mut fixture = fixture(SevFeatures::empty());
        for msr in [0x10, 0x1B, 0x832, 0x2FF, 0xC001_0010] {
            assert_eq!(fixture.file().read(msr), Access::Intercepted);
            assert_eq!(fixture.file().write(msr, 0), Access::Intercepted);
        }
        assert_eq!(
            fixture.file().write(PAT, 0x0007_0406_0007_0402),
            Access::Fault
        );
    }
}
