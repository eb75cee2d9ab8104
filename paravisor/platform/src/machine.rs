//! What a started platform hands to the program.

use stockade_abi::ghcb_msr::HypervisorFeatures;
use stockade_abi::vmsa::SevFeatures;
use stockade_boot::manifest::Manifest;
use stockade_boot::parameters::Parameters;

use crate::bounce::SharedRegion;
use crate::cpuid::CpuidTable;
use crate::doorbell::Doorbell;
use crate::ghcb::Ghcb;
use crate::memory::GuestRam;
use crate::module::ModuleMemory;
use crate::psp::Psp;
use crate::time::TscClock;
use crate::vmsa::GuestVmsa;

/// The machine under the program: checked, accepted, ready to run a guest.
#[derive(Debug)]
pub struct Platform {
    /// The processor we run on.
    pub cpu: Cpu,
    /// The guest's memory, all of it accepted and open to VMPL2.
    pub ram: GuestRam,
    /// The source of guest time; 0 is when the paravisor started.
    pub clock: TscClock,
    /// The way to the secure processor.
    pub psp: Psp,
    /// What the launch left for us.
    pub launch: Launch,
    /// Memory shared with the host's devices, if the image has any.
    pub bounce: Option<SharedRegion>,
    /// Memory for modules, if the image has any.
    pub modules: Option<ModuleMemory>,
    /// The other processors, to be started.
    #[cfg(feature = "image")]
    pub processors: crate::boot::Processors,
}

/// One processor: the handles to its host side.
#[derive(Debug)]
pub struct Cpu {
    /// Its APIC id.
    pub apic_id: u32,
    /// Calls to the host.
    pub ghcb: Ghcb,
    /// What the host signals.
    pub doorbell: Doorbell,
    /// The guest's registers on it; the host knows this save area as VMPL2 of this processor.
    pub vmsa: GuestVmsa,
}

/// What was there at launch, checked.
#[derive(Debug)]
pub struct Launch {
    /// CPUID as the PSP vouched for it.
    pub cpuid: &'static CpuidTable,
    /// The manifest, measured.
    pub manifest: Manifest,
    /// What the host chose, as far as the manifest allows it.
    pub parameters: Parameters,
    /// The features the paravisor runs with.
    pub sev_features: SevFeatures,
    /// What the host can do.
    pub hypervisor_features: HypervisorFeatures,
}
