//! The manifest: the measured page that tells the paravisor what its payload is and how the guest is to be set up.
//!
//! The payload files themselves lie unmeasured in the staging range, so the launch stays fast however big they are; their
//! SHA-384 digests stand here. Start from [`Manifest::parse`]; the image builder writes [`Manifest::new`].
//! Although the page is measured, it is checked in full: an image of another version must end in a named error.

mod devices;
mod error;

use bitflags::bitflags;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout;

pub use devices::{
    Devices, DiskAccess, DiskEntry, DiskMode, LEAST_DISK_BYTES, MAX_DISKS, MAX_NETS, NET_BYTES,
    NetEntry,
};
pub use error::ManifestError;

/// The first bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"STOCKADE";
/// The version this code writes and reads.
pub const VERSION: u32 = 4;
/// How many payload entries a manifest has room for.
pub const MAX_PAYLOADS: usize = 24;
/// The most vCPUs a guest may be given (8-bit APIC ids, 255 is broadcast).
pub const MAX_VCPUS: u32 = 255;
/// The greatest kernel file, in bytes.
pub const MAX_KERNEL_BYTES: u64 = 256 << 20;
/// The greatest command line, in bytes, without a terminating zero.
pub const MAX_COMMAND_LINE_BYTES: u64 = layout::guest::COMMAND_LINE_SIZE - 1;

/// What a payload entry is. Whoever writes the image chooses the number, so any number is a value.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(transparent)]
pub struct PayloadKind(pub U32);

impl PayloadKind {
    /// No entry.
    pub const NONE: Self = Self(U32::new(0));
    /// The guest's kernel: a bzImage, a multiboot image or a PVH ELF file.
    pub const KERNEL: Self = Self(U32::new(1));
    /// The initial RAM disk.
    pub const INITRD: Self = Self(U32::new(2));
    /// The kernel's command line, without a terminating zero.
    pub const COMMAND_LINE: Self = Self(U32::new(3));
    /// A module of a multiboot or PVH kernel. There may be several; their order is the kernel's.
    pub const MODULE: Self = Self(U32::new(4));
    /// The command line of the module in the entry before, without a terminating zero.
    pub const MODULE_COMMAND_LINE: Self = Self(U32::new(5));

    /// Returns the kind's name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NONE => "nothing",
            Self::KERNEL => "kernel",
            Self::INITRD => "initrd",
            Self::COMMAND_LINE => "command line",
            Self::MODULE => "module",
            Self::MODULE_COMMAND_LINE => "module's command line",
            _ => "unknown payload",
        }
    }

    /// Returns whether there may be more than one file of this kind.
    fn may_repeat(self) -> bool {
        matches!(self, Self::MODULE | Self::MODULE_COMMAND_LINE)
    }

    fn max_bytes(self) -> u64 {
        match self {
            Self::KERNEL => MAX_KERNEL_BYTES,
            Self::COMMAND_LINE | Self::MODULE_COMMAND_LINE => MAX_COMMAND_LINE_BYTES,
            _ => layout::STAGING_SIZE,
        }
    }
}

impl core::fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

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
    }
}

/// One payload file: where the host left it and what it must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Payload {
    /// Where the file begins in the staging range; page-aligned.
    pub gpa: U64,
    /// The file's length in bytes, never 0 in a used entry.
    pub len_bytes: U64,
    /// What the file is.
    pub kind: PayloadKind,
    /// Zero.
    pub reserved: U32,
    /// The digest of the file's `len_bytes` bytes.
    pub sha384: [u8; 48],
}

const _: () = assert!(size_of::<Payload>() == 72);

impl Payload {
    const EMPTY: Self = Self {
        gpa: U64::ZERO,
        len_bytes: U64::ZERO,
        kind: PayloadKind::NONE,
        reserved: U32::ZERO,
        sha384: [0; 48],
    };

    /// Returns an entry for a file of `len_bytes` bytes staged at `gpa`.
    #[must_use]
    pub fn new(kind: PayloadKind, gpa: u64, len_bytes: u64, sha384: [u8; 48]) -> Self {
        Self {
            gpa: gpa.into(),
            len_bytes: len_bytes.into(),
            kind,
            reserved: U32::ZERO,
            sha384,
        }
    }

