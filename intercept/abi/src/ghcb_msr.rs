//! The GHCB MSR protocol: what can be said before, or without, a GHCB page (GHCB 2.3.1).
//!
//! A request is a word with its code in bits 11:0; the answer is read from the same MSR. [`code`](fn@code) splits a word.

use bitflags::bitflags;

use crate::ghcb::PscOperation;

/// Number of the GHCB MSR.
pub const GHCB_MSR: u32 = 0xC001_0130;

/// Bits 11:0 of a word: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u16);

impl Code {
    /// The word is the address of the GHCB.
    pub const GHCB_GPA: Self = Self(0x000);
    /// Answer to SEV information.
    pub const SEV_INFO_RESPONSE: Self = Self(0x001);
    /// SEV information.
    pub const SEV_INFO_REQUEST: Self = Self(0x002);
    /// One register of a CPUID leaf.
    pub const CPUID_REQUEST: Self = Self(0x004);
    /// Answer to CPUID.
    pub const CPUID_RESPONSE: Self = Self(0x005);
    /// AP waits for its start-up IPI.
    pub const AP_RESET_HOLD_REQUEST: Self = Self(0x006);
    /// The start-up IPI came.
    pub const AP_RESET_HOLD_RESPONSE: Self = Self(0x007);
    /// Ask for the host's preferred GHCB address.
    pub const PREFERRED_GPA_REQUEST: Self = Self(0x010);
    /// The preferred address, or [`NO_PREFERRED_GFN`].
    pub const PREFERRED_GPA_RESPONSE: Self = Self(0x011);
    /// Register the GHCB address.
    pub const REGISTER_REQUEST: Self = Self(0x012);
    /// The address registered, or all ones.
    pub const REGISTER_RESPONSE: Self = Self(0x013);
    /// Change the state of one page.
    pub const PAGE_STATE_REQUEST: Self = Self(0x014);
    /// Error code of the page state change.
    pub const PAGE_STATE_RESPONSE: Self = Self(0x015);
    /// Run another VMPL.
    pub const RUN_VMPL_REQUEST: Self = Self(0x016);
    /// Error code of running another VMPL.
    pub const RUN_VMPL_RESPONSE: Self = Self(0x017);
    /// Hypervisor features.
    pub const FEATURES_REQUEST: Self = Self(0x080);
    /// Answer to hypervisor features.
    pub const FEATURES_RESPONSE: Self = Self(0x081);
    /// Terminate the machine.
    pub const TERMINATE_REQUEST: Self = Self(0x100);
}

/// In a preferred-GHCB answer: the host has no preference.
pub const NO_PREFERRED_GFN: u64 = (1 << 52) - 1;

bitflags! {
    /// What the host can do (GHCB 4.1.13, hypervisor feature support). Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct HypervisorFeatures: u64 {
        /// SEV-SNP.
        const SNP = 1 << 0;
        /// AP creation.
        const AP_CREATION = 1 << 1;
        /// Restricted injection: #HV and its doorbell.
        const RESTRICTED_INJECTION = 1 << 2;
        /// Timer for restricted injection.
        const RESTRICTED_INJECTION_TIMER = 1 << 3;
        /// APIC ID list.
        const APIC_ID_LIST = 1 << 4;
        /// More than one VMPL.
        const MULTI_VMPL = 1 << 5;
        /// Page state change.
        const PAGE_STATE_CHANGE = 1 << 6;
        /// Interrupts for lower VMPLs through the doorbell page.
        const EXTERNAL_INTERRUPTS = 1 << 9;
        const _ = !0;
    }
}

/// Returns the code of a word.
#[must_use]
pub const fn code(word: u64) -> Code {
    Code((word & 0xFFF) as u16)
}

/// Returns a word of a code and its data in bits 63:12.
#[must_use]
pub const fn word(code: Code, data: u64) -> u64 {
    data << 12 | code.0 as u64
}

/// Returns the data of a word: bits 63:12.
#[must_use]
pub const fn data(word: u64) -> u64 {
    word >> 12
}

/// Packs the host's answer to SEV information.
#[must_use]
pub const fn sev_info(max_version: u16, min_version: u16, c_bit: u8) -> u64 {
    (max_version as u64) << 48
        | (min_version as u64) << 32
        | (c_bit as u64) << 24
        | Code::SEV_INFO_RESPONSE.0 as u64
}

/// Returns the highest protocol version of a SEV information answer.
#[must_use]
pub const fn sev_info_max_version(word: u64) -> u16 {
    (word >> 48) as u16
}

/// Returns the lowest protocol version of a SEV information answer.
#[must_use]
pub const fn sev_info_min_version(word: u64) -> u16 {
    ((word >> 32) & 0xFFFF) as u16
}

/// Returns the C-bit position of a SEV information answer.
#[must_use]
pub const fn sev_info_c_bit(word: u64) -> u8 {
    ((word >> 24) & 0xFF) as u8
}

/// Packs a request for register `register` (EAX, EBX, ECX, EDX from 0) of a CPUID leaf with subleaf 0.
#[must_use]
pub const fn cpuid_request(leaf: u32, register: u8) -> u64 {
    (leaf as u64) << 32 | ((register & 3) as u64) << 30 | Code::CPUID_REQUEST.0 as u64
}

