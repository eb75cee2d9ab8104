//! A vCPU on a machine, as the paravisor makes them.

use std::cell::Cell;

use stockade_abi::cpuid_page::{CpuidEntry, CpuidPage};
use stockade_apic::{Features, Time};
use stockade_boot::ram::RamMap;
use stockade_bus::{Clock, Nanoseconds};
use stockade_intercept::cpuid::{CpuidInputs, CpuidPolicy, HypervisorIdentity, TscAdjust, X2Apic};
use stockade_paravisor::host::Timekeeper;
use stockade_paravisor::vcpu::Vcpu;
use zerocopy::FromZeros;

/// A clock that is moved by hand; its TSC counts nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandClock<'a>(pub(crate) &'a Cell<Nanoseconds>);

impl HandClock<'_> {
    pub(crate) fn advance(&self, ns: Nanoseconds) {
        self.0.set(self.0.get().saturating_add(ns));
    }
}

impl Clock for HandClock<'_> {
    fn now_ns(&self) -> Nanoseconds {
        self.0.get()
    }
}

impl Timekeeper for HandClock<'_> {
    fn now(&self) -> Time {
        Time {
            ns: self.0.get(),
            tsc: self.0.get(),
        }
    }

    fn tsc(&self) -> u64 {
        self.0.get()
    }

    fn tsc_at(&self, ns: u64) -> u64 {
        ns
    }
}

/// What the guest is offered: everything there is, so that all of it is reached.
pub(crate) const FEATURES: Features = Features {
    x2apic: true,
    tsc_deadline: true,
    eoi_suppression: true,
};

/// Returns what CPUID answers, from the least page the policy takes; `None` should that change.
pub(crate) fn cpuid() -> Option<CpuidPolicy> {
    let vendor = [0x6874_7541, 0x444D_4163, 0x6974_6E65];
    let leaves = [
        [0, 0, 0x10, vendor[0], vendor[1], vendor[2]],
        [1, 0, 0x00A0_0F11, 0, 0x00F8_3203, 0x178B_FBFF],
        [0x8000_0000, 0, 0x8000_0021, vendor[0], vendor[1], vendor[2]],
        [0x8000_0001, 0, 0x00A0_0F11, 0, 0x100, 0x2C10_0800],
        [0x8000_0008, 0, 0x3030, 0x1000, 0, 0],
    ];
    let mut page = CpuidPage::new_zeroed();
    for (entry, [leaf, subleaf, eax, ebx, ecx, edx]) in page.entries.iter_mut().zip(leaves) {
        *entry = CpuidEntry {
            eax_in: leaf,
            ecx_in: subleaf,
            eax,
            ebx,
            ecx,
            edx,
            ..CpuidEntry::new_zeroed()
        };
        page.count += 1;
    }
    let inputs = CpuidInputs {
        vcpus: 2,
        tsc_hz: 1_000_000_000,
        apic_timer_hz: 1_000_000_000,
        identity: HypervisorIdentity::default(),
        x2apic: X2Apic::Offered,
        tsc_adjust: TscAdjust::default(),
    };
    CpuidPolicy::try_new(&page, inputs).ok()
}

/// Returns the first vCPU of a small guest.
pub(crate) fn vcpu() -> Option<Vcpu> {
    let ram = RamMap::of_size(64 << 20).ok()?;
    Some(Vcpu::new(0, cpuid()?, FEATURES, &ram))
}