    /// Returns the staged range in whole pages, or why it is none.
    fn pages(&self) -> Result<(u64, u64), ManifestError> {
        let (kind, gpa, len_bytes) = (self.kind, self.gpa.get(), self.len_bytes.get());
        if len_bytes == 0 || len_bytes > kind.max_bytes() {
            return Err(ManifestError::PayloadLength { kind, len_bytes });
        }
        let end = gpa
            .checked_add(len_bytes)
            .and_then(|end| end.checked_next_multiple_of(layout::PAGE_SIZE))
            .filter(|end| *end <= layout::STAGING_END);
        match end {
            Some(end) if gpa >= layout::STAGING_BASE && gpa.is_multiple_of(layout::PAGE_SIZE) => {
                Ok((gpa, end))
            }
            _ => Err(ManifestError::PayloadRange {
                kind,
                gpa,
                len_bytes,
            }),
        }
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
}

const _: () = assert!(size_of::<Manifest>() == 36 + 72 * MAX_PAYLOADS + size_of::<Devices>());
const _: () = assert!(size_of::<Manifest>() as u64 <= layout::PAGE_SIZE);

impl Manifest {
    /// Returns the manifest of these payload files, checked.
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

    /// Returns the host's devices.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Reads the manifest at the start of `page` and checks it in full.
    pub fn parse(page: &[u8]) -> Result<Self, ManifestError> {
        let (manifest, _) = Self::read_from_prefix(page).map_err(|_| ManifestError::Magic)?;
        manifest.check()?;
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
        let next = self.payloads.iter().skip(1).map(Some).chain([None]);
        self.payloads
            .iter()
            .zip(next)
            .filter(|(file, _)| matches!(file.kind, PayloadKind::INITRD | PayloadKind::MODULE))
            .map(|(file, next)| {
                let words = next.filter(|next| next.kind == PayloadKind::MODULE_COMMAND_LINE);
                (file, words)
            })
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.magic != MAGIC {
            return Err(ManifestError::Magic);
        }
        if self.version.get() != VERSION {
            return Err(ManifestError::Version(self.version.get()));
        }
        if usize::try_from(self.len_bytes.get()) != Ok(size_of::<Self>()) {
            return Err(ManifestError::Length(self.len_bytes.get()));
        }
        if GuestFlags::from_bits(self.flags.get()).is_none() {
            return Err(ManifestError::Flags(self.flags.get()));
        }
        // Above vTOM, or a private address of the guest would be a shared one of ours.
        if !(47..=51).contains(&self.c_bit()) {
            return Err(ManifestError::CBit(self.c_bit()));
        }
        if !(1..=MAX_VCPUS).contains(&self.max_vcpus()) {
            return Err(ManifestError::Vcpus(self.max_vcpus()));
        }
        let extra = self.extra_bytes();
        let is_whole = extra.is_multiple_of(layout::LARGE_PAGE_SIZE);
        if extra > layout::paravisor::EXTRA_MAX_SIZE || !is_whole {
            return Err(ManifestError::ExtraMemory(extra));
        }
        self.devices.check()?;
        self.check_payloads()
    }

    fn check_payloads(&self) -> Result<(), ManifestError> {
        for (index, payload) in self.payloads.iter().enumerate() {
            match payload.kind {
                PayloadKind::NONE if *payload == Payload::EMPTY => continue,
                PayloadKind::NONE => return Err(ManifestError::Reserved(PayloadKind::NONE)),
                PayloadKind::KERNEL
                | PayloadKind::INITRD
                | PayloadKind::COMMAND_LINE
                | PayloadKind::MODULE => {}
                PayloadKind::MODULE_COMMAND_LINE => self.check_follows_module(index)?,
                PayloadKind(other) => return Err(ManifestError::PayloadKind(other.get())),
            }
            if payload.reserved != U32::ZERO {
                return Err(ManifestError::Reserved(payload.kind));
            }
            let (start, end) = payload.pages()?;
            for other in self.payloads[..index]
                .iter()
                .filter(|p| p.kind != PayloadKind::NONE)
            {
                if other.kind == payload.kind && !payload.kind.may_repeat() {
                    return Err(ManifestError::Duplicate(payload.kind));
                }
                let (other_start, other_end) = other.pages()?;
                if start < other_end && other_start < end {
                    return Err(ManifestError::Overlap(payload.kind, other.kind));
                }
            }
        }
        self.payload(PayloadKind::KERNEL)
            .map(|_| ())
            .ok_or(ManifestError::NoKernel)
    }

