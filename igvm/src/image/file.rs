//! Image files on disk: read with checks, written whole or not at all.

use std::path::Path;

use igvm::{
    IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IsolationType,
};
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_MAGIC_VALUE, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER_AREA,
    IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHS_VARIABLE_HEADER, IGVM_VHS_VP_CONTEXT, IgvmPlatformType,
    IgvmVariableHeaderType,
};
use sha2::{Digest, Sha384};
use stockade_boot::layout::paravisor;
use stockade_boot::manifest::{Manifest, Payload};
use zerocopy::FromBytes;

use super::error::ImageError;
use crate::{input, output};

/// No parameter area is greater.
const MAX_PARAMETER_AREA: u64 = 1 << 30;

/// More than an image, or any file that goes into one, can have.
const MOST_BYTES: u64 = 1 << 30;

/// Reads a file, naming it if that fails.
pub fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    input::read(path, MOST_BYTES).map_err(|source| ImageError::Read {
        path: path.into(),
        source,
    })
}

/// Writes a file whole, naming it if that fails.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    output::write(path, bytes).map_err(|source| ImageError::Write {
        path: path.into(),
        source,
    })
}

/// An image that was read and checked.
#[derive(Debug)]
pub struct Image {
    file: IgvmFile,
    platform: IGVM_VHS_SUPPORTED_PLATFORM,
}

impl Image {
    /// Reads the image at `path`.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Reads an image from memory; `file` names it in errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        check(file, bytes)?;
        let parsed = IgvmFile::new_from_binary(bytes, Some(IsolationType::Snp))
            .map_err(|error| damaged(file, &error.to_string()))?;
        let platform = parsed
            .platforms()
            .iter()
            .map(|IgvmPlatformHeader::SupportedPlatform(platform)| *platform)
            .find(|platform| platform.platform_type == IgvmPlatformType::SEV_SNP)
            .ok_or_else(|| damaged(file, "no platform"))?;
        Ok(Self {
            platform,
            file: parsed,
        })
    }

    /// Returns the header of the SNP platform.
    #[must_use]
    pub fn platform(&self) -> &IGVM_VHS_SUPPORTED_PLATFORM {
        &self.platform
    }

    /// Returns the guest policy, if the image sets one.
    #[must_use]
    pub fn policy(&self) -> Option<u64> {
        self.file
            .initializations()
            .iter()
            .find_map(|header| match header {
                IgvmInitializationHeader::GuestPolicy {
                    policy,
                    compatibility_mask,
                } if compatibility_mask & self.platform.compatibility_mask != 0 => Some(*policy),
                _ => None,
            })
    }

    /// Returns the directives for SNP in the order of launch.
    pub fn directives(&self) -> impl Iterator<Item = &IgvmDirectiveHeader> {
        let mask = self.platform.compatibility_mask;
        let applies =
            move |d: &&IgvmDirectiveHeader| d.compatibility_mask().is_none_or(|m| m & mask != 0);
        self.file.directives().iter().filter(applies)
    }

    /// Returns the manifest, if the image is one of ours.
    #[must_use]
    pub fn manifest(&self) -> Option<Manifest> {
        let page = self.directives().find_map(|directive| match directive {
            IgvmDirectiveHeader::PageData {
                gpa: paravisor::MANIFEST_PAGE,
                data,
                ..
            } => Some(data),
            _ => None,
        });
        Manifest::parse(page?).ok()
    }

    /// Returns what is staged for an entry of the manifest, if it has the digest that stands there.
    #[must_use]
    pub fn payload(&self, payload: &Payload) -> Option<Vec<u8>> {
        let mut content = vec![0; usize::try_from(payload.len_bytes.get()).ok()?];
        let start = payload.gpa.get();
        for directive in self.directives() {
            let IgvmDirectiveHeader::PageData { gpa, data, .. } = directive else {
                continue;
            };
            let offset = gpa.checked_sub(start).map(usize::try_from);
            let Some(rest) = offset.and_then(|offset| content.get_mut(offset.ok()?..)) else {
                continue;
            };
            let len = rest.len().min(data.len());
            rest[..len].copy_from_slice(&data[..len]);
        }
        (Sha384::digest(&content)[..] == payload.sha384).then_some(content)
    }
}

fn damaged(file: &str, reason: &str) -> ImageError {
    ImageError::Damaged {
        file: file.into(),
        reason: reason.into(),
    }
}

