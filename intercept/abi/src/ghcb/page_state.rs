//! What a page state change carries in the shared buffer.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::SHARED_BUFFER_SIZE;

/// Most entries in one page state change (GHCB 4.1.6).
pub const PSC_MAX_ENTRIES: usize = 253;

/// Head of a page state change in the shared buffer (GHCB table 8).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PscHeader {
    /// Next entry to be done; the host counts it up.
    pub cur_entry: u16,
    /// Last entry (inclusive).
    pub end_entry: u16,
    reserved: u32,
}

impl PscHeader {
    /// Returns a head for the entries from `cur_entry` to `end_entry`, both included.
    #[must_use]
    pub const fn new(cur_entry: u16, end_entry: u16) -> Self {
        Self {
            cur_entry,
            end_entry,
            reserved: 0,
        }
    }
}

const _: () = assert!(size_of::<PscHeader>() == 8);
const _: () = assert!(size_of::<PscHeader>() + PSC_MAX_ENTRIES * 8 == SHARED_BUFFER_SIZE);

/// What happens to a page (GHCB table 9): any four-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PscOperation(pub u8);

impl PscOperation {
    /// Page becomes private to the guest.
    pub const PRIVATE: Self = Self(1);
    /// Page becomes shared.
    pub const SHARED: Self = Self(2);
    /// Hint: split a 2 MiB RMP entry.
    pub const PSMASH: Self = Self(3);
    /// Hint: join into a 2 MiB RMP entry.
    pub const UNSMASH: Self = Self(4);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// One page of a page state change (GHCB table 9).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PscEntry {
    /// 4 KiB pages of a 2 MiB page done so far.
    #[bits(12)]
    pub cur_page: u16,
    /// Guest frame number.
    #[bits(40)]
    pub gfn: u64,
    /// What happens.
    #[bits(4)]
    pub operation: PscOperation,
    /// The page is 2 MiB.
    pub huge: bool,
    #[bits(7)]
    __: u8,
}

/// SW_EXITINFO2 after a page state change (GHCB table 10): 0 is success.
pub mod psc_error {
    /// The header is not valid.
    pub const INVALID_HEADER: u64 = 1 << 32 | 1;
    /// The entry at `cur_entry` is not valid.
    pub const INVALID_ENTRY: u64 = 1 << 32 | 2;
    /// Something else failed.
    pub const GENERIC: u64 = 0x100 << 32;
}
