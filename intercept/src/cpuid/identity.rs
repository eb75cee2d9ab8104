//! Who the guest is told it runs on, and how it learns the TSC frequency (leaves 4000_0000 and up).
//!
//! What decides is how a stock Linux on an AMD processor finds the TSC frequency; read in `arch/x86/kernel/tsc.c` of 6.1 and later:
//!
//! - Leaves 15h and 16h are asked on Intel processors only (`native_calibrate_tsc`, `cpu_khz_from_cpuid`).
//! - `quick_pit_calibrate` reads PIT channel 2 in a loop and wants an error below 500 ppm within 25 ms. Two port reads must take
//!   less than about 6 µs; with a reflected exit each they do not, on silicon or on the model: "Fast TSC calibration failed".
//! - Then `pit_hpet_ptimer_calibrate_cpu` (10, 10 and 50 ms) compares the TSC with the PM timer, if three PM timer reads take
//!   less than 131,072 TSC cycles. A few microseconds each on silicon: this is what works there. On the model an exit costs about
//!   100 µs, the reads are thrown away, and the kernel gives up the TSC and its deadline timer: every clock read becomes an exit.
//! - `tsc_early_khz=` on the command line goes before all of these and is exact. Whoever measures the command line should add it.
//! - Without a command line only a hypervisor's interface helps. KVM's and Hyper-V's are large. VMware's is one VMMCALL that returns
//!   the frequency of TSC and APIC timer ([`HypervisorIdentity::Vmware`]): Linux then trusts the TSC without a watchdog, skips
//!   both calibrations and the check of IRQ 0, and may use x2APIC without interrupt remapping.
//!
//! Once it has a frequency, Linux keeps the TSC because of the invariant bit (8000_0007 EDX 8, with HWCR bit 24 set), and runs it
//! without the watchdog that reads the PM timer twice a second if TSC_ADJUST is there too, on one socket.
//! An unknown signature is harmless: the kernel scans 4000_0000 to 4000_FF00 a few times (some 1,300 exits) and
//! prints no complaint. The hypervisor bit itself is wanted: it tells a kernel not to look for microcode, errata and counters.

use stockade_abi::vmsa::Vmsa;

use super::{CpuidResult, hyperv};
use crate::hyperv::INVALID_CALL;

/// Who the guest is told it runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HypervisorIdentity {
    /// Nobody: the hypervisor bit is clear.
    Bare,
    /// "StockadeHV", with the timing leaf 4000_0010 that several guests read from any hypervisor.
    #[default]
    Stockade,
    /// VMware's signature, timing leaf and three harmless hypercalls, for guests whose command line is not ours.
    Vmware,
    /// Hyper-V's interface "Hv#1", the least of it that Windows and Linux take for it.
    HyperV,
}

/// The clocks a guest is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clocks {
    pub(super) tsc_hz: u64,
    pub(super) apic_hz: u32,
}

/// First leaf of a hypervisor.
pub(super) const FIRST_LEAF: u32 = 0x4000_0000;
/// The timing leaf, and the last one: EAX TSC kHz, EBX APIC timer kHz.
const TIMING_LEAF: u32 = 0x4000_0010;
/// In ECX of VMware's timing leaf: hypercalls go by VMMCALL.
const VMWARE_USE_VMMCALL: u32 = 1;

/// RAX of a VMware hypercall.
const VMWARE_MAGIC: u32 = 0x564D_5868;
const VMWARE_GET_VERSION: u32 = 10;
const VMWARE_GET_HZ: u32 = 45;
const VMWARE_GET_VCPU_INFO: u32 = 68;
/// In GETVCPU_INFO: x2APIC can be used without interrupt remapping.
const VMWARE_VCPU_LEGACY_X2APIC: u32 = 1 << 3;
/// In GETVERSION: the product, a server.
const VMWARE_PRODUCT_SERVER: u32 = 2;
/// In GETVERSION: the protocol.
const VMWARE_PROTOCOL: u32 = 6;

/// There is no such hypercall: #UD, as without a hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such hypercall")]
pub struct NoHypercall;

impl HypervisorIdentity {
    /// Answers a leaf from 4000_0000 on.
    pub(super) fn leaf(self, leaf: u32, clocks: Clocks, cores: u32) -> CpuidResult {
        let signature = match self {
            Self::Bare => return CpuidResult::ZERO,
            Self::HyperV => return hyperv::leaf(leaf, cores),
            Self::Stockade => *b"StockadeHV\0\0",
            Self::Vmware => *b"VMwareVMware",
        };
        match leaf {
            FIRST_LEAF => CpuidResult {
                eax: TIMING_LEAF,
                ebx: word(&signature, 0),
                ecx: word(&signature, 4),
                edx: word(&signature, 8),
            },
            TIMING_LEAF => CpuidResult {
                eax: u32::try_from(clocks.tsc_hz / 1000).unwrap_or(0),
                ebx: clocks.apic_hz / 1000,
                ecx: match self {
                    Self::Vmware => VMWARE_USE_VMMCALL,
                    Self::Bare | Self::Stockade | Self::HyperV => 0,
                },
                edx: 0,
            },
            _ => CpuidResult::ZERO,
        }
    }

