//! What CPUID tells the guest (APM vol. 3, appendix E).
//!
//! Every answer comes from the page the PSP checked at launch, cut down by an allow-list: a leaf or a bit nobody here knows reads zero.
//! What depends on the vCPU or on our own devices is recomputed: APIC ids and topology, OSXSAVE, the size of extended state, the
//! APIC timer, the TSC frequency. Nothing of SEV, SVM or the host's shape shows.
//!
//! Start at [`CpuidPolicy`]; [`HypervisorIdentity`] has the story of how a stock kernel calibrates its TSC. A leaf the page does not
//! have reads zero, which is also what AMD processors answer out of range.

mod features;
mod hyperv;
mod identity;
mod input;
mod page;
mod topology;
mod xsave;

use stockade_abi::cpuid_page::{CPUID_MAX_ENTRIES, CpuidEntry, CpuidPage};
use stockade_abi::vmsa::Vmsa;

use features::{
    EXT_1_ECX_CMP_LEGACY, EXT_7_EDX_INVARIANT_TSC, Ext1Ecx, Ext1Edx, Ext8Ebx, Ext21Eax,
    LEAF_6_EAX_ARAT, LEAF_7_EBX_TSC_ADJUST, LEAF_7_ECX_OSPKE, Leaf1Ecx, Leaf1EcxOwn, Leaf1Edx,
    Leaf1EdxOwn, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Leaf7Sub1Eax,
};
use identity::Clocks;
pub use identity::{HypervisorIdentity, NoHypercall};
pub use input::{CpuidInputs, CpuidState, TscAdjust, X2Apic};
pub use page::CpuidError;
use page::{check_entries, find};
use topology::Topology;
use xsave::Xsave;

use crate::hyperv::ReferenceClock;

/// Guest-physical address bits: as many as RAM and PCI windows need, far below the guest's virtual top of memory. Firmware maps all
/// that these bits reach, page by page, and puts PCI devices into the last eighth: with 46 bits it is busy for a minute.
pub const PHYSICAL_ADDRESS_BITS: u32 = 41;

/// Highest basic leaf answered: frequencies.
const LAST_BASIC_LEAF: u32 = 0x16;
const FIRST_EXTENDED_LEAF: u32 = 0x8000_0000;
/// Highest extended leaf answered.
const LAST_EXTENDED_LEAF: u32 = 0x8000_0021;
/// Linear address bits without five-level paging.
const LINEAR_ADDRESS_BITS: u32 = 48;

/// CR4.OSXSAVE and CR4.PKE.
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Four registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers they are named after")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidResult {
    /// All zero.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };

    /// Puts the answer into the guest's registers.
    pub fn store(self, vmsa: &mut Vmsa) {
        vmsa.rax = self.eax.into();
        vmsa.rbx = self.ebx.into();
        vmsa.rcx = self.ecx.into();
        vmsa.rdx = self.edx.into();
    }
}

/// Features of the processor that decide which MSR values are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFeatures {
    /// EFER.FFXSR exists.
    pub has_fast_fxsr: bool,
    /// EFER.AIBRSE exists.
    pub has_automatic_ibrs: bool,
    /// EFER.NXE exists.
    pub has_nx: bool,
    /// SPEC_CTRL exists, with these bits.
    pub spec_ctrl_bits: u64,
    /// PRED_CMD exists, with these bits.
    pub pred_cmd_bits: u64,
    /// XSS exists (and has no bits).
    pub has_xss: bool,
    /// TSC_AUX exists.
    pub has_tsc_aux: bool,
    /// TSC_ADJUST exists.
    pub tsc_adjust: TscAdjust,
    /// x2APIC registers exist.
    pub x2apic: X2Apic,
}

/// The CPUID of one guest.
#[derive(Clone, Debug)]
pub struct CpuidPolicy {
    entries: [CpuidEntry; CPUID_MAX_ENTRIES],
    count: usize,
    topology: Topology,
    clocks: Clocks,
    identity: HypervisorIdentity,
    x2apic: X2Apic,
    tsc_adjust: TscAdjust,
    xsave: Xsave,
}

