//! The GHCB MSR protocol (GHCB 2.3): requests in MSR C001_0130 before a GHCB is in use.

use super::ghcb::page_state::Operation;
use stockade_abi::ghcb_msr::{self as abi, Code, HypervisorFeatures};

/// What this host offers.
pub const OFFERED: HypervisorFeatures = HypervisorFeatures::SNP
    .union(HypervisorFeatures::AP_CREATION)
    .union(HypervisorFeatures::RESTRICTED_INJECTION)
    .union(HypervisorFeatures::APIC_ID_LIST)
    .union(HypervisorFeatures::MULTI_VMPL)
    .union(HypervisorFeatures::PAGE_STATE_CHANGE);

/// A register of a CPUID answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl CpuidRegister {
    /// Of two bits, so the rest is EDX.
    const fn decode(number: u8) -> Self {
        match number {
            0 => Self::Eax,
            1 => Self::Ebx,
            2 => Self::Ecx,
            _ => Self::Edx,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Eax => 0,
            Self::Ebx => 1,
            Self::Ecx => 2,
            Self::Edx => 3,
        }
    }
}

/// A value written to the MSR, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The low bits are 0: the value is the GHCB's address, the request is in the page.
    GhcbPage {
        /// Guest-physical address.
        gpa: u64,
    },
    /// SEV information.
    SevInformation,
    /// One register of a CPUID leaf (subleaf 0).
    Cpuid {
        /// The leaf.
        leaf: u32,
        /// The register wanted.
        register: CpuidRegister,
    },
    /// An AP waits for INIT-SIPI.
    ApResetHold,
    /// Which GHCB address the host prefers.
    PreferredGhcb,
    /// Registers the GHCB's address.
    RegisterGhcb {
        /// Guest-physical address.
        gpa: u64,
    },
    /// Page state change of one 4 KiB page; only [`Operation::Private`] and [`Operation::Shared`] exist here.
    PageState {
        /// Guest-physical address.
        gpa: u64,
        /// What to do.
        operation: Operation,
    },
    /// Runs another VMPL of this vCPU.
    RunVmpl {
        /// Which, 0 to 3.
        vmpl: u8,
    },
    /// Hypervisor features.
    HypervisorFeatures,
    /// The guest gives up.
    Terminate {
        /// Reason code set.
        set: u8,
        /// Reason code.
        code: u8,
    },
    /// Anything else; the specification wants the guest terminated.
    Unknown {
        /// The raw value.
        value: u64,
    },
}

const FRAME: u64 = 0x000F_FFFF_FFFF_F000;

impl Request {
    /// Decodes a value of the MSR; any value is some request.
    #[must_use]
    pub fn decode(value: u64) -> Self {
        let unknown = Self::Unknown { value };
        match abi::code(value) {
            Code::GHCB_GPA if value & !FRAME == 0 => Self::GhcbPage { gpa: value },
            Code::SEV_INFO_REQUEST => Self::SevInformation,
            Code::CPUID_REQUEST => {
                let (leaf, register) = abi::cpuid_request_parts(value);
                Self::Cpuid {
                    leaf,
                    register: CpuidRegister::decode(register),
                }
            }
            Code::AP_RESET_HOLD_REQUEST => Self::ApResetHold,
            Code::PREFERRED_GPA_REQUEST => Self::PreferredGhcb,
            Code::REGISTER_REQUEST => Self::RegisterGhcb { gpa: value & FRAME },
            Code::PAGE_STATE_REQUEST => {
                let (gpa, operation) = abi::page_state_request_parts(value);
                match Operation::decode(operation) {
                    Some(operation @ (Operation::Private | Operation::Shared))
                        if value >> 56 == 0 =>
                    {
                        Self::PageState { gpa, operation }
                    }
                    _ => unknown,
                }
            }
            Code::RUN_VMPL_REQUEST => match abi::run_vmpl_request_vmpl(value) {
                vmpl @ 0..4 if value >> 40 == 0 => Self::RunVmpl { vmpl },
                _ => unknown,
            },
            Code::FEATURES_REQUEST => Self::HypervisorFeatures,
            Code::TERMINATE_REQUEST => {
                let (set, code) = abi::terminate_request_parts(value);
                Self::Terminate { set, code }
            }
            _ => unknown,
        }
    }
}

