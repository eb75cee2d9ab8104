//! The SVSM protocol: what an enlightened guest may call (SVSM 4 to 8).

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The calling area of a vCPU (SVSM 4.1).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct CallingArea {
    /// 1 while a call waits to be served.
    pub call_pending: u8,
    /// 1 while the SVSM has memory to give back.
    pub mem_available: u8,
    /// APIC protocol: no EOI is required.
    pub no_eoi_required: u8,
    reserved: [u8; 5],
}

const _: () = assert!(size_of::<CallingArea>() == 8 && offset_of!(CallingArea, mem_available) == 1);

/// A protocol: RAX bits 63:32 (SVSM table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u32);

impl Protocol {
    /// Core.
    pub const CORE: Self = Self(0);
    /// Attestation.
    pub const ATTESTATION: Self = Self(1);
    /// Virtual TPM.
    pub const VTPM: Self = Self(2);
    /// APIC emulation.
    pub const APIC: Self = Self(3);
}

/// A call of the core protocol: RAX bits 31:0 (SVSM table 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreCall(pub u32);

impl CoreCall {
    /// SVSM_CORE_REMAP_CA.
    pub const REMAP_CA: Self = Self(0);
    /// SVSM_CORE_PVALIDATE.
    pub const PVALIDATE: Self = Self(1);
    /// SVSM_CORE_CREATE_VCPU.
    pub const CREATE_VCPU: Self = Self(2);
    /// SVSM_CORE_DELETE_VCPU.
    pub const DELETE_VCPU: Self = Self(3);
    /// SVSM_CORE_DEPOSIT_MEM.
    pub const DEPOSIT_MEM: Self = Self(4);
    /// SVSM_CORE_WITHDRAW_MEM.
    pub const WITHDRAW_MEM: Self = Self(5);
    /// SVSM_CORE_QUERY_PROTOCOL.
    pub const QUERY_PROTOCOL: Self = Self(6);
    /// SVSM_CORE_CONFIGURE_VTOM.
    pub const CONFIGURE_VTOM: Self = Self(7);
}

/// A result in RAX (SVSM table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvsmResult(pub u64);

impl SvsmResult {
    /// SVSM_SUCCESS.
    pub const SUCCESS: Self = Self(0);
    /// SVSM_ERR_INCOMPLETE.
    pub const INCOMPLETE: Self = Self(0x8000_0000);
    /// SVSM_ERR_UNSUPPORTED_PROTOCOL.
    pub const UNSUPPORTED_PROTOCOL: Self = Self(0x8000_0001);
    /// SVSM_ERR_UNSUPPORTED_CALL.
    pub const UNSUPPORTED_CALL: Self = Self(0x8000_0002);
    /// SVSM_ERR_INVALID_ADDRESS.
    pub const INVALID_ADDRESS: Self = Self(0x8000_0003);
    /// SVSM_ERR_INVALID_FORMAT.
    pub const INVALID_FORMAT: Self = Self(0x8000_0004);
    /// SVSM_ERR_INVALID_PARAMETER.
    pub const INVALID_PARAMETER: Self = Self(0x8000_0005);
    /// SVSM_ERR_INVALID_REQUEST.
    pub const INVALID_REQUEST: Self = Self(0x8000_0006);
    /// SVSM_ERR_BUSY.
    pub const BUSY: Self = Self(0x8000_0007);
    /// First of the protocol's own errors.
    pub const PROTOCOL_BASE: Self = Self(0x8000_1000);
}
