//! The GHCB page and the events a guest reports through it (GHCB 2.6 and 4).
//!
//! [`Ghcb`] is the page; [`GhcbField`] names its fields for the valid bitmap; [`NaeExit`] names the events beyond those of
//! [`crate::exit`]. The rest is what single events carry: page state change, AP creation, answers of the host.

use bitfield_struct::bitfield;
use core::fmt;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::exit::ExitCode;

mod page_state;

pub use page_state::{PSC_MAX_ENTRIES, PscEntry, PscHeader, PscOperation, psc_error};

/// Protocol version 1: SEV-ES.
pub const PROTOCOL_VERSION_1: u16 = 1;
/// Protocol version 2: SEV-SNP; the one the paravisor speaks.
pub const PROTOCOL_VERSION_2: u16 = 2;
/// GHCB usage 0: the layout of [`Ghcb`] (GHCB 2.6).
pub const USAGE_GHCB: u32 = 0;
/// Bytes in the shared buffer.
pub const SHARED_BUFFER_SIZE: usize = 0x7F0;

/// The GHCB page (GHCB table 3): the host sees and writes all of it.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[expect(
    missing_docs,
    reason = "the fields are the registers they are named after"
)]
pub struct Ghcb {
    reserved_0: [u8; 0xCB],
    pub cpl: u8,
    reserved_cc: [u8; 0x74],
    pub xss: u64,
    reserved_148: [u8; 0x18],
    pub dr7: u64,
    reserved_168: [u8; 0x90],
    pub rax: u64,
    reserved_200: [u8; 0x108],
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    reserved_320: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    reserved_380: [u8; 0x10],
    pub sw_exit_code: u64,
    pub sw_exit_info1: u64,
    pub sw_exit_info2: u64,
    pub sw_scratch: u64,
    reserved_3b0: [u8; 0x38],
    pub xcr0: u64,
    /// Bit *n* says that quadword *n* of the page counts, see [`GhcbField::valid_bit`].
    pub valid_bitmap: [u64; 2],
    pub x87_state_gpa: u64,
    reserved_408: [u8; 0x3F8],
    pub shared_buffer: [u8; SHARED_BUFFER_SIZE],
    reserved_ff0: [u8; 0xA],
    pub protocol_version: u16,
    pub usage: u32,
}

impl Ghcb {
    /// Returns a page of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = assert!(
    size_of::<Ghcb>() == 4096
        && offset_of!(Ghcb, cpl) == 0xCB
        && offset_of!(Ghcb, xss) == 0x140
        && offset_of!(Ghcb, dr7) == 0x160
        && offset_of!(Ghcb, rax) == 0x1F8
        && offset_of!(Ghcb, rcx) == 0x308
        && offset_of!(Ghcb, rdx) == 0x310
        && offset_of!(Ghcb, rbx) == 0x318
        && offset_of!(Ghcb, rbp) == 0x328
        && offset_of!(Ghcb, r8) == 0x340
        && offset_of!(Ghcb, r15) == 0x378
        && offset_of!(Ghcb, sw_exit_code) == 0x390
        && offset_of!(Ghcb, sw_exit_info1) == 0x398
        && offset_of!(Ghcb, sw_exit_info2) == 0x3A0
        && offset_of!(Ghcb, sw_scratch) == 0x3A8
        && offset_of!(Ghcb, xcr0) == 0x3E8
        && offset_of!(Ghcb, valid_bitmap) == 0x3F0
        && offset_of!(Ghcb, x87_state_gpa) == 0x400
        && offset_of!(Ghcb, shared_buffer) == 0x800
        && offset_of!(Ghcb, protocol_version) == 0xFFA
        && offset_of!(Ghcb, usage) == 0xFFC
);

/// A quadword field of the GHCB by its offset, for the valid bitmap (GHCB 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GhcbField(u16);

