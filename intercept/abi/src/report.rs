//! The attestation report (SNP ABI 7.3, tables 22 and 23; signature: 10.2, table 139).

use bitfield_struct::bitfield;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Signature algorithm 1: ECDSA P-384 with SHA-384 (SNP ABI table 137).
pub const SIGNATURE_ALGO_ECDSA_P384_SHA384: u32 = 1;
/// Bytes of the report that are signed: all before the signature.
pub const SIGNED_SIZE: usize = 0x2A0;
/// Bytes of R or of S that hold the number, least significant first; the rest is zero.
pub const SCALAR_SIZE: usize = 48;

/// An ECDSA signature, numbers little-endian (SNP ABI table 139).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Signature {
    /// R.
    pub r: [u8; 72],
    /// S.
    pub s: [u8; 72],
    reserved: [u8; 368],
}

/// Security versions of the platform's parts (SNP ABI 2.2, table 3; up to Genoa).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TcbVersion {
    /// PSP bootloader.
    pub boot_loader: u8,
    /// PSP operating system.
    pub tee: u8,
    __: u32,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// Flags at 48h of a report (SNP ABI table 23).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReportFlags {
    /// The digest of the author key is there.
    pub author_key_en: bool,
    /// The report is not signed.
    pub mask_chip_key: bool,
    /// 0 VCEK, 1 VLEK, 7 none.
    #[bits(3)]
    pub signing_key: u8,
    #[bits(27)]
    __: u32,
}

/// The attestation report (SNP ABI table 23).
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AttestationReport {
    /// Layout version: 2 and up; fields below say where they need more.
    pub version: u32,
    /// Security version of the guest, from the ID block.
    pub guest_svn: u32,
    /// Policy the guest was launched with (SNP ABI 4.3, table 9).
    pub policy: u64,
    /// Family, from the ID block.
    pub family_id: [u8; 16],
    /// Image, from the ID block.
    pub image_id: [u8; 16],
    /// VMPL the report was asked for.
    pub vmpl: u32,
    /// See [`SIGNATURE_ALGO_ECDSA_P384_SHA384`].
    pub signature_algo: u32,
    /// Security versions now.
    pub current_tcb: TcbVersion,
    /// What the platform has switched on (SNP ABI table 24).
    pub platform_info: u64,
    /// Flags.
    pub flags: ReportFlags,
    reserved_4c: u32,
    /// What the asker bound to the report.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// What the host said at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the ID key.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key.
    pub author_key_digest: [u8; 48],
    /// Identity of this guest instance.
    pub report_id: [u8; 32],
    /// Identity of its migration agent.
    pub report_id_ma: [u8; 32],
    /// Security versions the VCEK was derived from.
    pub reported_tcb: TcbVersion,
    /// Family of the processor (version 3).
    pub cpuid_family: u8,
    /// Model of the processor (version 3).
    pub cpuid_model: u8,
    /// Stepping of the processor (version 3).
    pub cpuid_stepping: u8,
    reserved_18b: [u8; 21],
    /// Identity of the chip, or zero.
    pub chip_id: [u8; 64],
    /// Security versions that cannot be rolled back.
    pub committed_tcb: TcbVersion,
    /// Firmware build now.
    pub current_build: u8,
    /// Firmware minor version now.
    pub current_minor: u8,
    /// Firmware major version now.
    pub current_major: u8,
    reserved_1eb: u8,
    /// Firmware build committed.
    pub committed_build: u8,
    /// Firmware minor version committed.
    pub committed_minor: u8,
    /// Firmware major version committed.
    pub committed_major: u8,
    reserved_1ef: u8,
    /// Security versions at launch.
    pub launch_tcb: TcbVersion,
    /// Mitigations at launch (version 5).
    pub launch_mit_vector: u64,
    /// Mitigations now (version 5).
    pub current_mit_vector: u64,
    reserved_208: [u8; 152],
    /// Signature over the bytes before it.
    pub signature: Signature,
}

impl AttestationReport {
    /// Returns a report of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = assert!(size_of::<Signature>() == 0x200);
const _: () = assert!(
    size_of::<AttestationReport>() == 0x4A0
        && offset_of!(AttestationReport, policy) == 0x08
        && offset_of!(AttestationReport, family_id) == 0x10
        && offset_of!(AttestationReport, image_id) == 0x20
        && offset_of!(AttestationReport, vmpl) == 0x30
        && offset_of!(AttestationReport, current_tcb) == 0x38
        && offset_of!(AttestationReport, platform_info) == 0x40
        && offset_of!(AttestationReport, flags) == 0x48
        && offset_of!(AttestationReport, report_data) == 0x50
        && offset_of!(AttestationReport, measurement) == 0x90
        && offset_of!(AttestationReport, host_data) == 0xC0
        && offset_of!(AttestationReport, id_key_digest) == 0xE0
        && offset_of!(AttestationReport, author_key_digest) == 0x110
        && offset_of!(AttestationReport, report_id) == 0x140
        && offset_of!(AttestationReport, report_id_ma) == 0x160
        && offset_of!(AttestationReport, reported_tcb) == 0x180
        && offset_of!(AttestationReport, chip_id) == 0x1A0
        && offset_of!(AttestationReport, committed_tcb) == 0x1E0
        && offset_of!(AttestationReport, current_build) == 0x1E8
        && offset_of!(AttestationReport, launch_tcb) == 0x1F0
        && offset_of!(AttestationReport, launch_mit_vector) == 0x1F8
        && offset_of!(AttestationReport, signature) == SIGNED_SIZE
);
