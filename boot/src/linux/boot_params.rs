//! The zero page: what the kernel is told (Linux `Documentation/arch/x86/zero-page.rst`, `struct boot_params`).

use alloc::boxed::Box;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::header::{HEADER_OFFSET, SetupHeader};
use crate::memory_map::E820Entry;

/// How many memory-map entries fit.
pub const MAX_E820_ENTRIES: usize = 128;

/// The zero page. What we do not fill stays zero.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootParams {
    _screen_info: [u8; 0x70],
    /// The RSDP's address, or 0.
    pub acpi_rsdp_addr: U64,
    _unused_78: [u8; 0x170],
    /// How many entries of [`BootParams::e820_table`] count.
    pub e820_entries: u8,
    _unused_1e9: [u8; 8],
    /// The kernel's own header with the loader's fields filled in.
    pub header: SetupHeader,
    _unused_26c: [u8; 0x64],
    /// The memory map.
    pub e820_table: [E820Entry; MAX_E820_ENTRIES],
    _unused_cd0: [u8; 0x330],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<BootParams>() == 4096);
    assert!(offset_of!(BootParams, acpi_rsdp_addr) == 0x70);
    assert!(offset_of!(BootParams, e820_entries) == 0x1E8);
    assert!(offset_of!(BootParams, header) == HEADER_OFFSET);
    assert!(offset_of!(BootParams, e820_table) == 0x2D0);
};

/// "Not registered", the loader id for loaders without one.
const LOADER_ID: u8 = 0xFF;

impl BootParams {
    /// Returns a zero page with the kernel's header, cut to what its protocol version defines, and this memory map.
    #[must_use]
    pub fn new(header: &SetupHeader, e820: &[E820Entry]) -> Box<Self> {
        let mut page = Box::new(Self::new_zeroed());
        let used = header.used_bytes();
        page.header.as_mut_bytes()[..used].copy_from_slice(&header.as_bytes()[..used]);
        page.header.type_of_loader = LOADER_ID;
        for (slot, entry) in page.e820_table.iter_mut().zip(e820) {
            *slot = *entry;
            page.e820_entries += 1;
        }
        page
    }
}

/// A node of the list at `setup_data` that names the confidential-computing blob (Linux `struct cc_setup_data`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CcSetupData {
    /// The next node, or 0.
    pub next: U64,
    /// [`CcSetupData::KIND`].
    pub kind: U32,
    /// Bytes that follow the node's head.
    pub len_bytes: U32,
    /// Where the blob lies.
    pub blob_address: U32,
}

const _: () = assert!(size_of::<CcSetupData>() == 20);

impl CcSetupData {
    /// `SETUP_CC_BLOB`.
    pub const KIND: u32 = 7;

    /// Returns the only node of a list, naming the blob at `blob_address`.
    #[must_use]
    pub fn new(blob_address: u32) -> Self {
        Self {
            next: U64::ZERO,
            kind: Self::KIND.into(),
            len_bytes: 4.into(),
            blob_address: blob_address.into(),
        }
    }
}

/// Where an enlightened guest finds its secrets and CPUID pages (Linux `struct cc_blob_sev_info`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CcBlob {
    magic: U32,
    version_and_reserved: U32,
    secrets_address: U64,
    secrets_bytes: U32,
    reserved_14: U32,
    cpuid_address: U64,
    cpuid_bytes: U32,
    reserved_24: U32,
}

const _: () = assert!(size_of::<CcBlob>() == 40);

impl CcBlob {
    /// `CC_BLOB_SEV_HDR_MAGIC`, "AMDE".
    const MAGIC: u32 = 0x4544_4D41;

    /// Returns the blob naming these two pages.
    #[must_use]
    pub fn new(secrets_address: u64, cpuid_address: u64) -> Self {
        Self {
            magic: Self::MAGIC.into(),
            version_and_reserved: U32::ZERO,
            secrets_address: secrets_address.into(),
            secrets_bytes: 4096.into(),
            reserved_14: U32::ZERO,
            cpuid_address: cpuid_address.into(),
            cpuid_bytes: 4096.into(),
            reserved_24: U32::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::header;
    use super::*;

    #[test]
    fn header_beyond_its_protocol_version_stays_zero() {
        let mut old = header();
        old.jump[1] = 0x62; // up to init_size
        old.kernel_info_offset = 7.into();
        let page = BootParams::new(&old, &[]);
        assert_eq!(page.header.init_size, old.init_size);
        assert_eq!(page.header.kernel_info_offset, U32::ZERO);
        assert_eq!(page.header.type_of_loader, 0xFF);
    }

    #[test]
    fn memory_map_never_overflows_its_table() {
        let page = BootParams::new(&header(), &[E820Entry::default(); 200]);
        assert_eq!(usize::from(page.e820_entries), MAX_E820_ENTRIES);
    }
}