    fn check_follows_module(&self, index: usize) -> Result<(), ManifestError> {
        let before = index
            .checked_sub(1)
            .and_then(|before| self.payloads.get(before));
        match before.map(|file| file.kind) {
            Some(PayloadKind::MODULE | PayloadKind::INITRD) => Ok(()),
            _ => Err(ManifestError::StrayCommandLine),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::layout::{STAGING_BASE, STAGING_END};

    fn kernel() -> Payload {
        Payload::new(PayloadKind::KERNEL, STAGING_BASE, 0x1234, [7; 48])
    }

    fn build(files: &[Payload]) -> Result<Manifest, ManifestError> {
        Manifest::new(51, 4, GuestFlags::X2APIC, files)
    }

    #[test]
    fn manifest_survives_a_page() {
        let initrd = Payload::new(PayloadKind::INITRD, STAGING_BASE + 0x2000, 5, [9; 48]);
        let manifest = build(&[kernel(), initrd]).unwrap();
        let mut page = [0; 4096];
        manifest.write_to_prefix(&mut page).unwrap();

        let read = Manifest::parse(&page).unwrap();

        assert_eq!(read, manifest);
        assert_eq!((read.c_bit(), read.max_vcpus()), (51, 4));
        assert_eq!(read.flags(), GuestFlags::X2APIC);
        assert_eq!(read.payload(PayloadKind::INITRD), Some(&initrd));
        assert_eq!(read.payload(PayloadKind::COMMAND_LINE), None);
        assert_eq!(read.payloads().count(), 2);
    }

    #[test]
    fn more_memory_is_in_large_pages_and_limited() {
        let manifest = build(&[kernel()]).unwrap();
        assert_eq!(manifest.extra_bytes(), 0);
        let more = manifest.clone().try_with_extra_memory(4 << 20).unwrap();
        assert_eq!(more.extra_bytes(), 4 << 20);
        for bytes in [1 << 20, 66 << 20, u32::MAX] {
            let error = manifest.clone().try_with_extra_memory(bytes).unwrap_err();
            assert_eq!(error, ManifestError::ExtraMemory(bytes.into()));
        }
    }

    #[test]
    fn other_pages_are_no_manifest() {
        assert_eq!(Manifest::parse(&[0; 4096]), Err(ManifestError::Magic));
        assert_eq!(Manifest::parse(b"STOCKADE"), Err(ManifestError::Magic));
    }

    #[test]
    fn another_version_is_named() {
        let mut manifest = build(&[kernel()]).unwrap();
        manifest.version = 1.into();
        assert_eq!(
            Manifest::parse(manifest.as_bytes()),
            Err(ManifestError::Version(1))
        );
    }

    #[test]
    fn unknown_flags_and_kinds_are_refused() {
        let mut manifest = build(&[kernel()]).unwrap();
        manifest.flags = (1 << 63).into();
        assert_eq!(
            Manifest::parse(manifest.as_bytes()),
            Err(ManifestError::Flags(1 << 63))
        );
        let odd = Payload {
            kind: PayloadKind(99.into()),
            ..kernel()
        };
        assert_eq!(build(&[odd]), Err(ManifestError::PayloadKind(99)));
    }

    #[test]
    fn c_bit_inside_guest_memory_is_refused() {
        for c_bit in [0, 46, 52, 64, u32::MAX] {
            let result = Manifest::new(c_bit, 1, GuestFlags::empty(), &[kernel()]);
            assert_eq!(result, Err(ManifestError::CBit(c_bit)));
        }
    }

    #[test]
    fn vcpu_count_is_bounded() {
        for vcpus in [0, 256, u32::MAX] {
            let result = Manifest::new(51, vcpus, GuestFlags::empty(), &[kernel()]);
            assert_eq!(result, Err(ManifestError::Vcpus(vcpus)));
        }
    }

    /// A file that reached outside staging could make the paravisor copy its own memory into the guest.
    #[test]
    fn payload_outside_staging_is_refused() {
        for (gpa, len) in [
            (STAGING_BASE - 0x1000, 0x10),
            (STAGING_BASE + 1, 0x10),
            (STAGING_END - 0x1000, 0x1001),
            (STAGING_END, 1),
            (!0xFFF, 0x2000),
            (0, 1),
        ] {
            let payload = Payload::new(PayloadKind::KERNEL, gpa, len, [0; 48]);
            let error = build(&[payload]).unwrap_err();
            assert!(
                matches!(error, ManifestError::PayloadRange { .. }),
                "{gpa:#x}: {error}"
            );
        }
    }

    #[test]
    fn payload_of_impossible_length_is_refused() {
        for (kind, len) in [
            (PayloadKind::KERNEL, 0),
            (PayloadKind::KERNEL, MAX_KERNEL_BYTES + 1),
            (PayloadKind::COMMAND_LINE, MAX_COMMAND_LINE_BYTES + 1),
            (PayloadKind::INITRD, u64::MAX),
        ] {
            let payload = Payload::new(kind, STAGING_BASE, len, [0; 48]);
            let error = build(&[payload]).unwrap_err();
            assert_eq!(
                error,
                ManifestError::PayloadLength {
                    kind,
                    len_bytes: len
                }
            );
        }
    }

    #[test]
    fn payloads_sharing_a_page_are_refused() {
        let initrd = Payload::new(PayloadKind::INITRD, STAGING_BASE + 0x1000, 5, [9; 48]);
        let error = build(&[kernel(), initrd]).unwrap_err();
        assert_eq!(
            error,
            ManifestError::Overlap(PayloadKind::INITRD, PayloadKind::KERNEL)
        );
    }

    #[test]
    fn second_kernel_and_no_kernel_are_refused() {
        let second = Payload {
            gpa: (STAGING_BASE + 0x10000).into(),
            ..kernel()
        };
        assert_eq!(
            build(&[kernel(), second]),
            Err(ManifestError::Duplicate(PayloadKind::KERNEL))
        );
        assert_eq!(build(&[]), Err(ManifestError::NoKernel));
    }

    fn staged(kind: PayloadKind, page: u64) -> Payload {
        Payload::new(kind, STAGING_BASE + page * 0x1000, 5, [1; 48])
    }

    #[test]
    fn modules_keep_their_order_and_their_command_lines() {
        let files = [
            kernel(),
            staged(PayloadKind::MODULE, 8),
            staged(PayloadKind::MODULE_COMMAND_LINE, 9),
            staged(PayloadKind::INITRD, 10),
            staged(PayloadKind::MODULE, 11),
            staged(PayloadKind::MODULE_COMMAND_LINE, 12),
        ];
        let manifest = build(&files).unwrap();
        let modules: Vec<_> = manifest.modules().collect();
        assert_eq!(
            modules,
            [
                (&files[1], Some(&files[2])),
                (&files[3], None),
                (&files[4], Some(&files[5])),
            ]
        );
    }

    #[test]
    fn command_line_without_its_module_is_refused() {
        let stray = staged(PayloadKind::MODULE_COMMAND_LINE, 8);
        assert_eq!(
            build(&[kernel(), stray]),
            Err(ManifestError::StrayCommandLine)
        );
        assert_eq!(build(&[stray]), Err(ManifestError::StrayCommandLine));
    }

    #[test]
    fn unused_entries_must_be_zero() {
        let stray = Payload {
            len_bytes: 1.into(),
            ..Payload::EMPTY
        };
        assert_eq!(
            build(&[kernel(), stray]),
            Err(ManifestError::Reserved(PayloadKind::NONE))
        );
    }
}
