//! Messages between guest and PSP (SNP ABI 7 and 8.26): head, kinds and payloads.
//!
//! A message is a page: [`MessageHeader`], then the payload under AES-256-GCM. The initialization vector is the sequence
//! number in its first eight bytes (little-endian), the additional data are the header bytes from 30h on.

use bitflags::bitflags;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::cpuid_page::{CPUID_MAX_ENTRIES, CpuidEntry};
use crate::report::AttestationReport;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 0x60;
/// Most bytes of a payload: what a page leaves.
pub const PAYLOAD_MAX_SIZE: usize = 4096 - HEADER_SIZE;
/// First byte of the header that is additional data.
pub const AAD_OFFSET: usize = 0x30;
/// Bytes of the tag that count; the rest of its field is zero.
pub const TAG_SIZE: usize = 16;
/// Algorithm 1: AES-256-GCM (SNP ABI table 100).
pub const ALGO_AES_256_GCM: u8 = 1;
/// Version of the header.
pub const HEADER_VERSION: u8 = 1;
/// Version of the payloads used here.
pub const MESSAGE_VERSION: u8 = 1;

/// Kind of a message (SNP ABI table 101): any byte.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct MessageType(pub u8);

impl MessageType {
    /// Check CPUID leaves.
    pub const CPUID_REQUEST: Self = Self(1);
    /// Checked CPUID leaves.
    pub const CPUID_RESPONSE: Self = Self(2);
    /// Derive a key.
    pub const KEY_REQUEST: Self = Self(3);
    /// Derived key.
    pub const KEY_RESPONSE: Self = Self(4);
    /// Attest.
    pub const REPORT_REQUEST: Self = Self(5);
    /// Attestation report.
    pub const REPORT_RESPONSE: Self = Self(6);
    /// Export the guest.
    pub const EXPORT_REQUEST: Self = Self(7);
    /// Exported guest.
    pub const EXPORT_RESPONSE: Self = Self(8);
    /// Import a guest.
    pub const IMPORT_REQUEST: Self = Self(9);
    /// Guest imported.
    pub const IMPORT_RESPONSE: Self = Self(10);
    /// Secure TSC parameters.
    pub const TSC_INFO_REQUEST: Self = Self(17);
    /// Secure TSC parameters.
    pub const TSC_INFO_RESPONSE: Self = Self(18);
}

/// Head of a message (SNP ABI table 99).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MessageHeader {
    /// Authentication tag in the first [`TAG_SIZE`] bytes.
    pub auth_tag: [u8; 32],
    /// Sequence number.
    pub sequence: u64,
    reserved_28: u64,
    /// See [`ALGO_AES_256_GCM`].
    pub algo: u8,
    /// See [`HEADER_VERSION`].
    pub header_version: u8,
    /// See [`HEADER_SIZE`].
    pub header_size: u16,
    /// What the payload is.
    pub message_type: MessageType,
    /// Version of the payload.
    pub message_version: u8,
    /// Bytes of the payload.
    pub message_size: u16,
    reserved_38: u32,
    /// Which VMPCK protects it.
    pub message_vmpck: u8,
    reserved_3d: [u8; 35],
}

impl MessageHeader {
    /// Returns a header of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = assert!(
    size_of::<MessageHeader>() == HEADER_SIZE
        && offset_of!(MessageHeader, sequence) == 0x20
        && offset_of!(MessageHeader, algo) == AAD_OFFSET
        && offset_of!(MessageHeader, header_version) == 0x31
        && offset_of!(MessageHeader, header_size) == 0x32
        && offset_of!(MessageHeader, message_type) == 0x34
        && offset_of!(MessageHeader, message_version) == 0x35
        && offset_of!(MessageHeader, message_size) == 0x36
        && offset_of!(MessageHeader, message_vmpck) == 0x3C
);

/// Status in a response payload: 0 is success.
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// A parameter is wrong.
    pub const INVALID_PARAMETERS: u32 = 0x16;
    /// The key asked for is not there.
    pub const INVALID_KEY_SELECTION: u32 = 0x27;
}

/// MSG_REPORT_REQ (SNP ABI 7.3, table 22).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReportRequest {
    /// What to bind to the report.
    pub report_data: [u8; 64],
    /// VMPL to attest; not below the key's.
    pub vmpl: u32,
    /// Bits 1:0: 0 VLEK if installed else VCEK, 1 VCEK, 2 VLEK.
    pub key_select: u32,
    reserved: [u8; 24],
}

impl ReportRequest {
    /// Returns a request for `vmpl`, signed with whatever key the platform prefers.
    #[must_use]
    pub const fn new(report_data: [u8; 64], vmpl: u32) -> Self {
        Self {
            report_data,
            vmpl,
            key_select: 0,
            reserved: [0; 24],
        }
    }
}

