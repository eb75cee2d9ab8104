//! The loader: an IGVM file's directives as launch commands and memory contents.
//!
//! [`load`] walks the directives once, in order, keeps the parameter areas, and tells a [`Target`] what goes where. What is
//! launched is measured by the [`Launch`] in the same order, so the digest is that of the file.

use crate::igvm_file::{Directive, IdBlock, IgvmFile, PageData, PageKind, Parameter};
use crate::psp::Status;
use crate::psp::launch::{Launch, PAGE_BYTES, PageType};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, MemoryMapEntryType};
use zerocopy::IntoBytes;

/// The memory being launched into. Every address is page-aligned.
pub trait Target {
    /// Why a page cannot be placed.
    type Error;
    /// Puts down a 4 KiB page the guest owns at launch. For [`PageType::Secrets`] the target writes the secrets itself; for
    /// [`PageType::Cpuid`] `contents` has the image's list of leaves and the target writes the checked page.
    fn private_page(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: &[u8; PAGE_BYTES],
    ) -> Result<(), Self::Error>;
    /// Puts down a page shared with the host: 4 KiB, or 2 MiB in one piece.
    fn shared_page(&mut self, gpa: u64, contents: &[u8]) -> Result<(), Self::Error>;
    /// The guest needs memory here, private and not yet accepted.
    fn required_memory(&mut self, gpa: u64, bytes: u64) -> Result<(), Self::Error>;
    /// The guest needs shared memory here.
    fn error_range(&mut self, gpa: u64, bytes: u64) -> Result<(), Self::Error>;
}

/// What the host tells the guest.
#[derive(Clone, Debug)]
pub struct HostParameters<'a> {
    /// Number of vCPUs.
    pub vp_count: u32,
    /// RAM: address and size of each range, page-aligned, in order.
    pub memory: &'a [(u64, u64)],
    /// Command line for the guest, without NUL.
    pub command_line: &'a str,
}

/// What a loaded image leaves to be done.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Address of the boot vCPU's VMSA; its page was launched with the others.
    pub vmsa_gpa: u64,
    /// For launch finish.
    pub id_block: Option<IdBlock>,
}

/// Why an image cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError<E> {
    /// The target refused a page.
    #[error("no page at {gpa:#x}: {reason}")]
    Page {
        /// Its address.
        gpa: u64,
        /// Why.
        reason: E,
    },
    /// The PSP refused a page.
    #[error("launch update at {gpa:#x}: {status}")]
    Launch {
        /// Its address.
        gpa: u64,
        /// Why.
        status: Status,
    },
    /// A parameter area is declared twice, or used before it is declared or after it was inserted.
    #[error("parameter area {0} is not there")]
    ParameterArea(u32),
    /// A parameter does not fit its area.
    #[error("parameter {parameter:?} does not fit area {area} at {offset:#x}")]
    ParameterSize {
        /// Which.
        parameter: Parameter,
        /// The area.
        area: u32,
        /// Where in it.
        offset: u32,
    },
    /// This host does not know the parameter.
    #[error("parameter {0:?} is not known to this host")]
    ParameterUnknown(Parameter),
    /// A parameter area is absurdly large.
    #[error("a parameter area of {0:#x} bytes is too large")]
    ParameterAreaSize(u64),
    /// The image has no VMSA, or more than one.
    #[error("the image has not exactly one launch context")]
    VpContext,
    /// The image has two ID blocks.
    #[error("the image has two ID blocks")]
    IdBlock,
}

/// A parameter area may have this much: all of them together are a few pages in real images.
const PARAMETER_AREA_LIMIT: u64 = 1 << 20;

/// Loads an image.
pub fn load<T: Target>(
    image: &IgvmFile<'_>,
    launch: &mut Launch,
    target: &mut T,
    parameters: &HostParameters<'_>,
) -> Result<Loaded, LoadError<T::Error>> {
    let mut loader = Loader {
        launch,
        target,
        parameters,
        areas: BTreeMap::new(),
        vmsa_gpa: None,
        id_block: None,
    };
    for directive in &image.directives {
        loader.take(directive)?;
    }
    Ok(Loaded {
        vmsa_gpa: loader.vmsa_gpa.ok_or(LoadError::VpContext)?,
        id_block: loader.id_block,
    })
}

struct Loader<'a, T> {
    launch: &'a mut Launch,
    target: &'a mut T,
    parameters: &'a HostParameters<'a>,
    /// Areas not yet inserted; `None` once they are.
    areas: BTreeMap<u32, Option<Vec<u8>>>,
    vmsa_gpa: Option<u64>,
    id_block: Option<IdBlock>,
}