macro_rules! ghcb_fields {
    ($($(#[$doc:meta])* $name:ident = $offset:literal, $field:ident;)*) => {
        impl GhcbField {
            $($(#[$doc])* pub const $name: Self = Self($offset);)*
        }
        $(const _: () = assert!(offset_of!(Ghcb, $field) == $offset);)*
    };
}

ghcb_fields! {
    /// RAX.
    RAX = 0x1F8, rax;
    /// RCX.
    RCX = 0x308, rcx;
    /// RDX.
    RDX = 0x310, rdx;
    /// RBX.
    RBX = 0x318, rbx;
    /// XSS.
    XSS = 0x140, xss;
    /// DR7.
    DR7 = 0x160, dr7;
    /// XCR0.
    XCR0 = 0x3E8, xcr0;
    /// SW_EXITCODE.
    SW_EXIT_CODE = 0x390, sw_exit_code;
    /// SW_EXITINFO1.
    SW_EXIT_INFO1 = 0x398, sw_exit_info1;
    /// SW_EXITINFO2.
    SW_EXIT_INFO2 = 0x3A0, sw_exit_info2;
    /// SW_SCRATCH.
    SW_SCRATCH = 0x3A8, sw_scratch;
}

impl GhcbField {
    /// The quadword that holds CPL in its byte 3; it counts when bit 25 of the bitmap is set.
    pub const CPL: Self = Self(0xC8);

    /// Returns the offset in bytes.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.0 as usize
    }

    /// Returns the number of the field's bit in the valid bitmap: 0 to 127.
    #[must_use]
    pub const fn valid_bit(self) -> usize {
        self.offset() / 8
    }

    /// Returns which of the two words of the bitmap, and the bit in it.
    #[must_use]
    pub const fn valid_mask(self) -> (usize, u64) {
        (self.valid_bit() / 64, 1 << (self.valid_bit() % 64))
    }
}

/// A non-automatic exit reported in SW_EXITCODE: any number (GHCB table 4). Those of an intercept are [`ExitCode`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NaeExit(pub u64);

impl NaeExit {
    /// DR7 read.
    pub const DR7_READ: Self = Self(0x27);
    /// DR7 write.
    pub const DR7_WRITE: Self = Self(0x37);
    /// RDTSC.
    pub const RDTSC: Self = Self(ExitCode::RDTSC.0);
    /// RDPMC.
    pub const RDPMC: Self = Self(ExitCode::RDPMC.0);
    /// CPUID.
    pub const CPUID: Self = Self(ExitCode::CPUID.0);
    /// INVD.
    pub const INVD: Self = Self(ExitCode::INVD.0);
    /// Port access.
    pub const IOIO: Self = Self(ExitCode::IOIO.0);
    /// MSR access.
    pub const MSR: Self = Self(ExitCode::MSR.0);
    /// VMMCALL.
    pub const VMMCALL: Self = Self(ExitCode::VMMCALL.0);
    /// RDTSCP.
    pub const RDTSCP: Self = Self(ExitCode::RDTSCP.0);
    /// WBINVD.
    pub const WBINVD: Self = Self(ExitCode::WBINVD.0);
    /// MONITOR.
    pub const MONITOR: Self = Self(ExitCode::MONITOR.0);
    /// MWAIT.
    pub const MWAIT: Self = Self(ExitCode::MWAIT.0);
    /// MMIO read: info1 address, info2 length, scratch buffer.
    pub const MMIO_READ: Self = Self(0x8000_0001);
    /// MMIO write.
    pub const MMIO_WRITE: Self = Self(0x8000_0002);
    /// NMI handler done.
    pub const NMI_COMPLETE: Self = Self(0x8000_0003);
    /// AP waits for its start-up IPI.
    pub const AP_RESET_HOLD: Self = Self(0x8000_0004);
    /// AP jump table.
    pub const AP_JUMP_TABLE: Self = Self(0x8000_0005);
    /// Page state change: [`PscHeader`] and [`PscEntry`] in the shared buffer, its address in SW_SCRATCH.
    pub const PAGE_STATE_CHANGE: Self = Self(0x8000_0010);
    /// Guest request to the PSP: info1 request page, info2 response page.
    pub const GUEST_REQUEST: Self = Self(0x8000_0011);
    /// Guest request with certificate data: RAX address, RBX pages.
    pub const EXTENDED_GUEST_REQUEST: Self = Self(0x8000_0012);
    /// AP creation: [`ApCreation`] in info1, VMSA address in info2, SEV features in RAX.
    pub const AP_CREATION: Self = Self(0x8000_0013);
    /// #HV doorbell page: [`doorbell_action`] in info1, address in info2.
    pub const HV_DOORBELL: Self = Self(0x8000_0014);
    /// #HV IPI: ICR in info1.
    pub const HV_IPI: Self = Self(0x8000_0015);
    /// #HV timer.
    pub const HV_TIMER: Self = Self(0x8000_0016);
    /// APIC ID list: RAX pages, info1 address.
    pub const APIC_ID_LIST: Self = Self(0x8000_0017);
    /// Run another VMPL of this vCPU: its number in info1.
    pub const RUN_VMPL: Self = Self(0x8000_0018);
    /// Configure interrupt injection (draft).
    pub const CONFIGURE_INTERRUPT_INJECTION: Self = Self(0x8000_001B);
    /// Disable alternate injection (draft).
    pub const DISABLE_ALTERNATE_INJECTION: Self = Self(0x8000_001C);
    /// Specific EOI (draft).
    pub const SPECIFIC_EOI: Self = Self(0x8000_001D);
    /// Hypervisor features: answer in info2, as [`crate::ghcb_msr::HypervisorFeatures`].
    pub const HYPERVISOR_FEATURES: Self = Self(0x8000_FFFD);
    /// Termination request: reason set in info1, reason in info2.
    pub const TERMINATE: Self = Self(0x8000_FFFE);
    /// Event nobody handles.
    pub const UNSUPPORTED: Self = Self(0x8000_FFFF);
}

impl fmt::Display for NaeExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:#x}", self.0)
    }
}

/// What the host answers in bits 31:0 of SW_EXITINFO1 (GHCB 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitResult(pub u32);

impl ExitResult {
    /// Done.
    pub const OK: Self = Self(0);
    /// SW_EXITINFO2 is an event to take, packed as [`crate::vmsa::EventInfo`]: #GP or #UD only.
    pub const EXCEPTION: Self = Self(1);
    /// The input was malformed: SW_EXITINFO2 is a [`GhcbError`].
    pub const MALFORMED: Self = Self(2);
}

/// Why the host refused an event: SW_EXITINFO2 beside [`ExitResult::MALFORMED`] (GHCB table 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GhcbError(pub u64);

impl GhcbError {
    /// The GHCB address is not the registered one.
    pub const NOT_REGISTERED: Self = Self(1);
    /// The usage is not supported.
    pub const INVALID_USAGE: Self = Self(2);
    /// SW_SCRATCH does not name a usable buffer.
    pub const INVALID_SCRATCH_AREA: Self = Self(3);
    /// A field the event needs is not valid.
    pub const MISSING_INPUT: Self = Self(4);
    /// A field has an impossible value.
    pub const INVALID_INPUT: Self = Self(5);
    /// The event is not known.
    pub const INVALID_EVENT: Self = Self(6);
}

impl fmt::Display for GhcbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NOT_REGISTERED => "the GHCB is not registered",
            Self::INVALID_USAGE => "the usage is invalid",
            Self::INVALID_SCRATCH_AREA => "the scratch area is invalid",
            Self::MISSING_INPUT => "an input is missing",
            Self::INVALID_INPUT => "an input is invalid",
            Self::INVALID_EVENT => "the event is invalid",
            Self(other) => return write!(f, "GHCB error {other:#x}"),
        })
    }
}

