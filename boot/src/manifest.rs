//! The manifest: the measured page that tells the paravisor what its payload is and how the guest is to be set up.
//!
//! The payload files themselves lie unmeasured in the staging range, so the launch stays fast however big they are; their
//! SHA-384 digests stand here. Start from [`Manifest::parse`]; the image builder writes [`Manifest::new`].
//! Although the page is measured, it is checked in full: an image of another version must end in a named error.

mod checks;
mod devices;
mod error;
mod firmware;
mod paravisor_modules;
mod payload;
pub mod screen;
mod sealing;

use bitflags::bitflags;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout;

pub use devices::{
    CONSOLE_BYTES, Devices, DiskAccess, DiskEntry, DiskMode, KEYS_BYTES, KEYS_HOST_DEVICE,
    LEAST_DISK_BYTES, MAX_DISKS, MAX_NETS, NET_BYTES, NetEntry,
};
pub use error::ManifestError;
pub use firmware::Start;
pub use paravisor_modules::ModuleLimits;
pub use payload::{MAX_COMMAND_LINE_BYTES, MAX_ITEM_BYTES, MAX_KERNEL_BYTES, Payload, PayloadKind};
pub use sealing::{Binding, Sealing};

/// The first bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"STOCKADE";
/// The version this code writes and reads.
pub const VERSION: u32 = 6;
/// How many payload entries a manifest has room for.
pub const MAX_PAYLOADS: usize = 24;
/// The most vCPUs a guest may be given (8-bit APIC ids, 255 is broadcast).
pub const MAX_VCPUS: u32 = 255;
/// Device number of a virtio console on bus 0 of the host.
pub const CONSOLE_HOST_DEVICE: u8 = 25;

bitflags! {
    /// What the guest's machine is given beyond the least.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GuestFlags: u64 {
        /// The machine has an HPET.
        const HPET = 1 << 0;
        /// CPUID offers x2APIC.
        const X2APIC = 1 << 1;
        /// The guest may learn that it runs confidentially (hypervisor leaves, paravirtual features).
        const SELF_DESCRIBING = 1 << 2;
        /// The machine has a TPM.
        const TPM = 1 << 3;
        /// CPUID and VMMCALL tell clock frequencies by VMware's interface, the smallest one that stock kernels know.
        const VMWARE_IDENTITY = 1 << 4;
        /// CPUID does not say that there is a hypervisor.
        const BARE_IDENTITY = 1 << 5;
        /// The machine has the small devices that test kernels expect of QEMU.
        const TEST_DEVICES = 1 << 6;
        /// The machine has a virtio entropy source of ours.
        const ENTROPY = 1 << 7;
        /// The machine has a virtio console, behind which is the host's at [`CONSOLE_HOST_DEVICE`].
        const CONSOLE = 1 << 8;
        /// CPUID and MSRs have the least of Hyper-V's interface.
        const HYPERV_IDENTITY = 1 << 9;
        /// What the guest shows is copied to the host, to its disk at [`screen::HOST_DEVICE`].
        const SCREEN = 1 << 10;
    }
}

/// The manifest page's content; the rest of the page is zero.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Manifest {
    magic: [u8; 8],
    version: U32,
    len_bytes: U32,
    c_bit: U32,
    max_vcpus: U32,
    flags: U64,
    payloads: [Payload; MAX_PAYLOADS],
    devices: Devices,
    /// Bytes the paravisor has beyond its first.
    extra_bytes: U32,
    sealing: Sealing,
    module_limits: ModuleLimits,
}

const _: () = assert!(size_of::<Manifest>() == 48 + 72 * MAX_PAYLOADS + size_of::<Devices>());
const _: () = assert!(size_of::<Manifest>() as u64 <= layout::PAGE_SIZE);