fn platform_names(platforms: &[IgvmPlatformType]) -> String {
    if platforms.is_empty() {
        return "no platform".into();
    }
    let name = |platform: &IgvmPlatformType| match *platform {
        IgvmPlatformType::NATIVE => "no isolation".into(),
        IgvmPlatformType::VSM_ISOLATION => "VSM".into(),
        IgvmPlatformType::TDX => "TDX".into(),
        IgvmPlatformType::SEV => "SEV".into(),
        IgvmPlatformType::SEV_ES => "SEV-ES".into(),
        other => format!("platform {:#x}", other.0),
    };
    platforms
        .iter()
        .map(name)
        .collect::<Vec<String>>()
        .join(", ")
}

/// Checks what the library takes for granted: lengths and offsets, which it would calculate with before looking at them.
fn check(file: &str, bytes: &[u8]) -> Result<(), ImageError> {
    let (header, _) = IGVM_FIXED_HEADER::read_from_prefix(bytes)
        .ok()
        .filter(|(header, _)| header.magic == IGVM_MAGIC_VALUE)
        .ok_or_else(|| ImageError::NotIgvm { file: file.into() })?;
    let (found, expected) = (bytes.len() as u64, u64::from(header.total_file_size));
    if found != expected {
        return Err(ImageError::Length {
            file: file.into(),
            found,
            expected,
        });
    }
    let data_start = header
        .variable_header_offset
        .checked_add(header.variable_header_size)
        .filter(|end| u64::from(*end) < found)
        .ok_or_else(|| damaged(file, "headers beyond the end"))?;
    let mut headers = usize::try_from(header.variable_header_offset)
        .ok()
        .zip(usize::try_from(data_start).ok())
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| damaged(file, "headers beyond the end"))?;
    let mut platforms = Vec::new();
    while !headers.is_empty() {
        headers = check_header(file, headers, data_start, &mut platforms)?;
    }
    if !platforms.contains(&IgvmPlatformType::SEV_SNP) {
        let platforms = platform_names(&platforms);
        return Err(ImageError::OtherPlatform {
            file: file.into(),
            platforms,
        });
    }
    Ok(())
}

/// Checks the first header and returns what follows it.
fn check_header<'a>(
    file: &str,
    headers: &'a [u8],
    data_start: u32,
    platforms: &mut Vec<IgvmPlatformType>,
) -> Result<&'a [u8], ImageError> {
    let short = || damaged(file, "a header is cut off");
    let (head, body) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(headers).map_err(|_| short())?;
    let len = usize::try_from(head.length).map_err(|_| short())?;
    let rest = len
        .checked_next_multiple_of(8)
        .and_then(|len| body.get(len..))
        .ok_or_else(short)?;
    let body = body.get(..len).ok_or_else(short)?;
    let offset = match head.typ {
        IgvmVariableHeaderType::IGVM_VHT_SUPPORTED_PLATFORM => {
            let platform = IGVM_VHS_SUPPORTED_PLATFORM::read_from_prefix(body);
            platforms.push(platform.map_err(|_| short())?.0.platform_type);
            0
        }
        IgvmVariableHeaderType::IGVM_VHT_PAGE_DATA => {
            IGVM_VHS_PAGE_DATA::read_from_prefix(body)
                .map_err(|_| short())?
                .0
                .file_offset
        }
        IgvmVariableHeaderType::IGVM_VHT_VP_CONTEXT => {
            let context = IGVM_VHS_VP_CONTEXT::read_from_prefix(body)
                .map_err(|_| short())?
                .0;
            context.file_offset.max(1)
        }
        IgvmVariableHeaderType::IGVM_VHT_PARAMETER_AREA => {
            let area = IGVM_VHS_PARAMETER_AREA::read_from_prefix(body)
                .map_err(|_| short())?
                .0;
            if area.number_of_bytes > MAX_PARAMETER_AREA {
                return Err(damaged(file, "an absurd parameter area"));
            }
            area.file_offset
        }
        IgvmVariableHeaderType::IGVM_VHT_RELOCATABLE_REGION
        | IgvmVariableHeaderType::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION => {
            let reason = "is relocatable, which has no fixed measurement".into();
            return Err(ImageError::Unsupported {
                file: file.into(),
                reason,
            });
        }
        _ => 0,
    };
    // 0 means "no data".
    if offset != 0 && offset < data_start {
        return Err(damaged(file, "data inside the headers"));
    }
    Ok(rest)
}