impl CpuidPolicy {
    /// Takes over a PSP-checked page (a private copy of it).
    pub fn try_new(page: &CpuidPage, inputs: CpuidInputs) -> Result<Self, CpuidError> {
        let count = usize::try_from(page.count)
            .ok()
            .filter(|count| (1..=CPUID_MAX_ENTRIES).contains(count))
            .ok_or(CpuidError::Count(page.count))?;
        let entries = &page.entries[..count];
        check_entries(entries)?;
        let is_hyperv = inputs.identity == HypervisorIdentity::HyperV;
        let has_clock = !is_hyperv || ReferenceClock::try_new(inputs.tsc_hz).is_some();
        if inputs.tsc_hz == 0 || inputs.apic_timer_hz == 0 || !has_clock {
            return Err(CpuidError::Frequency);
        }
        Ok(Self {
            entries: page.entries,
            count,
            topology: Topology::try_new(inputs.vcpus).ok_or(CpuidError::Vcpus(inputs.vcpus))?,
            clocks: Clocks {
                tsc_hz: inputs.tsc_hz,
                apic_hz: inputs.apic_timer_hz,
            },
            identity: inputs.identity,
            x2apic: inputs.x2apic,
            tsc_adjust: inputs.tsc_adjust,
            xsave: Xsave::new(|subleaf| find(entries, 0xD, subleaf)),
        })
    }

    /// Answers CPUID of `leaf` and `subleaf`.
    #[must_use]
    pub fn query(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        match leaf {
            0 => CpuidResult {
                eax: LAST_BASIC_LEAF,
                ..self.page(0, 0)
            },
            0x1 => self.leaf_1(state),
            0x6 => CpuidResult {
                eax: LEAF_6_EAX_ARAT,
                ..CpuidResult::ZERO
            },
            0x7 => self.leaf_7(subleaf, state),
            0xB => self.topology.extended(subleaf, state.apic_id),
            0xD => self.xsave.leaf(subleaf, state.xcr0, state.xss),
            0x15 => self.leaf_15(),
            0x16 => self.leaf_16(),
            0x4000_0000..=0x4000_FFFF => {
                self.identity.leaf(leaf, self.clocks, self.topology.cores())
            }
            FIRST_EXTENDED_LEAF..=LAST_EXTENDED_LEAF => self.extended(leaf, subleaf, state),
            _ => CpuidResult::ZERO,
        }
    }

    /// Returns the reference clock of Hyper-V's interface, if that is what the guest sees.
    #[must_use]
    pub fn reference_clock(&self) -> Option<ReferenceClock> {
        let is_hyperv = self.identity == HypervisorIdentity::HyperV;
        ReferenceClock::try_new(self.clocks.tsc_hz).filter(|_| is_hyperv)
    }

    /// Returns hertz of the local APIC's timer.
    #[must_use]
    pub const fn apic_timer_hz(&self) -> u32 {
        self.clocks.apic_hz
    }

    /// Answers VMMCALL; an error means #UD.
    pub fn hypercall(&self, vmsa: &mut Vmsa) -> Result<(), NoHypercall> {
        let has_x2apic = self.x2apic == X2Apic::Offered;
        self.identity.hypercall(self.clocks, has_x2apic, vmsa)
    }

    /// Returns whether XSETBV may put `value` into XCR0; if not, #GP(0).
    #[must_use]
    pub const fn is_valid_xcr0(&self, value: u64) -> bool {
        self.xsave.is_valid_xcr0(value)
    }

    /// Returns whether the processor keeps virtual NMIs (APM vol. 3, 8000_000A, EDX bit 25: VNMI).
    #[must_use]
    pub fn has_virtual_nmi(&self) -> bool {
        const VNMI: u32 = 1 << 25;
        self.page(0x8000_000A, 0).edx & VNMI != 0
    }

