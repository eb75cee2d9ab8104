//! What the architecture demands of processor and host; each demand has its stop code.

use stockade_abi::ghcb_msr::HypervisorFeatures;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::{SEV_STATUS_MSR, SevFeatures, SevStatus};
use stockade_boot::layout::C_BIT;

use crate::cpuid::CpuidTable;
use crate::msr_protocol::{self, Exchange};
use crate::processor;
use crate::stop::refuse;

/// What the paravisor's save area must have on.
const NEEDED: SevFeatures = SevFeatures::SNP_ACTIVE
    .union(SevFeatures::RESTRICTED_INJECTION)
    .union(SevFeatures::DEBUG_SWAP);
/// What it must not: these belong to the guest's.
const FORBIDDEN: SevFeatures = SevFeatures::VTOM
    .union(SevFeatures::REFLECT_VC)
    .union(SevFeatures::ALTERNATE_INJECTION);
/// What the host must offer.
const NEEDED_OF_HOST: HypervisorFeatures = HypervisorFeatures::SNP
    .union(HypervisorFeatures::AP_CREATION)
    .union(HypervisorFeatures::RESTRICTED_INJECTION)
    .union(HypervisorFeatures::MULTI_VMPL);
/// Leaf of the encryption features; EBX bits 5:0 are the C-bit's position (APM vol. 3, E.4.17).
const ENCRYPTION_LEAF: u32 = 0x8000_001F;

/// Returns the features we run with, from the register only hardware writes.
pub(super) fn sev_features() -> SevFeatures {
    // SAFETY: 1. the register exists on every SNP processor; this image is started on none other.
    let status = SevStatus(unsafe { processor::read_msr(SEV_STATUS_MSR) });
    let features = status.features();
    if !status.contains(SevStatus::SEV | SevStatus::SEV_ES)
        || !features.contains(NEEDED)
        || features.intersects(FORBIDDEN)
    {
        let why = format_args!("SEV_STATUS is {:#x}", status.0);
        refuse(StopReason::MISSING_SEV_FEATURE, &why);
    }
    features
}

/// Checks that the C-bit is where the measured page tables have it.
pub(super) fn c_bit(cpuid: &CpuidTable) {
    let c_bit = cpuid.lookup(ENCRYPTION_LEAF, 0)[1] & 0x3F;
    if c_bit != C_BIT {
        let why = format_args!("the C-bit is bit {c_bit}, not {C_BIT}");
        refuse(StopReason::C_BIT_MISMATCH, &why);
    }
}

/// Checks the host's protocol version and returns what it can do.
pub(super) fn hypervisor_features(exchange: &mut impl Exchange) -> HypervisorFeatures {
    let info = msr_protocol::sev_info(exchange);
    let info = info.unwrap_or_else(|error| refuse(StopReason::GHCB_PROTOCOL, &error));
    if !info.has_version_2 {
        let why = "the host does not speak version 2 of the GHCB protocol";
        refuse(StopReason::GHCB_PROTOCOL, &why);
    }
    if u32::from(info.c_bit) != C_BIT {
        let why = format_args!("the host says the C-bit is bit {}", info.c_bit);
        refuse(StopReason::HOST_LIED, &why);
    }
    let features = msr_protocol::features(exchange);
    let features = features.unwrap_or_else(|error| refuse(StopReason::GHCB_PROTOCOL, &error));
    if !features.contains(NEEDED_OF_HOST) {
        let why = format_args!("the host's features are {:#x}", features.bits());
        refuse(StopReason::MISSING_HYPERVISOR_FEATURE, &why);
    }
    features
}
