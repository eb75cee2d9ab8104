//! The CPUID page: leaves the host proposed and the PSP checked (SNP ABI 8.17.2.6, table 77 and 7.1, table 14).

use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Most entries on the page.
pub const CPUID_MAX_ENTRIES: usize = 64;

/// One checked leaf (SNP ABI table 14).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct CpuidEntry {
    /// Leaf.
    pub eax_in: u32,
    /// Subleaf.
    pub ecx_in: u32,
    /// XCR0 the answer was made for (leaf Dh).
    pub xcr0_in: u64,
    /// XSS the answer was made for (leaf Dh).
    pub xss_in: u64,
    /// Answer.
    pub eax: u32,
    /// Answer.
    pub ebx: u32,
    /// Answer.
    pub ecx: u32,
    /// Answer.
    pub edx: u32,
    /// Must be zero.
    pub reserved: u64,
}

/// The page (SNP ABI table 77).
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuidPage {
    /// How many entries count; not to be believed beyond [`CPUID_MAX_ENTRIES`].
    pub count: u32,
    reserved_4: u32,
    reserved_8: u64,
    /// The leaves.
    pub entries: [CpuidEntry; CPUID_MAX_ENTRIES],
    reserved_c10: [u8; 0x3F0],
}

impl CpuidPage {
    /// Returns a page of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = assert!(
    size_of::<CpuidEntry>() == 0x30
        && offset_of!(CpuidEntry, xcr0_in) == 0x08
        && offset_of!(CpuidEntry, xss_in) == 0x10
        && offset_of!(CpuidEntry, eax) == 0x18
        && offset_of!(CpuidEntry, edx) == 0x24
        && offset_of!(CpuidEntry, reserved) == 0x28
);
const _: () = assert!(size_of::<CpuidPage>() == 4096 && offset_of!(CpuidPage, entries) == 0x10);
