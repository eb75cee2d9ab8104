//! The fixed header and the walk over the variable ones.

use super::Error;
use core::mem::offset_of;
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FIXED_HEADER_V2, IGVM_FORMAT_VERSION_1, IGVM_FORMAT_VERSION_2,
    IGVM_MAGIC_VALUE, IGVM_VHS_VARIABLE_HEADER, IGVM_VHT_OPTIONAL_BIT, IgvmArchitecture,
};
use zerocopy::FromBytes;

/// The fixed header of either version.
pub(super) struct FixedHeader {
    total: usize,
    start: usize,
    end: usize,
}

impl FixedHeader {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (fixed, _) = IGVM_FIXED_HEADER::read_from_prefix(bytes).map_err(|_| Error::CutShort)?;
        if fixed.magic != IGVM_MAGIC_VALUE {
            return Err(Error::Magic(fixed.magic));
        }
        let fixed_len = match fixed.format_version {
            IGVM_FORMAT_VERSION_1 => size_of::<IGVM_FIXED_HEADER>(),
            IGVM_FORMAT_VERSION_2 => check_version_2(bytes)?,
            version => return Err(Error::Version(version)),
        };
        let total = usize::try_from(fixed.total_file_size).map_err(|_| Error::CutShort)?;
        if total > bytes.len() {
            return Err(Error::CutShort);
        }
        let (offset, size) = (fixed.variable_header_offset, fixed.variable_header_size);
        let section = Error::HeaderSection { offset, size };
        let start = usize::try_from(offset).map_err(|_| section)?;
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .ok_or(section)?;
        if start < fixed_len || !start.is_multiple_of(8) || end > total {
            return Err(section);
        }
        check_sum(&bytes[..fixed_len], &bytes[start..end], fixed.checksum)?;
        Ok(Self { total, start, end })
    }

    /// The file without what comes after it.
    pub(super) fn file<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        bytes.get(..self.total).ok_or(Error::CutShort)
    }

    pub(super) fn variable_headers<'a>(&self, bytes: &'a [u8]) -> Result<Walk<'a>, Error> {
        let section = bytes.get(..self.end).ok_or(Error::CutShort)?;
        Ok(Walk {
            section,
            at: self.start,
        })
    }
}

fn check_version_2(bytes: &[u8]) -> Result<usize, Error> {
    let (fixed, _) = IGVM_FIXED_HEADER_V2::read_from_prefix(bytes).map_err(|_| Error::CutShort)?;
    if fixed.architecture != IgvmArchitecture::X64 {
        return Err(Error::Architecture(fixed.architecture.0));
    }
    if u64::from(fixed.page_size) != igvm_defs::PAGE_SIZE_4K {
        return Err(Error::PageSize(fixed.page_size));
    }
    Ok(size_of::<IGVM_FIXED_HEADER_V2>())
}

/// CRC-32 over both headers, the checksum itself counted as zero.
fn check_sum(fixed: &[u8], variable: &[u8], found: u32) -> Result<(), Error> {
    let at = offset_of!(IGVM_FIXED_HEADER, checksum);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed[..at]);
    hasher.update(&[0; 4]);
    hasher.update(&fixed[at + 4..]);
    hasher.update(variable);
    let computed = hasher.finalize();
    if computed == found {
        Ok(())
    } else {
        Err(Error::Checksum { found, computed })
    }
}

/// One variable header.
pub(super) struct VariableHeader<'a> {
    /// Offset in the file.
    pub(super) at: usize,
    raw_kind: u32,
    content: &'a [u8],
}

impl VariableHeader<'_> {
    /// The type without its "may be ignored" bit.
    pub(super) const fn kind(&self) -> u32 {
        self.raw_kind & !IGVM_VHT_OPTIONAL_BIT
    }

    /// The content as the structure of this type, which must have exactly its size.
    pub(super) fn read<T: FromBytes>(&self) -> Result<T, Error> {
        T::read_from_bytes(self.content).map_err(|_| Error::HeaderLength {
            at: self.at,
            kind: self.kind(),
            length: u32::try_from(self.content.len()).unwrap_or(u32::MAX),
        })
    }

    /// What becomes of a header not known here.
    pub(super) const fn unknown(&self) -> Result<(), Error> {
        if self.raw_kind & IGVM_VHT_OPTIONAL_BIT != 0 {
            return Ok(());
        }
        Err(Error::UnknownHeader {
            at: self.at,
            kind: self.raw_kind,
        })
    }
}

/// The walk; ends at the section's end or with the first error.
pub(super) struct Walk<'a> {
    section: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<VariableHeader<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.section.len() {
            return None;
        }
        let header = self.read_next();
        if header.is_err() {
            self.at = self.section.len();
        }
        Some(header)
    }
}

impl<'a> Walk<'a> {
    fn read_next(&mut self) -> Result<VariableHeader<'a>, Error> {
        let at = self.at;
        let bounds = Error::HeaderBounds { at };
        let rest = self.section.get(at..).ok_or(bounds)?;
        let (head, rest) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(rest).map_err(|_| bounds)?;
        let len = usize::try_from(head.length).map_err(|_| bounds)?;
        let content = rest.get(..len).ok_or(bounds)?;
        let padded = len.checked_next_multiple_of(8).ok_or(bounds)?;
        let padding = rest.get(len..padded).ok_or(bounds)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Error::Padding { at });
        }
        self.at = at + size_of::<IGVM_VHS_VARIABLE_HEADER>() + padded;
        Ok(VariableHeader {
            at,
            raw_kind: head.typ.0,
            content,
        })
    }
}
