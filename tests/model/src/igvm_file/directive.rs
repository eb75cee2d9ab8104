//! Directives: the commands of a file.

use super::header::VariableHeader;
use super::{Error, IdBlock};
use alloc::boxed::Box;
use igvm_defs::{
    IGVM_VHS_ERROR_RANGE, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA,
    IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_VP_CONTEXT, IgvmPageDataType,
    IgvmVariableHeaderType as Kind,
};

const PAGE: usize = 0x1000;
const LARGE_PAGE: usize = 0x20_0000;

/// One command, for SEV-SNP.
#[derive(Clone, Debug)]
pub enum Directive<'a> {
    /// Import a page.
    PageData(PageData<'a>),
    /// Set up memory for parameters.
    ParameterArea {
        /// Its number.
        index: u32,
        /// Its size, whole pages.
        bytes: u64,
        /// What it holds before parameters are put in; empty for zeros, else `bytes` long.
        initial: &'a [u8],
    },
    /// Put a parameter into an area.
    Parameter {
        /// Which.
        parameter: Parameter,
        /// Number of the area.
        area: u32,
        /// Where in the area.
        offset: u32,
    },
    /// Import an area as unmeasured pages.
    ParameterInsert {
        /// Number of the area.
        area: u32,
        /// Where in guest-physical memory.
        gpa: u64,
    },
    /// The first vCPU's VMSA.
    VpContext {
        /// Where its page is.
        gpa: u64,
        /// Which vCPU.
        vp_index: u16,
        /// The VMSA.
        vmsa: &'a [u8; PAGE],
    },
    /// Memory that must be there.
    RequiredMemory {
        /// First address.
        gpa: u64,
        /// Size, whole pages.
        bytes: u32,
    },
    /// Shared memory for error reports.
    ErrorRange {
        /// First address.
        gpa: u64,
        /// Size, whole pages.
        bytes: u32,
    },
    /// The ID block for launch finish.
    IdBlock(Box<IdBlock>),
}

/// A page to be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageData<'a> {
    /// Where, aligned to its size.
    pub gpa: u64,
    /// How.
    pub kind: PageKind,
    /// Whether it is 2 MiB.
    pub large: bool,
    /// Contents: empty for zeros, else 4 KiB or 2 MiB.
    pub data: &'a [u8],
}

impl PageData<'_> {
    /// Returns the size of the page.
    #[must_use]
    pub const fn size(&self) -> usize {
        if self.large { LARGE_PAGE } else { PAGE }
    }
}

/// How a page is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Private and measured.
    Normal,
    /// Private, its address measured but not its contents.
    Unmeasured,
    /// Not launched: host-visible, its contents kept.
    Shared,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The CPUID page's extension for XSAVE.
    CpuidXf,
}

impl PageKind {
    /// Flags and type that do not go together are no kind: a shared page is plain data, a special page is 4 KiB.
    fn decode(page: &IGVM_VHS_PAGE_DATA) -> Option<Self> {
        let flags = page.flags;
        let kind = match (page.data_type, flags.shared(), flags.unmeasured()) {
            (IgvmPageDataType::NORMAL, true, _) => Self::Shared,
            (IgvmPageDataType::NORMAL, false, true) => Self::Unmeasured,
            (IgvmPageDataType::NORMAL, false, false) => Self::Normal,
            (IgvmPageDataType::SECRETS, false, _) => Self::Secrets,
            (IgvmPageDataType::CPUID_DATA, false, _) => Self::Cpuid,
            (IgvmPageDataType::CPUID_XF, false, _) => Self::CpuidXf,
            _ => return None,
        };
        let is_special = matches!(kind, Self::Secrets | Self::Cpuid | Self::CpuidXf);
        let is_good =
            flags.reserved() == 0 && page.reserved == 0 && !(flags.is_2mb_page() && is_special);
        is_good.then_some(kind)
    }
}

