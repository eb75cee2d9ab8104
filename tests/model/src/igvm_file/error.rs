//! What can be wrong with a file.

/// Why a file is refused. `at` is the offset of the header in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than its own headers.
    #[error("the file is cut short")]
    CutShort,
    /// Not an IGVM file.
    #[error("not an IGVM file: magic {0:#x}")]
    Magic(u32),
    /// Of a version not known here.
    #[error("IGVM format version {0} is unknown")]
    Version(u32),
    /// Not for x86-64.
    #[error("the file is for architecture {0}")]
    Architecture(u32),
    /// Of another page size.
    #[error("the file's page size is {0}")]
    PageSize(u32),
    /// Headers overlap, are unaligned or reach beyond the file.
    #[error("the variable headers lie at {offset:#x}, {size:#x} bytes")]
    HeaderSection {
        /// Offset claimed.
        offset: u32,
        /// Size claimed.
        size: u32,
    },
    /// The checksum is wrong.
    #[error("checksum {found:#010x}, but the headers have {computed:#010x}")]
    Checksum {
        /// In the file.
        found: u32,
        /// Of the file.
        computed: u32,
    },
    /// A header reaches beyond the header section.
    #[error("the header at {at:#x} reaches beyond the header section")]
    HeaderBounds {
        /// Where.
        at: usize,
    },
    /// A header has another length than its type.
    #[error("the header at {at:#x} of type {kind:#x} is {length} bytes long")]
    HeaderLength {
        /// Where.
        at: usize,
        /// Its type.
        kind: u32,
        /// Its length.
        length: u32,
    },
    /// Bytes between headers are not zero.
    #[error("the padding after the header at {at:#x} is not zero")]
    Padding {
        /// Where.
        at: usize,
    },
    /// A header may not be ignored and is not known here.
    #[error("the header at {at:#x} has the unknown type {kind:#x}")]
    UnknownHeader {
        /// Where.
        at: usize,
        /// Its type.
        kind: u32,
    },
    /// Platform, initialization and directive headers are mixed.
    #[error("the header at {at:#x} is in the wrong section")]
    SectionOrder {
        /// Where.
        at: usize,
    },
    /// A compatibility mask has not exactly one bit.
    #[error("the platform header at {at:#x} has no single compatibility bit")]
    CompatibilityMask {
        /// Where.
        at: usize,
    },
    /// No platform header names SEV-SNP.
    #[error("the file is not for SEV-SNP")]
    NotForSnp,
    /// SEV-SNP, but of a version not known here.
    #[error("the file is for version {0} of the SEV-SNP platform")]
    PlatformVersion(u16),
    /// Something that may be there once is there twice.
    #[error("the header at {at:#x} repeats an earlier one")]
    Duplicate {
        /// Where.
        at: usize,
    },
    /// An address or size is not page-aligned, or wraps.
    #[error("the header at {at:#x} names an impossible address range")]
    Range {
        /// Where.
        at: usize,
    },
    /// A page has flags or a type not known here, or that do not go together.
    #[error("the page at {gpa:#x} has flags {flags:#x} and type {kind}")]
    Page {
        /// Its address.
        gpa: u64,
        /// Its flags.
        flags: u32,
        /// Its type.
        kind: u16,
    },
    /// Contents reach beyond the file.
    #[error("the header at {at:#x} names contents at {offset:#x} that are not in the file")]
    Contents {
        /// Where.
        at: usize,
        /// The offset it names.
        offset: u32,
    },
}