    /// Returns what decides about MSRs.
    #[must_use]
    pub fn msr_features(&self) -> MsrFeatures {
        let ext1 = self.page(0x8000_0001, 0);
        let ext8 = Ext8Ebx::from_bits_truncate(self.page(0x8000_0008, 0).ebx);
        let ext21 = Ext21Eax::from_bits_truncate(self.page(0x8000_0021, 0).eax);
        let ext1_edx = Ext1Edx::from_bits_truncate(ext1.edx);
        let bit = |is_there: bool, number: u32| u64::from(is_there) << number;
        MsrFeatures {
            has_fast_fxsr: ext1_edx.contains(Ext1Edx::FFXSR),
            has_automatic_ibrs: ext21.contains(Ext21Eax::AUTOMATIC_IBRS),
            has_nx: ext1_edx.contains(Ext1Edx::NX),
            spec_ctrl_bits: bit(ext8.contains(Ext8Ebx::IBRS), 0)
                | bit(ext8.contains(Ext8Ebx::STIBP), 1)
                | bit(ext8.contains(Ext8Ebx::SSBD), 2)
                | bit(ext8.contains(Ext8Ebx::PSFD), 7),
            pred_cmd_bits: bit(ext8.contains(Ext8Ebx::IBPB), 0)
                | bit(ext21.contains(Ext21Eax::SBPB), 7),
            has_xss: self.xsave.has_xss(),
            has_tsc_aux: ext1_edx.contains(Ext1Edx::RDTSCP)
                || self.page(7, 0).ecx & Leaf7Ecx::RDPID.bits() != 0,
            tsc_adjust: self.tsc_adjust,
            x2apic: self.x2apic,
        }
    }

    fn leaf_1(&self, state: &CpuidState) -> CpuidResult {
        let page = self.page(1, 0);
        let mut ecx = page.ecx & Leaf1Ecx::all().bits();
        if self.xsave.allowed() == 0 {
            ecx &= !(Leaf1Ecx::XSAVE | Leaf1Ecx::AVX | Leaf1Ecx::FMA | Leaf1Ecx::F16C).bits();
        }
        let mut own = Leaf1EcxOwn::TSC_DEADLINE;
        own.set(Leaf1EcxOwn::X2APIC, self.x2apic == X2Apic::Offered);
        own.set(Leaf1EcxOwn::OSXSAVE, state.cr4 & CR4_OSXSAVE != 0);
        own.set(
            Leaf1EcxOwn::HYPERVISOR,
            self.identity != HypervisorIdentity::Bare,
        );
        let mut own_edx = Leaf1EdxOwn::empty();
        own_edx.set(Leaf1EdxOwn::APIC, state.apic_enabled);
        own_edx.set(Leaf1EdxOwn::HTT, self.topology.cores() > 1);
        CpuidResult {
            eax: page.eax,
            ebx: state.apic_id << 24 | self.topology.cores() << 16 | page.ebx & 0xFF00,
            ecx: ecx | own.bits(),
            edx: page.edx & Leaf1Edx::all().bits() | own_edx.bits(),
        }
    }

    fn leaf_7(&self, subleaf: u32, state: &CpuidState) -> CpuidResult {
        let page = self.page(7, subleaf);
        match subleaf {
            0 => {
                let adjust = match self.tsc_adjust {
                    TscAdjust::Absent => 0,
                    TscAdjust::AlwaysZero => LEAF_7_EBX_TSC_ADJUST,
                };
                let pkeys_on = page.ecx & Leaf7Ecx::PKU.bits() != 0 && state.cr4 & CR4_PKE != 0;
                let ospke = if pkeys_on { LEAF_7_ECX_OSPKE } else { 0 };
                CpuidResult {
                    eax: page.eax.min(1),
                    ebx: page.ebx & Leaf7Ebx::all().bits() | adjust,
                    ecx: page.ecx & Leaf7Ecx::all().bits() | ospke,
                    edx: page.edx & Leaf7Edx::all().bits(),
                }
            }
            1 => CpuidResult {
                eax: page.eax & Leaf7Sub1Eax::all().bits(),
                ..CpuidResult::ZERO
            },
            _ => CpuidResult::ZERO,
        }
    }