/// What a host tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Number of vCPUs, u32.
    VpCount,
    /// `IGVM_VHS_MEMORY_MAP_ENTRY`s, ended by one of no pages.
    MemoryMap,
    /// `IGVM_VHS_MMIO_RANGES`.
    MmioRanges,
    /// NUL-terminated.
    CommandLine,
    /// u32 of `IgvmEnvironmentInfo`.
    EnvironmentInfo,
    /// ACPI SRAT.
    Srat,
    /// ACPI MADT.
    Madt,
    /// ACPI SLIT.
    Slit,
    /// ACPI PPTT.
    Pptt,
    /// Device tree.
    DeviceTree,
}

impl Parameter {
    const fn decode(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::IGVM_VHT_VP_COUNT_PARAMETER => Self::VpCount,
            Kind::IGVM_VHT_MEMORY_MAP => Self::MemoryMap,
            Kind::IGVM_VHT_MMIO_RANGES => Self::MmioRanges,
            Kind::IGVM_VHT_COMMAND_LINE => Self::CommandLine,
            Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => Self::EnvironmentInfo,
            Kind::IGVM_VHT_SRAT => Self::Srat,
            Kind::IGVM_VHT_MADT => Self::Madt,
            Kind::IGVM_VHT_SLIT => Self::Slit,
            Kind::IGVM_VHT_PPTT => Self::Pptt,
            Kind::IGVM_VHT_DEVICE_TREE => Self::DeviceTree,
            _ => return None,
        })
    }
}

/// Reads one directive; `None` for one that is for other platforms than those in `mask`, or to be ignored.
pub(super) fn parse<'a>(
    header: &VariableHeader<'a>,
    file: &'a [u8],
    mask: u32,
) -> Result<Option<Directive<'a>>, Error> {
    let kind = Kind(header.kind());
    if let Some(parameter) = Parameter::decode(kind) {
        let found: IGVM_VHS_PARAMETER = header.read()?;
        return Ok(Some(Directive::Parameter {
            parameter,
            area: found.parameter_area_index,
            offset: found.byte_offset,
        }));
    }
    match kind {
        Kind::IGVM_VHT_PAGE_DATA => page_data(header, file, mask),
        Kind::IGVM_VHT_PARAMETER_AREA => parameter_area(header, file).map(Some),
        Kind::IGVM_VHT_PARAMETER_INSERT => parameter_insert(header, mask),
        Kind::IGVM_VHT_VP_CONTEXT => vp_context(header, file, mask),
        Kind::IGVM_VHT_REQUIRED_MEMORY => required_memory(header, mask),
        Kind::IGVM_VHT_ERROR_RANGE => error_range(header, mask),
        Kind::IGVM_VHT_SNP_ID_BLOCK => {
            let block = IdBlock::read(header, mask)?;
            Ok(block.map(|block| Directive::IdBlock(Box::new(block))))
        }
        // Another platform's measurement.
        Kind::IGVM_VHT_VBS_MEASUREMENT => Ok(None),
        _ => header.unknown().map(|()| None),
    }
}

fn page_data<'a>(
    header: &VariableHeader<'a>,
    file: &'a [u8],
    mask: u32,
) -> Result<Option<Directive<'a>>, Error> {
    let found: IGVM_VHS_PAGE_DATA = header.read()?;
    if found.compatibility_mask & mask == 0 {
        return Ok(None);
    }
    let (flags, gpa) = (found.flags, found.gpa);
    let kind = PageKind::decode(&found).ok_or(Error::Page {
        gpa,
        flags: flags.into(),
        kind: found.data_type.0,
    })?;
    let large = flags.is_2mb_page();
    let size = if large { LARGE_PAGE } else { PAGE };
    check_range(header, gpa, size as u64, size as u64)?;
    let data = contents(header, file, found.file_offset, size)?;
    Ok(Some(Directive::PageData(PageData {
        gpa,
        kind,
        large,
        data,
    })))
}