    /// Answers VMMCALL from and into the guest's registers.
    pub(super) fn hypercall(
        self,
        clocks: Clocks,
        has_x2apic: bool,
        vmsa: &mut Vmsa,
    ) -> Result<(), NoHypercall> {
        if self == Self::HyperV && vmsa.cpl == 0 {
            // Status in the low half, nothing repeated: there is nobody to call.
            vmsa.rax = INVALID_CALL;
            return Ok(());
        }
        if self != Self::Vmware || vmsa.cpl != 0 || low(vmsa.rax) != VMWARE_MAGIC {
            return Err(NoHypercall);
        }
        match low(vmsa.rcx) & 0xFFFF {
            VMWARE_GET_VERSION => {
                vmsa.rax = u64::from(VMWARE_PROTOCOL);
                vmsa.rbx = u64::from(VMWARE_MAGIC);
                vmsa.rcx = u64::from(VMWARE_PRODUCT_SERVER);
            }
            VMWARE_GET_HZ => {
                vmsa.rax = clocks.tsc_hz & 0xFFFF_FFFF;
                vmsa.rbx = clocks.tsc_hz >> 32;
                vmsa.rcx = u64::from(clocks.apic_hz);
            }
            VMWARE_GET_VCPU_INFO if has_x2apic => {
                vmsa.rax = u64::from(VMWARE_VCPU_LEGACY_X2APIC);
            }
            VMWARE_GET_VCPU_INFO => vmsa.rax = 0,
            // As the product answers what it does not know: ones, and RBX as it was.
            _ => vmsa.rax = 0xFFFF_FFFF,
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(register: u64) -> u32 {
    register as u32
}

const fn word(bytes: &[u8; 12], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCKS: Clocks = Clocks {
        tsc_hz: 5_000_000_000,
        apic_hz: 1_000_000_000,
    };

    fn call(command: u64) -> (Result<(), NoHypercall>, Vmsa) {
        let mut vmsa = Vmsa::zeroed();
        vmsa.rax = u64::from(VMWARE_MAGIC);
        vmsa.rbx = 0xFFFF_FFFF;
        vmsa.rcx = command;
        let result = HypervisorIdentity::Vmware.hypercall(CLOCKS, true, &mut vmsa);
        (result, vmsa)
    }

    #[test]
    fn frequency_call_returns_both_clocks() {
        let (result, vmsa) = call(u64::from(VMWARE_GET_HZ));
        assert_eq!(result, Ok(()));
        assert_eq!(vmsa.rbx << 32 | vmsa.rax, 5_000_000_000);
        assert_eq!(vmsa.rcx, 1_000_000_000);
    }

    #[test]
    fn x2apic_is_allowed_when_offered() {
        assert_eq!(call(u64::from(VMWARE_GET_VCPU_INFO)).1.rax, 8);
    }

    /// Steal time (91) and all else: ones mean "not there".
    #[test]
    fn other_calls_answer_ones() {
        assert_eq!(call(91).1.rax, 0xFFFF_FFFF);
    }

    #[test]
    fn hypercall_is_undefined_without_magic_from_user_mode_or_under_another_name() {
        let mut vmsa = Vmsa::zeroed();
        let vmware = HypervisorIdentity::Vmware;
        assert_eq!(vmware.hypercall(CLOCKS, true, &mut vmsa), Err(NoHypercall));
        vmsa.rax = u64::from(VMWARE_MAGIC);
        let other = HypervisorIdentity::Stockade;
        assert_eq!(other.hypercall(CLOCKS, true, &mut vmsa), Err(NoHypercall));
        vmsa.cpl = 3;
        assert_eq!(vmware.hypercall(CLOCKS, true, &mut vmsa), Err(NoHypercall));
    }

    #[test]
    fn signatures_are_spelled_in_ebx_ecx_edx() {
        let leaf = HypervisorIdentity::Vmware.leaf(FIRST_LEAF, CLOCKS, 1);
        let mut text = [0; 12];
        text[..4].copy_from_slice(&leaf.ebx.to_le_bytes());
        text[4..8].copy_from_slice(&leaf.ecx.to_le_bytes());
        text[8..].copy_from_slice(&leaf.edx.to_le_bytes());
        assert_eq!(&text, b"VMwareVMware");
        assert_eq!(leaf.eax, 0x4000_0010);
    }

    /// Windows' loader looks for the name of the interface, not of the vendor.
    #[test]
    fn hyperv_is_spelled_in_its_two_leaves() {
        let leaf = |leaf| HypervisorIdentity::HyperV.leaf(leaf, CLOCKS, 3);
        let vendor = leaf(FIRST_LEAF);
        let text = [vendor.ebx, vendor.ecx, vendor.edx].map(u32::to_le_bytes);
        assert_eq!(text.as_flattened(), b"Microsoft Hv");
        assert_eq!(&leaf(0x4000_0001).eax.to_le_bytes(), b"Hv#1");
        assert_eq!(vendor.eax, 0x4000_0005);
        assert_eq!(leaf(0x4000_0005).eax, 3);
        assert_eq!(leaf(TIMING_LEAF), CpuidResult::ZERO);
    }

    #[test]
    fn nobody_is_behind_hyperv_hypercalls() {
        let mut vmsa = Vmsa::zeroed();
        vmsa.rcx = 0x5C;
        let hyperv = HypervisorIdentity::HyperV;
        assert_eq!(hyperv.hypercall(CLOCKS, false, &mut vmsa), Ok(()));
        assert_eq!(vmsa.rax, 2);
        vmsa.cpl = 3;
        let outcome = hyperv.hypercall(CLOCKS, false, &mut vmsa);
        assert_eq!(outcome, Err(NoHypercall));
    }

    #[test]
    fn timing_leaf_is_in_kilohertz() {
        let leaf = HypervisorIdentity::Stockade.leaf(TIMING_LEAF, CLOCKS, 1);
        assert_eq!((leaf.eax, leaf.ebx), (5_000_000, 1_000_000));
        assert_eq!(
            HypervisorIdentity::Bare.leaf(TIMING_LEAF, CLOCKS, 1),
            CpuidResult::ZERO
        );
    }
}