/// MSG_REPORT_RSP (SNP ABI 7.3, table 25).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReportResponse {
    /// See [`status`].
    pub status: u32,
    /// Bytes of the report.
    pub report_size: u32,
    reserved: [u8; 24],
    /// The report.
    pub report: AttestationReport,
}

bitflags! {
    /// What is mixed into a derived key (SNP ABI table 19).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct GuestFieldSelect: u64 {
        /// Guest policy.
        const POLICY = 1 << 0;
        /// Image id.
        const IMAGE_ID = 1 << 1;
        /// Family id.
        const FAMILY_ID = 1 << 2;
        /// Launch digest.
        const MEASUREMENT = 1 << 3;
        /// Guest security version.
        const GUEST_SVN = 1 << 4;
        /// Platform security versions.
        const TCB_VERSION = 1 << 5;
        /// Launch mitigations (message version 2).
        const LAUNCH_MIT_VECTOR = 1 << 6;
        const _ = !0;
    }
}

/// MSG_KEY_REQ (SNP ABI 7.2, table 18).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct KeyRequest {
    /// Bit 0: root is 0 VCEK (or VLEK), 1 VMRK; bits 2:1 as in [`ReportRequest::key_select`].
    pub root_key_select: u32,
    reserved_4: u32,
    /// [`GuestFieldSelect`].
    pub guest_field_select: u64,
    /// VMPL to mix in; not below the key's.
    pub vmpl: u32,
    /// Guest security version to mix in; not above the guest's.
    pub guest_svn: u32,
    /// Platform security versions to mix in; not above the committed ones.
    pub tcb_version: u64,
}

impl KeyRequest {
    /// Root is the VCEK.
    pub const ROOT_VCEK: u32 = 0;
    /// Root is the VM root key.
    pub const ROOT_VMRK: u32 = 1;
}

/// MSG_KEY_RSP (SNP ABI 7.2, table 20).
#[repr(C)]
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KeyResponse {
    /// See [`status`].
    pub status: u32,
    reserved: [u8; 28],
    /// The key.
    pub derived_key: [u8; 32],
}

/// MSG_TSC_INFO_REQ (SNP ABI 7.9, table 39): nothing to say.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TscInfoRequest {
    reserved: [u8; 128],
}

impl TscInfoRequest {
    /// Returns the request.
    #[must_use]
    pub const fn new() -> Self {
        Self { reserved: [0; 128] }
    }
}

impl Default for TscInfoRequest {
    fn default() -> Self {
        Self::new()
    }
}

/// MSG_TSC_INFO_RSP (SNP ABI 7.9, table 40).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TscInfoResponse {
    /// See [`status`].
    pub status: u32,
    reserved_4: u32,
    /// GUEST_TSC_SCALE for a VMSA.
    pub guest_tsc_scale: u64,
    /// GUEST_TSC_OFFSET for a VMSA.
    pub guest_tsc_offset: u64,
    /// As in [`crate::secrets::SecretsPage::tsc_factor`].
    pub tsc_factor: u32,
    reserved_1c: [u8; 100],
}

/// MSG_CPUID_REQ (SNP ABI 7.1, table 13).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuidRequest {
    /// Entries that count.
    pub count: u32,
    reserved_4: u32,
    reserved_8: u64,
    /// Leaves as the host answered them.
    pub entries: [CpuidEntry; CPUID_MAX_ENTRIES],
}

/// MSG_CPUID_RSP (SNP ABI 7.1, table 15).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuidResponse {
    /// See [`status`].
    pub status: u32,
    /// Entries that count.
    pub count: u32,
    reserved_8: u64,
    /// Leaves as the PSP allows them.
    pub entries: [CpuidEntry; CPUID_MAX_ENTRIES],
}

const _: () =
    assert!(size_of::<ReportRequest>() == 0x60 && offset_of!(ReportRequest, vmpl) == 0x40);
const _: () =
    assert!(size_of::<ReportResponse>() == 0x4C0 && offset_of!(ReportResponse, report) == 0x20);
const _: () = assert!(
    size_of::<KeyRequest>() == 0x20
        && offset_of!(KeyRequest, guest_field_select) == 0x08
        && offset_of!(KeyRequest, vmpl) == 0x10
        && offset_of!(KeyRequest, tcb_version) == 0x18
);
const _: () =
    assert!(size_of::<KeyResponse>() == 0x40 && offset_of!(KeyResponse, derived_key) == 0x20);
const _: () = assert!(
    size_of::<TscInfoRequest>() == 128
        && size_of::<TscInfoResponse>() == 128
        && offset_of!(TscInfoResponse, tsc_factor) == 0x18
);
const _: () = assert!(size_of::<CpuidRequest>() == 0xC10 && size_of::<CpuidResponse>() == 0xC10);
const _: () = assert!(size_of::<CpuidRequest>() <= PAYLOAD_MAX_SIZE);