/// A value for the MSR as the guest reads it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// SEV information: protocol versions and the C-bit's position.
    SevInformation {
        /// Highest version.
        max: u16,
        /// Lowest version.
        min: u16,
        /// The C-bit.
        c_bit: u8,
    },
    /// A register of a CPUID leaf.
    Cpuid {
        /// Its value.
        value: u32,
        /// Which it is.
        register: CpuidRegister,
    },
    /// The AP was woken.
    ApResetHold,
    /// The preferred GHCB, `None` for no preference.
    PreferredGhcb(Option<u64>),
    /// The registered GHCB, `None` for refused.
    RegisterGhcb(Option<u64>),
    /// Page state change: 0 done.
    PageState {
        /// Error code.
        error: u32,
    },
    /// Run VMPL: 0 ran.
    RunVmpl {
        /// Error code.
        error: u32,
    },
    /// Hypervisor features.
    HypervisorFeatures(HypervisorFeatures),
}

impl Response {
    /// Encodes the value of the MSR.
    #[must_use]
    pub fn encode(self) -> u64 {
        match self {
            Self::SevInformation { max, min, c_bit } => abi::sev_info(max, min, c_bit),
            Self::Cpuid { value, register } => abi::cpuid_response(value) | register.number() << 30,
            Self::ApResetHold => abi::word(Code::AP_RESET_HOLD_RESPONSE, 1),
            Self::PreferredGhcb(gpa) => abi::word(
                Code::PREFERRED_GPA_RESPONSE,
                gpa.map_or(abi::NO_PREFERRED_GFN, |gpa| gpa >> 12),
            ),
            Self::RegisterGhcb(gpa) => abi::register_response(gpa.unwrap_or(u64::MAX)),
            Self::PageState { error } => abi::page_state_response(error),
            Self::RunVmpl { error } => abi::run_vmpl_response(error),
            Self::HypervisorFeatures(features) => abi::features_response(features),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_code_decodes_with_its_operands() {
        let cases = [
            (
                0x0080_0012_3000,
                Request::GhcbPage {
                    gpa: 0x0080_0012_3000,
                },
            ),
            (0x002, Request::SevInformation),
            (
                0x8000_001F_4000_0004,
                Request::Cpuid {
                    leaf: 0x8000_001F,
                    register: CpuidRegister::Ebx,
                },
            ),
            (
                0x0000_0001_C000_0004,
                Request::Cpuid {
                    leaf: 1,
                    register: CpuidRegister::Edx,
                },
            ),
            (0x006, Request::ApResetHold),
            (0x010, Request::PreferredGhcb),
            (
                0x0080_0012_3012,
                Request::RegisterGhcb {
                    gpa: 0x0080_0012_3000,
                },
            ),
            (
                0x0010_0000_0000_5014,
                Request::PageState {
                    gpa: 0x5000,
                    operation: Operation::Private,
                },
            ),
            (
                0x0020_0080_0000_5014,
                Request::PageState {
                    gpa: 0x80_0000_5000,
                    operation: Operation::Shared,
                },
            ),
            (0x0000_0002_0000_0016, Request::RunVmpl { vmpl: 2 }),
            (0x080, Request::HypervisorFeatures),
            (0x0007_5100, Request::Terminate { set: 5, code: 7 }),
        ];
        for (value, expected) in cases {
            assert_eq!(Request::decode(value), expected, "{value:#x}");
        }
    }

    #[test]
    fn values_that_are_no_request_are_unknown() {
        for value in [
            0x001,
            0x0000_0004_0000_0016,
            0x0030_0000_0000_5014,
            0x0110_0000_0000_5014,
            0x8000_0000_0000_0000,
        ] {
            assert_eq!(
                Request::decode(value),
                Request::Unknown { value },
                "{value:#x}"
            );
        }
    }

    #[test]
    fn responses_carry_their_code_and_fields() {
        let cases = [
            (
                Response::SevInformation {
                    max: 2,
                    min: 2,
                    c_bit: 51,
                },
                0x0002_0002_3300_0001,
            ),
            (
                Response::Cpuid {
                    value: 0xDEAD_BEEF,
                    register: CpuidRegister::Ecx,
                },
                0xDEAD_BEEF_8000_0005,
            ),
            (Response::ApResetHold, 0x1007),
            (Response::PreferredGhcb(None), 0xFFFF_FFFF_FFFF_F011),
            (
                Response::RegisterGhcb(Some(0x0080_0012_3000)),
                0x0080_0012_3013,
            ),
            (Response::PageState { error: 0 }, 0x015),
            (Response::RunVmpl { error: 1 }, 0x0000_0001_0000_0017),
            (Response::HypervisorFeatures(OFFERED), 0x7_7081),
        ];
        for (response, expected) in cases {
            assert_eq!(response.encode(), expected, "{response:?}");
        }
    }
}