    /// TSC = crystal × EBX / EAX, the crystal being what drives our APIC timer. Exact, unless the fraction needs more than 32 bits.
    fn leaf_15(&self) -> CpuidResult {
        let crystal = u64::from(self.clocks.apic_hz);
        let common = greatest_common_divisor(self.clocks.tsc_hz, crystal);
        let numerator = u32::try_from(self.clocks.tsc_hz / common);
        let denominator = u32::try_from(crystal / common);
        match (denominator, numerator) {
            (Ok(eax), Ok(ebx)) => CpuidResult {
                eax,
                ebx,
                ecx: self.clocks.apic_hz,
                edx: 0,
            },
            _ => CpuidResult::ZERO,
        }
    }

    /// Base, highest and bus frequency in MHz.
    fn leaf_16(&self) -> CpuidResult {
        let mhz =
            u32::try_from(self.clocks.tsc_hz / 1_000_000).map_or(0xFFFF, |mhz| mhz.min(0xFFFF));
        CpuidResult {
            eax: mhz,
            ebx: mhz,
            ecx: self.clocks.apic_hz / 1_000_000,
            edx: 0,
        }
    }

    fn extended(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        let page = self.page(leaf, 0);
        match leaf {
            0x8000_0000 => CpuidResult {
                eax: page.eax.clamp(0x8000_0008, LAST_EXTENDED_LEAF),
                ..page
            },
            0x8000_0001 => self.extended_1(state),
            // Brand string; L1 and L2 caches and their TLBs; 1 GiB TLBs; how wide the vector units are.
            0x8000_0002..=0x8000_0006 | 0x8000_0019 | 0x8000_001A => page,
            0x8000_0007 => CpuidResult {
                edx: EXT_7_EDX_INVARIANT_TSC,
                ..CpuidResult::ZERO
            },
            0x8000_0008 => CpuidResult {
                eax: LINEAR_ADDRESS_BITS << 8 | PHYSICAL_ADDRESS_BITS,
                ebx: page.ebx & Ext8Ebx::all().bits(),
                ecx: self.topology.core_count(),
                edx: 0,
            },
            0x8000_001D => self
                .find(leaf, subleaf)
                .map_or(CpuidResult::ZERO, |entry| self.topology.cache(entry)),
            0x8000_001E => self.topology.core(state.apic_id),
            0x8000_0021 => CpuidResult {
                eax: page.eax & Ext21Eax::all().bits(),
                ..CpuidResult::ZERO
            },
            _ => CpuidResult::ZERO,
        }
    }

    fn extended_1(&self, state: &CpuidState) -> CpuidResult {
        let page = self.page(0x8000_0001, 0);
        let legacy = if self.topology.cores() > 1 {
            EXT_1_ECX_CMP_LEGACY
        } else {
            0
        };
        let mut own_edx = Leaf1EdxOwn::empty();
        own_edx.set(Leaf1EdxOwn::APIC, state.apic_enabled);
        // The mirror of leaf 1 has no SEP, SSE, SSE2 and CLFSH: those bits are free or SYSCALL's.
        let mirror = Leaf1Edx::all()
            .difference(Leaf1Edx::SEP | Leaf1Edx::CLFSH | Leaf1Edx::SSE | Leaf1Edx::SSE2);
        CpuidResult {
            eax: page.eax,
            ebx: page.ebx,
            ecx: page.ecx & Ext1Ecx::all().bits() | legacy,
            edx: page.edx & (mirror.bits() | Ext1Edx::all().bits()) | own_edx.bits(),
        }
    }

    fn page(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        self.find(leaf, subleaf)
            .map_or(CpuidResult::ZERO, |entry| CpuidResult {
                eax: entry.eax,
                ebx: entry.ebx,
                ecx: entry.ecx,
                edx: entry.edx,
            })
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        find(&self.entries[..self.count], leaf, subleaf)
    }
}

/// Euclid's; at least 1 as neither number is zero.
const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
pub(crate) mod tests;