/// What AP creation does (GHCB table 13): any 16-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApCreationOp(pub u16);

impl ApCreationOp {
    /// Use the VMSA from the next INIT on.
    pub const ON_INIT: Self = Self(0);
    /// Use the VMSA now.
    pub const CREATE: Self = Self(1);
    /// Stop using the VMSA.
    pub const DESTROY: Self = Self(2);

    const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
    const fn into_bits(self) -> u16 {
        self.0
    }
}

/// SW_EXITINFO1 of AP creation (GHCB 4.1.9).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ApCreation {
    /// What to do.
    #[bits(16)]
    pub operation: ApCreationOp,
    /// For which VMPL of the vCPU.
    #[bits(4)]
    pub vmpl: u8,
    #[bits(12)]
    __: u16,
    /// For which vCPU.
    pub apic_id: u32,
}

/// SW_EXITINFO1 of the #HV doorbell event (GHCB 4.1.10).
pub mod doorbell_action {
    /// Ask for the host's preferred address.
    pub const GET_PREFERRED: u64 = 0;
    /// Register the page at info2.
    pub const SET: u64 = 1;
    /// Ask for the registered page.
    pub const QUERY: u64 = 2;
    /// Unregister.
    pub const CLEAR: u64 = 3;
}

/// SW_EXITINFO2 of a guest request (GHCB 4.1.7): firmware status below, the host's own above.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GuestRequestStatus {
    /// Status of SNP_GUEST_REQUEST (SNP ABI table 5); 0 is success.
    pub firmware: u32,
    /// Status of the host: see the constants.
    pub host: u32,
}

impl GuestRequestStatus {
    /// The certificate buffer is too small; RBX says how many pages are needed.
    pub const HOST_INVALID_LENGTH: u32 = 1;
    /// Try again later with the very same message.
    pub const HOST_BUSY: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_bits_count_quadwords() {
        assert_eq!(GhcbField::SW_EXIT_CODE.valid_bit(), 114);
        assert_eq!(GhcbField::RAX.valid_mask(), (0, 1 << 63));
        assert_eq!(GhcbField::CPL.valid_bit(), 25);
        assert_eq!(GhcbField::SW_EXIT_CODE.valid_mask(), (1, 1 << 50));
    }

    #[test]
    fn page_state_entry_packs_as_specified() {
        let entry = PscEntry::new()
            .with_gfn(0x8_0000_0000)
            .with_operation(PscOperation::SHARED)
            .with_huge(true);
        assert_eq!(entry.into_bits(), 1 << 56 | 2 << 52 | 0x8_0000_0000 << 12);
    }

    #[test]
    fn ap_creation_packs_as_specified() {
        let info = ApCreation::new()
            .with_operation(ApCreationOp::CREATE)
            .with_vmpl(2)
            .with_apic_id(7);
        assert_eq!(info.into_bits(), 7 << 32 | 2 << 16 | 1);
    }
}
