//! What decides about CPUID beside the page.

use stockade_abi::vmsa::Vmsa;

use super::HypervisorIdentity;

/// Whether a guest may put its local APIC into x2APIC mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum X2Apic {
    /// No.
    #[default]
    Hidden,
    /// Yes. A stock Linux does so only where it need not remap interrupts.
    Offered,
}

/// Whether a guest sees the TSC_ADJUST MSR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TscAdjust {
    /// No: Linux checks its TSC against the PM timer twice a second for ever.
    Absent,
    /// Yes, always zero: nothing ever shifts a guest's TSC. Linux then trusts it.
    #[default]
    AlwaysZero,
}

/// What the policy needs beside the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidInputs {
    /// vCPUs, with APIC ids from zero: 1 to 255.
    pub vcpus: u32,
    /// Frequency of the guest's TSC.
    pub tsc_hz: u64,
    /// Frequency of the local APIC timer at divisor 1.
    pub apic_timer_hz: u32,
    /// Whose name the guest reads.
    pub identity: HypervisorIdentity,
    /// Whether x2APIC is offered.
    pub x2apic: X2Apic,
    /// Whether TSC_ADJUST is offered.
    pub tsc_adjust: TscAdjust,
}

/// The state of the asking vCPU that shows in CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidState {
    /// Its APIC id.
    pub apic_id: u32,
    /// Whether its APIC is enabled in APIC_BASE.
    pub apic_enabled: bool,
    /// Its CR4.
    pub cr4: u64,
    /// Its XCR0.
    pub xcr0: u64,
    /// Its XSS.
    pub xss: u64,
}

impl CpuidState {
    /// Collects the state from a VMSA and what the APIC says.
    #[must_use]
    pub fn new(vmsa: &Vmsa, apic_id: u32, apic_enabled: bool) -> Self {
        Self {
            apic_id,
            apic_enabled,
            cr4: vmsa.cr4,
            xcr0: vmsa.xcr0,
            xss: vmsa.xss,
        }
    }
}
