//! CPUID answers: the page the firmware checks at launch, and what the host answers at run time.
//!
//! A guest gets what the processor under the model has, less what an SNP guest may not have (as the firmware's check refuses
//! it, SNP ABI 8.17.2.6), less what the model cannot do, plus the leaf that says SEV-SNP. [`fill`] makes a page,
//! [`answer`] one entry.

mod leaves;
#[cfg(test)]
mod tests;

use bitflags::bitflags;
use stockade_abi::cpuid_page::{CPUID_MAX_ENTRIES, CpuidEntry, CpuidPage};

/// A processor's CPUID instruction.
pub trait CpuidSource {
    /// Executes it.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers;
}

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

bitflags! {
    /// EAX of leaf 8000_001F (APM vol. 3, E.4.17).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SevCapabilities: u32 {
        /// SEV.
        const SEV = 1 << 1;
        /// SEV-ES.
        const SEV_ES = 1 << 3;
        /// SEV-SNP.
        const SEV_SNP = 1 << 4;
        /// VM permission levels.
        const VMPL = 1 << 5;
        /// Secure TSC.
        const SECURE_TSC = 1 << 8;
        /// TSC_AUX in the VMSA is the guest's.
        const TSC_AUX_VIRTUALIZATION = 1 << 9;
        /// Caches are coherent across encryption domains.
        const HARDWARE_COHERENCY = 1 << 10;
        /// Restricted injection.
        const RESTRICTED_INJECTION = 1 << 12;
        /// Alternate injection.
        const ALTERNATE_INJECTION = 1 << 13;
        /// Debug registers are swapped.
        const DEBUG_SWAP = 1 << 14;
        /// Virtual top of memory ("virtual transparent encryption").
        const VTOM = 1 << 16;
    }
}

impl SevCapabilities {
    /// All the model knows but Secure TSC.
    pub const MODEL: Self = Self::all().difference(Self::SECURE_TSC);
}

/// What becomes of XSAVE. TCG has XSAVE and AVX, but neither XSAVEC nor XSAVES; Linux as an SNP guest insists on one of these
/// in leaf 0xD subleaf 1 even if it never uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xsave {
    /// As the processor has it: for a paravisor, whose guest is an ordinary machine.
    Native,
    /// XSAVE and what needs it hidden in leaf 1, XSAVEC claimed in leaf 0xD: for Linux as an SNP guest.
    HiddenWithCompactionClaimed,
}

/// What a launch wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// XSAVE.
    pub xsave: Xsave,
    /// Leaf 8000_001F.
    pub sev: SevCapabilities,
    /// The C-bit's position.
    pub c_bit: u8,
    /// Who answers leaf 4000_0000, twelve characters; none hides that leaf.
    pub hypervisor: Option<[u8; 12]>,
}

impl Options {
    /// Returns the options for an image with a paravisor.
    #[must_use]
    pub const fn paravisor(vcpus: u32) -> Self {
        Self {
            vcpus,
            xsave: Xsave::Native,
            sev: SevCapabilities::MODEL,
            c_bit: 51,
            hypervisor: None,
        }
    }

    /// Returns the options for Linux as an SNP guest at VMPL0.
    #[must_use]
    pub const fn linux(vcpus: u32) -> Self {
        Self {
            xsave: Xsave::HiddenWithCompactionClaimed,
            ..Self::paravisor(vcpus)
        }
    }
}

/// Leaves and subleaves of a page for an image that asks for none.
const DEFAULT_LIST: [(u32, u32); 33] = [
    (0x0, 0),
    (0x1, 0),
    (0x5, 0),
    (0x6, 0),
    (0x7, 0),
    (0x7, 1),
    (0xB, 0),
    (0xB, 1),
    (0xB, 2),
    (0xD, 0),
    (0xD, 1),
    (0xD, 2),
    (0x15, 0),
    (0x16, 0),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_000A, 0),
    (0x8000_0019, 0),
    (0x8000_001A, 0),
    (0x8000_001D, 0),
    (0x8000_001D, 1),
    (0x8000_001D, 2),
    (0x8000_001D, 3),
    (0x8000_001E, 0),
    (0x8000_001F, 0),
    (0x8000_0021, 0),
];

/// Fills the page: each leaf `wanted` names, or the default list where it names none. More than 64 entries are cut.
#[must_use]
pub fn fill(wanted: &CpuidPage, source: &impl CpuidSource, options: &Options) -> CpuidPage {
    let mut page = CpuidPage::zeroed();
    let count = usize::try_from(wanted.count)
        .map_or(CPUID_MAX_ENTRIES, |count| count.min(CPUID_MAX_ENTRIES));
    let mut used = 0;
    if count == 0 {
        for ((leaf, subleaf), entry) in DEFAULT_LIST.iter().zip(&mut page.entries) {
            let request = CpuidEntry {
                eax_in: *leaf,
                ecx_in: *subleaf,
                ..CpuidEntry::default()
            };
            *entry = answer(&request, source, options);
            used += 1;
        }
    }
    for (request, entry) in wanted.entries[..count].iter().zip(&mut page.entries) {
        *entry = answer(request, source, options);
        used += 1;
    }
    page.count = used;
    page
}

/// Answers one entry: leaf, subleaf and, for leaf 0xD, XCR0 and XSS are those of `request`; an XCR0 of 0 means x87.
#[must_use]
pub fn answer(request: &CpuidEntry, source: &impl CpuidSource, options: &Options) -> CpuidEntry {
    let xcr0 = match request.eax_in {
        0xD if request.ecx_in < 2 => request.xcr0_in.max(1),
        _ => 0,
    };
    let found = leaves::answer(request.eax_in, request.ecx_in, xcr0, source, options);
    CpuidEntry {
        eax_in: request.eax_in,
        ecx_in: request.ecx_in,
        xcr0_in: xcr0,
        xss_in: 0,
        eax: found.eax,
        ebx: found.ebx,
        ecx: found.ecx,
        edx: found.edx,
        reserved: 0,
    }
}

/// Answers CPUID at run time for the vCPU with this APIC ID (the GHCB's CPUID event and its MSR protocol). `xcr0` is the
/// guest's, for leaf 0xD.
#[must_use]
pub fn run_time(
    leaf: u32,
    subleaf: u32,
    xcr0: u64,
    apic_id: u32,
    source: &impl CpuidSource,
    options: &Options,
) -> Registers {
    let mut found = leaves::answer(leaf, subleaf, xcr0.max(1), source, options);
    match leaf {
        0x1 => found.ebx = found.ebx & 0x00FF_FFFF | apic_id << 24,
        0xB => found.edx = apic_id,
        0x8000_001E => {
            found.eax = apic_id;
            found.ebx = found.ebx & !0xFF | apic_id & 0xFF;
        }
        _ => {}
    }
    found
}
