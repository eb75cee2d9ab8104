//! The launch digest: what the PSP reports as the measurement of an image (SNP firmware ABI, section 8.17.2 and table 67).
//!
//! Each page the host launches extends a SHA-384 chain by a PAGE_INFO structure, in the order of the file; a page of 2 MiB
//! counts as 512 small ones. Shared pages are not launched and change nothing. VMSAs are taken where they stand: our builder
//! puts them last, because KVM measures them when the launch finishes.

use std::fmt;

use igvm::IgvmDirectiveHeader;
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};
use serde::Serialize;
use sha2::{Digest, Sha384};
use stockade_boot::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};
use zerocopy::{Immutable, IntoBytes};

use crate::image::Image;

/// A launch digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchDigest(pub [u8; 48]);

impl fmt::Display for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// How a page is launched (SNP firmware ABI, table 66).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PageType {
    /// Content and place are measured.
    Normal = 1,
    /// A vCPU.
    Vmsa = 2,
    /// Only the place is measured.
    Unmeasured = 4,
    /// Content comes from the PSP.
    Secrets = 5,
    /// Content comes from the host and is checked by the PSP.
    Cpuid = 6,
}

impl fmt::Display for PageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "measured",
            Self::Vmsa => "vmsa",
            Self::Unmeasured => "unmeasured",
            Self::Secrets => "secrets",
            Self::Cpuid => "cpuid",
        })
    }
}

/// A measurement as `stockade measure --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// The platform.
    pub platform: &'static str,
    /// The launch digest, in hexadecimal digits.
    pub launch_digest: String,
    /// The guest policy, in hexadecimal digits.
    pub policy: Option<String>,
    /// How many pages the PSP measures with their content, each about a millisecond of launch time.
    pub measured_pages: u64,
    /// How many pages are launched in all.
    pub launched_pages: u64,
}

/// Measures an image.
#[must_use]
pub fn measure(image: &Image) -> Measurement {
    let mut chain = Chain::default();
    launched_pages(image, |page| chain.extend(page));
    Measurement {
        platform: "SEV-SNP",
        launch_digest: LaunchDigest(chain.digest).to_string(),
        policy: image.policy().map(|policy| format!("{policy:#x}")),
        measured_pages: chain.measured,
        launched_pages: chain.launched,
    }
}

/// Returns the launch digest of an image.
#[must_use]
pub fn launch_digest(image: &Image) -> LaunchDigest {
    let mut chain = Chain::default();
    launched_pages(image, |page| chain.extend(page));
    LaunchDigest(chain.digest)
}

/// A small page as the PSP is given it.
struct LaunchedPage<'a> {
    gpa: u64,
    page_type: PageType,
    /// At most a page; what is missing is zero.
    content: &'a [u8],
}

/// Hands every launched page to `launch`, in order.
fn launched_pages<'a>(image: &'a Image, mut launch: impl FnMut(LaunchedPage<'a>)) {
    let mut areas = std::collections::BTreeMap::new();
    for directive in image.directives() {
        match directive {
            IgvmDirectiveHeader::PageData {
                gpa,
                flags,
                data_type,
                data,
                ..
            } => {
                let Some(page_type) = page_type(*flags, *data_type) else {
                    continue;
                };
                let bytes = if flags.is_2mb_page() {
                    LARGE_PAGE_SIZE
                } else {
                    PAGE_SIZE
                };
                let mut content = data.as_slice();
                for offset in (0..bytes).step_by(0x1000) {
                    let page;
                    (page, content) = content.split_at(content.len().min(0x1000));
                    launch(LaunchedPage {
                        gpa: gpa.wrapping_add(offset),
                        page_type,
                        content: page,
                    });
                }
            }
            IgvmDirectiveHeader::ParameterArea {
                number_of_bytes,
                parameter_area_index,
                ..
            } => {
                areas.insert(*parameter_area_index, *number_of_bytes);
            }
            IgvmDirectiveHeader::ParameterInsert(insert) => {
                let bytes = areas
                    .get(&insert.parameter_area_index)
                    .copied()
                    .unwrap_or(0);
                for offset in (0..bytes).step_by(0x1000) {
                    let gpa = insert.gpa.wrapping_add(offset);
                    launch(LaunchedPage {
                        gpa,
                        page_type: PageType::Unmeasured,
                        content: &[],
                    });
                }
            }
            IgvmDirectiveHeader::SnpVpContext { gpa, vmsa, .. } => {
                let content = vmsa.as_ref().as_bytes();
                launch(LaunchedPage {
                    gpa: *gpa,
                    page_type: PageType::Vmsa,
                    content,
                });
            }
            _ => {}
        }
    }
}

/// Returns how a page of data is launched, or `None` if it is shared and not launched at all.
#[must_use]
pub fn page_type(flags: IgvmPageDataFlags, data_type: IgvmPageDataType) -> Option<PageType> {
    if flags.shared() {
        return None;
    }
    Some(match data_type {
        IgvmPageDataType::SECRETS => PageType::Secrets,
        IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => PageType::Cpuid,
        _ if flags.unmeasured() => PageType::Unmeasured,
        _ => PageType::Normal,
    })
}

/// What is hashed for each page (SNP firmware ABI, table 67).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct PageInfo {
    digest_cur: [u8; 48],
    contents: [u8; 48],
    len_bytes: u16,
    page_type: u8,
    imi_page: u8,
    lower_vmpl_permissions: u32,
    gpa: u64,
}

const PAGE_INFO_BYTES: u16 = 0x70;
const _: () = assert!(size_of::<PageInfo>() == PAGE_INFO_BYTES as usize);

struct Chain {
    digest: [u8; 48],
    launched: u64,
    measured: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            digest: [0; 48],
            launched: 0,
            measured: 0,
        }
    }
}

impl Chain {
    fn extend(&mut self, page: LaunchedPage<'_>) {
        let is_measured = matches!(page.page_type, PageType::Normal | PageType::Vmsa);
        let info = PageInfo {
            digest_cur: self.digest,
            contents: if is_measured {
                page_digest(page.content)
            } else {
                [0; 48]
            },
            len_bytes: PAGE_INFO_BYTES,
            page_type: page.page_type as u8,
            imi_page: 0,
            lower_vmpl_permissions: 0,
            gpa: page.gpa,
        };
        self.digest = Sha384::digest(info.as_bytes()).into();
        self.launched += 1;
        self.measured += u64::from(is_measured);
    }
}

fn page_digest(content: &[u8]) -> [u8; 48] {
    let mut hash = Sha384::new_with_prefix(content);
    hash.update(&[0; 0x1000][content.len().min(0x1000)..]);
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
