//! Why a page is no manifest.

use super::{MAX_PAYLOADS, MAX_VCPUS, PayloadKind, VERSION};

/// Why a page is not a manifest this code can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The page does not begin with `MAGIC`, or is too short.
    #[error("no manifest in the image")]
    Magic,
    /// Written by another version of the image builder.
    #[error("manifest version {0}, this paravisor reads {VERSION}")]
    Version(u32),
    /// The length field is not this version's length.
    #[error("manifest of {0} bytes")]
    Length(u32),
    /// Bits of the flags that mean nothing.
    #[error("unknown guest flags {0:#x}")]
    Flags(u64),
    /// The C-bit cannot be there.
    #[error("C-bit {0} is not a physical address bit above guest memory")]
    CBit(u32),
    /// No vCPU, or too many.
    #[error("{0} vCPUs, from 1 to {MAX_VCPUS} are possible")]
    Vcpus(u32),
    /// An entry whose kind means nothing.
    #[error("payload of unknown kind {0}")]
    PayloadKind(u32),
    /// Reserved bytes in use, or content in an unused entry.
    #[error("reserved bytes of the {0} entry are in use")]
    Reserved(PayloadKind),
    /// Empty, or too long for its kind.
    #[error("{kind} of {len_bytes} bytes")]
    PayloadLength {
        /// What the file is.
        kind: PayloadKind,
        /// The length said.
        len_bytes: u64,
    },
    /// Not page-aligned, or not inside the staging range.
    #[error("{kind} at {gpa:#x} of {len_bytes} bytes is outside the staging range")]
    PayloadRange {
        /// What the file is.
        kind: PayloadKind,
        /// The address said.
        gpa: u64,
        /// The length said.
        len_bytes: u64,
    },
    /// Two entries of one kind.
    #[error("more than one {0}")]
    Duplicate(PayloadKind),
    /// Two entries share a page.
    #[error("{0} overlaps {1}")]
    Overlap(PayloadKind, PayloadKind),
    /// A module's command line without its module.
    #[error("a module's command line does not stand behind its module")]
    StrayCommandLine,
    /// Modules of the paravisor without limits, limits without modules, or more memory than there can be.
    #[error("{count} modules of the paravisor with {memory_mib} MiB each")]
    ModuleLimits {
        /// How many modules.
        count: u64,
        /// How much memory for each.
        memory_mib: u16,
    },
    /// Nothing to start.
    #[error("neither a kernel nor firmware")]
    NoKernel,
    /// Part of a start by kernel in one by firmware, or the other way round.
    #[error("a {0} goes with another start")]
    Stray(PayloadKind),
    /// Firmware that does not fit below 4 GiB.
    #[error("firmware of {code} bytes with variables of {variables}")]
    Firmware {
        /// Bytes of code.
        code: u64,
        /// Bytes of variables.
        variables: u64,
    },
    /// A disk of no known kind, at no place or at another device's.
    #[error("a disk of the image makes no sense")]
    Disk,
    /// A sealed store at no place or at another device's.
    #[error("the sealed store of the image makes no sense")]
    Store,
    /// A choice of secret that means nothing.
    #[error("the image binds its sealed data to nothing known")]
    Sealing,
    /// A key from elsewhere for a disk that has none, for two disks, or with no way to come.
    #[error("a disk's key of the image makes no sense")]
    Key,
    /// A network card at no place or at another device's, or with the address of a group.
    #[error("a network card of the image makes no sense")]
    Net,
    /// Shared memory that is too much, not whole, or missing.
    #[error("{0} bytes of shared memory for devices")]
    Bounce(u64),
    /// More memory for the paravisor than there is room for, or not in large pages.
    #[error("{0} more bytes for the paravisor")]
    ExtraMemory(u64),
    /// More entries than [`MAX_PAYLOADS`].
    #[error("more than {MAX_PAYLOADS} payload files")]
    TooMany,
}
