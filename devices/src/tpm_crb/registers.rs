//! The registers of one locality (TCG PC Client Platform TPM Profile 1.05, 6.5.3.3 and tables 20 to 24).

use bitfield_struct::bitfield;

/// Offsets in a locality's page.
pub(super) mod at {
    pub(crate) const LOC_STATE: usize = 0x00;
    pub(crate) const LOC_CTRL: usize = 0x08;
    pub(crate) const LOC_STS: usize = 0x0C;
    pub(crate) const DATA_CSUM_ENABLE: usize = 0x10;
    pub(crate) const INTF_ID: usize = 0x30;
    pub(crate) const CTRL_REQ: usize = 0x40;
    pub(crate) const CTRL_STS: usize = 0x44;
    pub(crate) const CTRL_CANCEL: usize = 0x48;
    pub(crate) const CTRL_START: usize = 0x4C;
    pub(crate) const CMD_SIZE: usize = 0x58;
    pub(crate) const CMD_ADDRESS: usize = 0x5C;
    pub(crate) const RSP_SIZE: usize = 0x64;
    pub(crate) const RSP_ADDRESS: usize = 0x68;
    /// Where the registers end and the command-response buffer begins.
    pub(crate) const DATA_BUFFER: usize = 0x80;
}

/// Who may use the TPM; the same at every locality.
#[bitfield(u32)]
pub(super) struct LocState {
    /// Active low: no dynamic launch since it was reset.
    pub is_not_established: bool,
    pub is_assigned: bool,
    #[bits(3)]
    pub active: u8,
    #[bits(2)]
    __: u8,
    pub is_valid: bool,
    #[bits(24)]
    __: u32,
}

/// What a locality asks.
#[bitfield(u32)]
pub(super) struct LocCtrl {
    pub request_access: bool,
    pub relinquish: bool,
    pub seize: bool,
    pub reset_establishment: bool,
    #[bits(28)]
    __: u32,
}

/// What became of it.
#[bitfield(u32)]
pub(super) struct LocSts {
    pub granted: bool,
    pub been_seized: bool,
    #[bits(30)]
    __: u32,
}

/// What this interface can do.
#[bitfield(u64)]
pub(super) struct IntfId {
    #[bits(4)]
    pub interface_type: u8,
    #[bits(4)]
    pub interface_version: u8,
    pub has_localities: bool,
    pub can_bypass_idle: bool,
    __: bool,
    /// 3 is 64 bytes.
    #[bits(2)]
    pub transfer_size: u8,
    pub has_fifo: bool,
    pub has_crb: bool,
    #[bits(2)]
    __: u8,
    #[bits(2)]
    pub selector: u8,
    pub is_selector_locked: bool,
    #[bits(4)]
    __: u8,
    pub revision: u8,
    pub vendor: u16,
    pub device: u16,
}

impl IntfId {
    /// A command-response buffer with five localities, and nothing to choose. The vendor is the engine's.
    pub(super) const OURS: Self = Self::new()
        .with_interface_type(1)
        .with_interface_version(1)
        .with_has_localities(true)
        .with_transfer_size(3)
        .with_has_crb(true)
        .with_selector(1)
        .with_is_selector_locked(true)
        .with_vendor(0x1014)
        .with_device(0x0001);
}

/// What the driver asks of the interface. Bits read as ones until it is done.
#[bitfield(u32)]
pub(super) struct CtrlReq {
    pub cmd_ready: bool,
    pub go_idle: bool,
    #[bits(30)]
    __: u32,
}

/// How the interface is.
#[bitfield(u32)]
pub(super) struct CtrlSts {
    /// The TPM has failed for good.
    pub is_failed: bool,
    pub is_idle: bool,
    #[bits(30)]
    __: u32,
}

/// A register of which only the first bit means anything.
#[bitfield(u32)]
pub(super) struct OneBit {
    pub is_set: bool,
    #[bits(31)]
    __: u32,
}
