//! What processors say of themselves: CPUID's policy, the local APIC's features, the hypervisor the guest sees.

use stockade_abi::cpuid_page::CpuidPage;
use stockade_abi::terminate::StopReason;
use stockade_apic::{Features, local::BUS_CLOCK_HZ};
use stockade_boot::manifest::GuestFlags;
use stockade_intercept::cpuid::{CpuidInputs, CpuidPolicy, HypervisorIdentity, TscAdjust, X2Apic};
use stockade_platform::{Launch, stop};
use zerocopy::FromZeros;

/// Returns what CPUID tells the guest: the checked page of the secure processor, cut down to what the manifest offers.
pub(crate) fn policy(launch: &Launch, tsc_hz: u64) -> CpuidPolicy {
    let mut page = CpuidPage::new_zeroed();
    for (slot, entry) in page.entries.iter_mut().zip(launch.cpuid.entries()) {
        *slot = *entry;
        page.count += 1;
    }
    let inputs = CpuidInputs {
        vcpus: launch.parameters.vcpu_count,
        tsc_hz,
        apic_timer_hz: u32::try_from(BUS_CLOCK_HZ).unwrap_or(u32::MAX),
        identity: hypervisor(launch.manifest.flags()),
        x2apic: if launch.manifest.flags().contains(GuestFlags::X2APIC) {
            X2Apic::Offered
        } else {
            X2Apic::Hidden
        },
        tsc_adjust: TscAdjust::default(),
    };
    CpuidPolicy::try_new(&page, inputs).unwrap_or_else(|error| {
        log::error!("{error}");
        stop(StopReason::CPUID_PAGE_INVALID)
    })
}

fn hypervisor(flags: GuestFlags) -> HypervisorIdentity {
    if flags.contains(GuestFlags::HYPERV_IDENTITY) {
        HypervisorIdentity::HyperV
    } else if flags.contains(GuestFlags::BARE_IDENTITY) {
        HypervisorIdentity::Bare
    } else if flags.contains(GuestFlags::VMWARE_IDENTITY) {
        HypervisorIdentity::Vmware
    } else {
        HypervisorIdentity::Stockade
    }
}

/// Returns what the local APICs offer.
pub(crate) fn features(flags: GuestFlags) -> Features {
    Features {
        x2apic: flags.contains(GuestFlags::X2APIC),
        tsc_deadline: true,
        eoi_suppression: false,
    }
}
