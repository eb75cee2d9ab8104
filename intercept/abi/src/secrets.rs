//! The secrets page the PSP writes at launch (SNP ABI 8.17.2.5, table 76; SVSM 5, for the fields from 140h on).

use core::fmt;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes in one VM platform communication key.
pub const VMPCK_SIZE: usize = 32;
/// Version of the layout the paravisor knows at least.
pub const SECRETS_MIN_VERSION: u32 = 2;

/// The secrets page. Its keys do not show in `Debug`.
#[repr(C)]
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SecretsPage {
    /// Layout version.
    pub version: u32,
    /// Bit 0: an initial migration image is in use.
    pub imi_en: u32,
    /// Family, model, stepping as CPUID 1 EAX has them.
    pub fms: u32,
    reserved_c: u32,
    /// Guest OS visible workarounds.
    pub gosvw: [u8; 16],
    /// Communication key of each VMPL.
    pub vmpck: [[u8; VMPCK_SIZE]; 4],
    /// For the guest's own use; by convention the message sequence numbers of the four keys.
    pub os_area: [u8; 96],
    /// Which quadwords of the VMSA are scrambled under VMSA register protection.
    pub vmsa_tweak_bitmap: [u64; 8],
    /// SVSM: where it lies.
    pub svsm_base: u64,
    /// SVSM: how big it is.
    pub svsm_size: u64,
    /// SVSM: calling area of the boot processor.
    pub svsm_caa: u64,
    /// SVSM: highest version of the core protocol.
    pub svsm_max_version: u32,
    /// SVSM: VMPL of the guest.
    pub svsm_guest_vmpl: u8,
    reserved_15d: [u8; 3],
    /// Secure TSC: how far the mean frequency is below the nominal one, in parts of 100,000.
    pub tsc_factor: u32,
    reserved_164: u32,
    /// Mitigations in force at launch.
    pub launch_mit_vector: u64,
    reserved_170: [u8; 0xE90],
}

impl SecretsPage {
    /// Returns a page of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for SecretsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretsPage")
            .field("version", &self.version)
            .field("fms", &self.fms)
            .field("tsc_factor", &self.tsc_factor)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(
    size_of::<SecretsPage>() == 4096
        && offset_of!(SecretsPage, gosvw) == 0x10
        && offset_of!(SecretsPage, vmpck) == 0x20
        && offset_of!(SecretsPage, os_area) == 0xA0
        && offset_of!(SecretsPage, vmsa_tweak_bitmap) == 0x100
        && offset_of!(SecretsPage, svsm_base) == 0x140
        && offset_of!(SecretsPage, svsm_size) == 0x148
        && offset_of!(SecretsPage, svsm_caa) == 0x150
        && offset_of!(SecretsPage, svsm_max_version) == 0x158
        && offset_of!(SecretsPage, svsm_guest_vmpl) == 0x15C
        && offset_of!(SecretsPage, tsc_factor) == 0x160
        && offset_of!(SecretsPage, launch_mit_vector) == 0x168
);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// A key in a log line would be a key lost.
    #[test]
    fn debug_output_shows_no_key() {
        let mut page = SecretsPage::zeroed();
        page.vmpck[0] = [0xA5; VMPCK_SIZE];
        assert!(!std::format!("{page:?}").contains("165"));
    }
}
