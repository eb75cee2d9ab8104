//! The manifest's entries: one a payload file.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ManifestError;
use crate::layout;

/// The greatest kernel file, in bytes.
pub const MAX_KERNEL_BYTES: u64 = 256 << 20;
/// The greatest command line, in bytes, without a terminating zero.
pub const MAX_COMMAND_LINE_BYTES: u64 = layout::guest::COMMAND_LINE_SIZE - 1;

/// The greatest file of the firmware's configuration device, in bytes.
pub const MAX_ITEM_BYTES: u64 = 64 << 10;

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

    /// A program that the paravisor runs beside the guest, at CPL-3. Its words may follow, like a kernel's module's.
    pub const PARAVISOR_MODULE: Self = Self(U32::new(6));
    /// Firmware, which starts the guest in place of a kernel: read-only memory that ends at 4 GiB.
    pub const FIRMWARE: Self = Self(U32::new(7));
    /// What the firmware's variables are on a new machine.
    pub const VARIABLES: Self = Self(U32::new(8));
    /// A file of the firmware's configuration device. Its name follows, like a module's words.
    pub const FIRMWARE_ITEM: Self = Self(U32::new(9));

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
            Self::PARAVISOR_MODULE => "paravisor's module",
            Self::FIRMWARE => "firmware",
            Self::VARIABLES => "firmware's variables",
            Self::FIRMWARE_ITEM => "firmware's item",
            _ => "unknown payload",
        }
    }

    /// Returns whether there may be more than one file of this kind.
    pub(super) fn may_repeat(self) -> bool {
        matches!(
            self,
            Self::MODULE | Self::MODULE_COMMAND_LINE | Self::PARAVISOR_MODULE | Self::FIRMWARE_ITEM
        )
    }

    pub(super) fn max_bytes(self) -> u64 {
        match self {
            Self::KERNEL => MAX_KERNEL_BYTES,
            Self::FIRMWARE | Self::VARIABLES => layout::FIRMWARE_MAX_SIZE,
            Self::FIRMWARE_ITEM => MAX_ITEM_BYTES,
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
    pub(super) const EMPTY: Self = Self {
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
    pub(super) fn pages(&self) -> Result<(u64, u64), ManifestError> {
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
