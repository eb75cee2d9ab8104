//! IGVM files in memory: the fixed header, the checksum, and the headers that concern SEV-SNP, as values.
//!
//! [`IgvmFile::parse`] takes any bytes: it gives the whole list of [`Directive`]s in file order or an [`Error`] that names
//! what is wrong and where. It allocates the list only; page contents stay slices of the file. The format is that of the
//! `igvm_defs` crate, versions 1 and 2.

mod directive;
mod error;
mod header;
mod id_block;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use igvm_defs::{
    IGVM_VHS_GUEST_POLICY, IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHT_RANGE_DIRECTIVE,
    IGVM_VHT_RANGE_INIT, IGVM_VHT_RANGE_PLATFORM, IgvmPlatformType, IgvmVariableHeaderType,
};

pub use directive::{Directive, PageData, PageKind, Parameter};
pub use error::Error;
use header::{FixedHeader, VariableHeader};
pub use id_block::{IdBlock, IdSignature, PublicKey};

/// A parsed file.
#[derive(Clone, Debug)]
pub struct IgvmFile<'a> {
    /// The platform's entry.
    pub platform: Platform,
    /// Guest policy (SNP ABI 4.3), where given.
    pub policy: Option<u64>,
    /// What to do, in this order.
    pub directives: Vec<Directive<'a>>,
}

/// What the file says of SEV-SNP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Bit of this platform in the other headers.
    pub compatibility_mask: u32,
    /// Highest VTL; on SNP 0 or 2, of no consequence to this host.
    pub highest_vtl: u8,
    /// Address above which memory is shared (vTOM), 0 for none.
    pub shared_gpa_boundary: u64,
}

/// The three sections headers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Platform,
    Initialization,
    Directive,
}

impl<'a> IgvmFile<'a> {
    /// Parses a file. Bytes after the file's own total size are ignored (a boot loader may have padded).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let fixed = FixedHeader::parse(bytes)?;
        let mut parser = Parser {
            file: fixed.file(bytes)?,
            section: Section::Platform,
            platform: None,
            policy: None,
            directives: Vec::new(),
        };
        for header in fixed.variable_headers(bytes)? {
            parser.take(&header?)?;
        }
        Ok(Self {
            platform: parser.platform.ok_or(Error::NotForSnp)?,
            policy: parser.policy,
            directives: parser.directives,
        })
    }
}

struct Parser<'a> {
    file: &'a [u8],
    section: Section,
    platform: Option<Platform>,
    policy: Option<u64>,
    directives: Vec<Directive<'a>>,
}

impl<'a> Parser<'a> {
    fn take(&mut self, header: &VariableHeader<'a>) -> Result<(), Error> {
        let section = match header.kind() {
            kind if IGVM_VHT_RANGE_PLATFORM.contains(&kind) => Section::Platform,
            kind if IGVM_VHT_RANGE_INIT.contains(&kind) => Section::Initialization,
            kind if IGVM_VHT_RANGE_DIRECTIVE.contains(&kind) => Section::Directive,
            _ => return header.unknown(),
        };
        if section < self.section {
            return Err(Error::SectionOrder { at: header.at });
        }
        self.section = section;
        match section {
            Section::Platform => self.take_platform(header),
            Section::Initialization => self.take_initialization(header),
            Section::Directive => self.take_directive(header),
        }
    }

    fn take_platform(&mut self, header: &VariableHeader<'a>) -> Result<(), Error> {
        if header.kind() != IgvmVariableHeaderType::IGVM_VHT_SUPPORTED_PLATFORM.0 {
            return header.unknown();
        }
        let found: IGVM_VHS_SUPPORTED_PLATFORM = header.read()?;
        if !found.compatibility_mask.is_power_of_two() {
            return Err(Error::CompatibilityMask { at: header.at });
        }
        if found.platform_type != IgvmPlatformType::SEV_SNP {
            return Ok(());
        }
        if found.platform_version != igvm_defs::IGVM_SEV_SNP_PLATFORM_VERSION {
            return Err(Error::PlatformVersion(found.platform_version));
        }
        if self.platform.is_some() {
            return Err(Error::Duplicate { at: header.at });
        }
        self.platform = Some(Platform {
            compatibility_mask: found.compatibility_mask,
            highest_vtl: found.highest_vtl,
            shared_gpa_boundary: found.shared_gpa_boundary,
        });
        Ok(())
    }

    fn take_initialization(&mut self, header: &VariableHeader<'a>) -> Result<(), Error> {
        match IgvmVariableHeaderType(header.kind()) {
            IgvmVariableHeaderType::IGVM_VHT_GUEST_POLICY => {
                let found: IGVM_VHS_GUEST_POLICY = header.read()?;
                if !self.concerns(found.compatibility_mask)? {
                    return Ok(());
                }
                if self.policy.is_some() {
                    return Err(Error::Duplicate { at: header.at });
                }
                self.policy = Some(found.policy);
                Ok(())
            }
            // Nothing is relocated here, and endorsements are for the verifier.
            IgvmVariableHeaderType::IGVM_VHT_RELOCATABLE_REGION
            | IgvmVariableHeaderType::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION
            | IgvmVariableHeaderType(0x104..=0x107) => Ok(()),
            _ => header.unknown(),
        }
    }

    fn take_directive(&mut self, header: &VariableHeader<'a>) -> Result<(), Error> {
        let platform = self.platform.ok_or(Error::NotForSnp)?;
        let found = directive::parse(header, self.file, platform.compatibility_mask)?;
        self.directives.extend(found);
        Ok(())
    }

    fn concerns(&self, mask: u32) -> Result<bool, Error> {
        let platform = self.platform.ok_or(Error::NotForSnp)?;
        Ok(mask & platform.compatibility_mask != 0)
    }
}