impl Manifest {
    /// Returns the manifest of these payload files, checked. Those of the paravisor's modules need limits besides.
    pub fn new(
        c_bit: u32,
        max_vcpus: u32,
        flags: GuestFlags,
        files: &[Payload],
    ) -> Result<Self, ManifestError> {
        let mut payloads = [Payload::EMPTY; MAX_PAYLOADS];
        payloads
            .get_mut(..files.len())
            .ok_or(ManifestError::TooMany)?
            .copy_from_slice(files);
        let manifest = Self {
            magic: MAGIC,
            version: VERSION.into(),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "asserted to be below a page"
            )]
            len_bytes: (size_of::<Self>() as u32).into(),
            c_bit: c_bit.into(),
            max_vcpus: max_vcpus.into(),
            flags: flags.bits().into(),
            payloads,
            devices: Devices::default(),
            extra_bytes: U32::ZERO,
            sealing: Sealing::default(),
            module_limits: ModuleLimits::default(),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the manifest with these devices.
    #[must_use]
    pub fn with_devices(self, devices: Devices) -> Self {
        Self { devices, ..self }
    }

    /// Returns the manifest with so much more memory for the paravisor, checked.
    pub fn try_with_extra_memory(mut self, bytes: u32) -> Result<Self, ManifestError> {
        self.extra_bytes = bytes.into();
        self.check()?;
        Ok(self)
    }

    /// Returns how many bytes the paravisor has from [`layout::paravisor::END`] on.
    #[must_use]
    pub fn extra_bytes(&self) -> u64 {
        u64::from(self.extra_bytes.get())
    }

    /// Returns the manifest with this secret for what is sealed.
    #[must_use]
    pub fn with_sealing(self, sealing: Sealing) -> Self {
        Self { sealing, ..self }
    }

    /// Returns what the secret of what is sealed depends on.
    #[must_use]
    pub fn sealing(&self) -> Sealing {
        self.sealing
    }

    /// Returns the host's devices.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Reads the manifest at the start of `page` and checks it in full.
    pub fn parse(page: &[u8]) -> Result<Self, ManifestError> {
        let (manifest, _) = Self::read_from_prefix(page).map_err(|_| ManifestError::Magic)?;
        manifest.check()?;
        manifest.check_module_limits()?;
        Ok(manifest)
    }

    /// Returns the C-bit's position that the image's page tables were built with.
    #[must_use]
    pub fn c_bit(&self) -> u32 {
        self.c_bit.get()
    }

    /// Returns the most vCPUs the guest may be given.
    #[must_use]
    pub fn max_vcpus(&self) -> u32 {
        self.max_vcpus.get()
    }

    /// Returns the guest's options.
    #[must_use]
    pub fn flags(&self) -> GuestFlags {
        GuestFlags::from_bits_truncate(self.flags.get())
    }

    /// Returns the payload file of this kind, if the image has one.
    #[must_use]
    pub fn payload(&self, kind: PayloadKind) -> Option<&Payload> {
        self.payloads().find(|payload| payload.kind == kind)
    }

    /// Returns the payload files in the order of the image.
    pub fn payloads(&self) -> impl Iterator<Item = &Payload> {
        self.payloads
            .iter()
            .filter(|payload| payload.kind != PayloadKind::NONE)
    }

    /// Returns the modules in the kernel's order, each with its command line if it has one. The initrd is one of them.
    pub fn modules(&self) -> impl Iterator<Item = (&Payload, Option<&Payload>)> {
        self.with_words(|kind| matches!(kind, PayloadKind::INITRD | PayloadKind::MODULE))
    }

    /// Returns the files for which `is_wanted`, each with the command line behind it if it has one.
    fn with_words(
        &self,
        is_wanted: impl Fn(PayloadKind) -> bool,
    ) -> impl Iterator<Item = (&Payload, Option<&Payload>)> {
        let next = self.payloads.iter().skip(1).map(Some).chain([None]);
        self.payloads
            .iter()
            .zip(next)
            .filter(move |(file, _)| is_wanted(file.kind))
            .map(|(file, next)| {
                let words = next.filter(|next| next.kind == PayloadKind::MODULE_COMMAND_LINE);
                (file, words)
            })
    }
}

#[cfg(test)]
mod tests;