impl<T: Target> Loader<'_, T> {
    fn take(&mut self, directive: &Directive<'_>) -> Result<(), LoadError<T::Error>> {
        match directive {
            Directive::PageData(page) => self.page(page),
            Directive::ParameterArea {
                index,
                bytes,
                initial,
            } => self.area(*index, *bytes, initial),
            Directive::Parameter {
                parameter,
                area,
                offset,
            } => self.parameter(*parameter, *area, *offset),
            Directive::ParameterInsert { area, gpa } => self.insert(*area, *gpa),
            Directive::VpContext { gpa, vmsa, .. } => {
                if self.vmsa_gpa.replace(*gpa).is_some() {
                    return Err(LoadError::VpContext);
                }
                self.private(PageType::Vmsa, *gpa, vmsa)
            }
            Directive::RequiredMemory { gpa, bytes } => self
                .target
                .required_memory(*gpa, u64::from(*bytes))
                .map_err(|reason| LoadError::Page { gpa: *gpa, reason }),
            Directive::ErrorRange { gpa, bytes } => self
                .target
                .error_range(*gpa, u64::from(*bytes))
                .map_err(|reason| LoadError::Page { gpa: *gpa, reason }),
            Directive::IdBlock(block) => match self.id_block.replace((**block).clone()) {
                Some(_) => Err(LoadError::IdBlock),
                None => Ok(()),
            },
        }
    }

    fn page(&mut self, page: &PageData<'_>) -> Result<(), LoadError<T::Error>> {
        let page_type = match page.kind {
            PageKind::Shared => return self.shared(page),
            PageKind::Normal => PageType::Normal,
            PageKind::Unmeasured => PageType::Unmeasured,
            PageKind::Secrets => PageType::Secrets,
            PageKind::Cpuid | PageKind::CpuidXf => PageType::Cpuid,
        };
        if page.data.is_empty() {
            for offset in (0..page.size() as u64).step_by(PAGE_BYTES) {
                self.private(page_type, page.gpa + offset, &[0; PAGE_BYTES])?;
            }
            return Ok(());
        }
        let (contents, _) = page.data.as_chunks::<PAGE_BYTES>();
        for (contents, offset) in contents.iter().zip((0..).step_by(PAGE_BYTES)) {
            self.private(page_type, page.gpa + offset, contents)?;
        }
        Ok(())
    }

    fn shared(&mut self, page: &PageData<'_>) -> Result<(), LoadError<T::Error>> {
        let refused = |gpa| move |reason| LoadError::Page { gpa, reason };
        if !page.data.is_empty() {
            return self
                .target
                .shared_page(page.gpa, page.data)
                .map_err(refused(page.gpa));
        }
        for offset in (0..page.size() as u64).step_by(PAGE_BYTES) {
            let gpa = page.gpa + offset;
            self.target
                .shared_page(gpa, &[0; PAGE_BYTES])
                .map_err(refused(gpa))?;
        }
        Ok(())
    }

    fn private(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: &[u8; PAGE_BYTES],
    ) -> Result<(), LoadError<T::Error>> {
        self.launch
            .update(page_type, gpa, contents)
            .map_err(|status| LoadError::Launch { gpa, status })?;
        self.target
            .private_page(page_type, gpa, contents)
            .map_err(|reason| LoadError::Page { gpa, reason })
    }

    fn area(&mut self, index: u32, bytes: u64, initial: &[u8]) -> Result<(), LoadError<T::Error>> {
        let len = usize::try_from(bytes)
            .ok()
            .filter(|_| bytes <= PARAMETER_AREA_LIMIT)
            .ok_or(LoadError::ParameterAreaSize(bytes))?;
        let mut contents = initial.to_vec();
        contents.resize(len, 0);
        match self.areas.insert(index, Some(contents)) {
            Some(_) => Err(LoadError::ParameterArea(index)),
            None => Ok(()),
        }
    }

    fn parameter(
        &mut self,
        parameter: Parameter,
        index: u32,
        offset: u32,
    ) -> Result<(), LoadError<T::Error>> {
        let value =
            encode(parameter, self.parameters).ok_or(LoadError::ParameterUnknown(parameter))?;
        let area = match self.areas.get_mut(&index) {
            Some(Some(area)) => area,
            _ => return Err(LoadError::ParameterArea(index)),
        };
        let place = usize::try_from(offset)
            .ok()
            .and_then(|start| area.get_mut(start..start.checked_add(value.len())?))
            .ok_or(LoadError::ParameterSize {
                parameter,
                area: index,
                offset,
            })?;
        place.copy_from_slice(&value);
        Ok(())
    }

    fn insert(&mut self, index: u32, gpa: u64) -> Result<(), LoadError<T::Error>> {
        let area = self
            .areas
            .get_mut(&index)
            .and_then(Option::take)
            .ok_or(LoadError::ParameterArea(index))?;
        let (pages, _) = area.as_chunks::<PAGE_BYTES>();
        for (contents, offset) in pages.iter().zip((0..).step_by(PAGE_BYTES)) {
            let gpa = gpa.checked_add(offset).ok_or(LoadError::Launch {
                gpa,
                status: Status::InvalidAddress,
            })?;
            self.private(PageType::Unmeasured, gpa, contents)?;
        }
        Ok(())
    }
}

/// A parameter's bytes; `None` for one this host does not tell.
fn encode(parameter: Parameter, host: &HostParameters<'_>) -> Option<Vec<u8>> {
    Some(match parameter {
        Parameter::VpCount => host.vp_count.to_le_bytes().to_vec(),
        Parameter::EnvironmentInfo => 0_u32.to_le_bytes().to_vec(),
        Parameter::CommandLine => {
            let mut line = host.command_line.as_bytes().to_vec();
            line.push(0);
            line
        }
        Parameter::MemoryMap => {
            let end = [(0, 0)];
            host.memory
                .iter()
                .chain(&end)
                .flat_map(|(gpa, bytes)| memory_entry(*gpa, *bytes).as_bytes().to_vec())
                .collect()
        }
        _ => return None,
    })
}

fn memory_entry(gpa: u64, bytes: u64) -> IGVM_VHS_MEMORY_MAP_ENTRY {
    IGVM_VHS_MEMORY_MAP_ENTRY {
        starting_gpa_page_number: gpa / PAGE_BYTES as u64,
        number_of_pages: bytes / PAGE_BYTES as u64,
        entry_type: MemoryMapEntryType::MEMORY,
        flags: 0,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests;