fn parameter_area<'a>(header: &VariableHeader<'a>, file: &'a [u8]) -> Result<Directive<'a>, Error> {
    let found: IGVM_VHS_PARAMETER_AREA = header.read()?;
    let (bytes, range) = (found.number_of_bytes, Error::Range { at: header.at });
    if bytes == 0 || !bytes.is_multiple_of(PAGE as u64) {
        return Err(range);
    }
    let len = usize::try_from(bytes).map_err(|_| range)?;
    let initial = contents(header, file, found.file_offset, len)?;
    Ok(Directive::ParameterArea {
        index: found.parameter_area_index,
        bytes,
        initial,
    })
}

fn parameter_insert<'a>(
    header: &VariableHeader<'a>,
    mask: u32,
) -> Result<Option<Directive<'a>>, Error> {
    let found: IGVM_VHS_PARAMETER_INSERT = header.read()?;
    if found.compatibility_mask & mask == 0 {
        return Ok(None);
    }
    check_range(header, found.gpa, PAGE as u64, PAGE as u64)?;
    Ok(Some(Directive::ParameterInsert {
        area: found.parameter_area_index,
        gpa: found.gpa,
    }))
}

fn vp_context<'a>(
    header: &VariableHeader<'a>,
    file: &'a [u8],
    mask: u32,
) -> Result<Option<Directive<'a>>, Error> {
    let found: IGVM_VHS_VP_CONTEXT = header.read()?;
    if found.compatibility_mask & mask == 0 {
        return Ok(None);
    }
    let (gpa, offset) = (found.gpa.get(), found.file_offset);
    check_range(header, gpa, PAGE as u64, PAGE as u64)?;
    let vmsa = contents(header, file, offset, PAGE)?
        .first_chunk()
        .ok_or(Error::Contents {
            at: header.at,
            offset,
        })?;
    Ok(Some(Directive::VpContext {
        gpa,
        vp_index: found.vp_index,
        vmsa,
    }))
}

fn required_memory<'a>(
    header: &VariableHeader<'a>,
    mask: u32,
) -> Result<Option<Directive<'a>>, Error> {
    let found: IGVM_VHS_REQUIRED_MEMORY = header.read()?;
    if found.compatibility_mask & mask == 0 {
        return Ok(None);
    }
    let bytes = found.number_of_bytes;
    check_range(header, found.gpa, u64::from(bytes), PAGE as u64)?;
    Ok(Some(Directive::RequiredMemory {
        gpa: found.gpa,
        bytes,
    }))
}

fn error_range<'a>(header: &VariableHeader<'a>, mask: u32) -> Result<Option<Directive<'a>>, Error> {
    let found: IGVM_VHS_ERROR_RANGE = header.read()?;
    if found.compatibility_mask & mask == 0 {
        return Ok(None);
    }
    let bytes = found.size_bytes;
    check_range(header, found.gpa, u64::from(bytes), PAGE as u64)?;
    Ok(Some(Directive::ErrorRange {
        gpa: found.gpa,
        bytes,
    }))
}

/// A range is not empty, aligned at both ends and does not wrap.
fn check_range(
    header: &VariableHeader<'_>,
    gpa: u64,
    bytes: u64,
    alignment: u64,
) -> Result<(), Error> {
    let aligned = gpa.is_multiple_of(alignment) && bytes.is_multiple_of(alignment);
    if bytes == 0 || !aligned || gpa.checked_add(bytes - 1).is_none() {
        return Err(Error::Range { at: header.at });
    }
    Ok(())
}

/// Contents of `len` bytes; offset 0 means zeros and gives an empty slice.
fn contents<'a>(
    header: &VariableHeader<'_>,
    file: &'a [u8],
    offset: u32,
    len: usize,
) -> Result<&'a [u8], Error> {
    if offset == 0 {
        return Ok(&[]);
    }
    usize::try_from(offset)
        .ok()
        .and_then(|start| file.get(start..start.checked_add(len)?))
        .ok_or(Error::Contents {
            at: header.at,
            offset,
        })
}
