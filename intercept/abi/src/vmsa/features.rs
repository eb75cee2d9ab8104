//! How a vCPU runs: the features of its save area, and the status register that shows them.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// SEV_FEATURES of a VMSA (APM appendix B, VMSA offset 3B0h). Unknown bits are kept.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SevFeatures(pub u64);

bitflags! {
    impl SevFeatures: u64 {
        /// SEV-SNP is active.
        const SNP_ACTIVE = 1 << 0;
        /// Virtual top of memory decides what is private (APM vol. 2, 15.36.8).
        const VTOM = 1 << 1;
        /// #VC is not delivered but becomes an exit to the more privileged VMPL (APM vol. 2, 15.36.9).
        const REFLECT_VC = 1 << 2;
        /// The host may inject #HV only (APM vol. 2, 15.36.16).
        const RESTRICTED_INJECTION = 1 << 3;
        /// Injection is controlled from the VMSA (APM vol. 2, 15.36.15).
        const ALTERNATE_INJECTION = 1 << 4;
        /// Debug registers are swapped.
        const DEBUG_SWAP = 1 << 5;
        /// The host cannot sample with IBS.
        const PREVENT_HOST_IBS = 1 << 6;
        /// Branch targets are isolated from the host.
        const BTB_ISOLATION = 1 << 7;
        /// Supervisor shadow stacks by VMPL.
        const VMPL_SSS = 1 << 8;
        /// Secure TSC: scale and offset come from the VMSA (APM vol. 2, 15.36.18).
        const SECURE_TSC = 1 << 9;
        /// VMGEXIT takes a parameter.
        const VMGEXIT_PARAMETER = 1 << 10;
        /// Performance counters are virtualized.
        const PMC_VIRT = 1 << 11;
        /// IBS is virtualized.
        const IBS_VIRT = 1 << 12;
        /// The guest controls some intercepts.
        const GUEST_INTERCEPT_CONTROL = 1 << 13;
        /// VMSA registers are scrambled with a nonce (APM vol. 2, 15.36.17).
        const VMSA_REG_PROT = 1 << 14;
        /// SMT siblings must be idle or of the same guest.
        const SMT_PROTECTION = 1 << 15;
        /// Secure AVIC; excludes alternate injection.
        const SECURE_AVIC = 1 << 16;
        /// Indirect branch predictor barrier on each entry.
        const IBPB_ON_ENTRY = 1 << 21;
        const _ = !0;
    }
}

/// SEV_STATUS, MSR C001_0131 (APM vol. 2, 15.34.10): SEV, SEV-ES, then feature bit *n* at *n* + 2. Unknown bits are kept.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SevStatus(pub u64);

bitflags! {
    impl SevStatus: u64 {
        /// SEV is active.
        const SEV = 1 << 0;
        /// SEV-ES is active.
        const SEV_ES = 1 << 1;
        /// [`SevFeatures::SNP_ACTIVE`].
        const SNP_ACTIVE = 1 << 2;
        /// [`SevFeatures::VTOM`].
        const VTOM = 1 << 3;
        /// [`SevFeatures::REFLECT_VC`].
        const REFLECT_VC = 1 << 4;
        /// [`SevFeatures::RESTRICTED_INJECTION`].
        const RESTRICTED_INJECTION = 1 << 5;
        /// [`SevFeatures::ALTERNATE_INJECTION`].
        const ALTERNATE_INJECTION = 1 << 6;
        /// [`SevFeatures::DEBUG_SWAP`].
        const DEBUG_SWAP = 1 << 7;
        /// [`SevFeatures::PREVENT_HOST_IBS`].
        const PREVENT_HOST_IBS = 1 << 8;
        /// [`SevFeatures::BTB_ISOLATION`].
        const BTB_ISOLATION = 1 << 9;
        /// [`SevFeatures::VMPL_SSS`].
        const VMPL_SSS = 1 << 10;
        /// [`SevFeatures::SECURE_TSC`].
        const SECURE_TSC = 1 << 11;
        /// [`SevFeatures::VMSA_REG_PROT`].
        const VMSA_REG_PROT = 1 << 16;
        /// [`SevFeatures::SMT_PROTECTION`].
        const SMT_PROTECTION = 1 << 17;
        /// [`SevFeatures::IBPB_ON_ENTRY`].
        const IBPB_ON_ENTRY = 1 << 23;
        const _ = !0;
    }
}

impl SevStatus {
    /// Returns the status a vCPU with these features reads.
    #[must_use]
    pub const fn from_features(features: SevFeatures) -> Self {
        Self(0b11 | features.0 << 2)
    }

    /// Returns the features this status stands for.
    #[must_use]
    pub const fn features(self) -> SevFeatures {
        SevFeatures(self.0 >> 2)
    }
}

/// Number of the SEV_STATUS MSR (APM vol. 2, 15.34.10).
pub const SEV_STATUS_MSR: u32 = 0xC001_0131;