/// Returns the leaf and the register of a CPUID request.
#[must_use]
pub const fn cpuid_request_parts(word: u64) -> (u32, u8) {
    ((word >> 32) as u32, ((word >> 30) & 3) as u8)
}

/// Packs the answer to a CPUID request.
#[must_use]
pub const fn cpuid_response(value: u32) -> u64 {
    (value as u64) << 32 | Code::CPUID_RESPONSE.0 as u64
}

/// Returns bits 63:32: a register's value after CPUID, an error code after page state and run VMPL (0 is success).
#[must_use]
pub const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Packs the registration of the GHCB at `gpa`.
#[must_use]
pub const fn register_request(gpa: u64) -> u64 {
    gpa & !0xFFF | Code::REGISTER_REQUEST.0 as u64
}

/// Packs the answer to a registration; the guest checks that it is the address asked for.
#[must_use]
pub const fn register_response(gpa: u64) -> u64 {
    gpa & !0xFFF | Code::REGISTER_RESPONSE.0 as u64
}

/// Packs a page state change of one 4 KiB page: [`PscOperation::PRIVATE`] or [`PscOperation::SHARED`].
#[must_use]
pub const fn page_state_request(gpa: u64, operation: PscOperation) -> u64 {
    ((operation.0 & 0xF) as u64) << 52
        | gpa & 0x000F_FFFF_FFFF_F000
        | Code::PAGE_STATE_REQUEST.0 as u64
}

/// Returns page address and operation of a page state change.
#[must_use]
pub const fn page_state_request_parts(word: u64) -> (u64, PscOperation) {
    (
        word & 0x000F_FFFF_FFFF_F000,
        PscOperation(((word >> 52) & 0xF) as u8),
    )
}

/// Packs the answer to a page state change.
#[must_use]
pub const fn page_state_response(error: u32) -> u64 {
    (error as u64) << 32 | Code::PAGE_STATE_RESPONSE.0 as u64
}

/// Packs the request to run `vmpl`.
#[must_use]
pub const fn run_vmpl_request(vmpl: u8) -> u64 {
    (vmpl as u64) << 32 | Code::RUN_VMPL_REQUEST.0 as u64
}

/// Returns the VMPL of a request to run one.
#[must_use]
pub const fn run_vmpl_request_vmpl(word: u64) -> u8 {
    ((word >> 32) & 0xFF) as u8
}

/// Packs the answer to the request to run a VMPL.
#[must_use]
pub const fn run_vmpl_response(error: u32) -> u64 {
    (error as u64) << 32 | Code::RUN_VMPL_RESPONSE.0 as u64
}

/// Packs the host's features.
#[must_use]
pub const fn features_response(features: HypervisorFeatures) -> u64 {
    word(Code::FEATURES_RESPONSE, features.bits())
}

/// Returns the features of the host's answer.
#[must_use]
pub const fn features(word: u64) -> HypervisorFeatures {
    HypervisorFeatures::from_bits_retain(data(word))
}

/// Packs a termination request.
#[must_use]
pub const fn terminate_request(reason_set: u8, reason: u8) -> u64 {
    (reason as u64) << 16 | ((reason_set & 0xF) as u64) << 12 | Code::TERMINATE_REQUEST.0 as u64
}

/// Returns reason set and reason of a termination request.
#[must_use]
pub const fn terminate_request_parts(word: u64) -> (u8, u8) {
    (((word >> 12) & 0xF) as u8, ((word >> 16) & 0xFF) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_parts_where_the_specification_says() {
        assert_eq!(sev_info(2, 1, 51), 0x0002_0001_3300_0001);
        assert_eq!(cpuid_request(0x8000_001F, 1), 0x8000_001F_4000_0004);
        assert_eq!(register_request(0x12_3000), 0x12_3012);
        assert_eq!(
            page_state_request(0x8_0000_0000, PscOperation::SHARED),
            0x0020_0008_0000_0014
        );
        assert_eq!(run_vmpl_request(2), 0x2_0000_0016);
        assert_eq!(terminate_request(5, 17), 0x11_5100);
    }

    #[test]
    fn words_unpack_to_what_was_packed() {
        let info = sev_info(2, 1, 51);
        assert_eq!(code(info), Code::SEV_INFO_RESPONSE);
        assert_eq!(sev_info_max_version(info), 2);
        assert_eq!(sev_info_min_version(info), 1);
        assert_eq!(sev_info_c_bit(info), 51);
        assert_eq!(cpuid_request_parts(cpuid_request(7, 3)), (7, 3));
        assert_eq!(upper(cpuid_response(0xDEAD_BEEF)), 0xDEAD_BEEF);
        assert_eq!(
            page_state_request_parts(page_state_request(0x5000, PscOperation::PRIVATE)),
            (0x5000, PscOperation::PRIVATE)
        );
        assert_eq!(upper(page_state_response(9)), 9);
        assert_eq!(run_vmpl_request_vmpl(run_vmpl_request(3)), 3);
        let features_word =
            features_response(HypervisorFeatures::SNP | HypervisorFeatures::MULTI_VMPL);
        assert_eq!(features(features_word).bits(), 0x21);
        assert_eq!(terminate_request_parts(terminate_request(5, 255)), (5, 255));
    }
}
