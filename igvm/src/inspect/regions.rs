//! Launched pages that lie and go together.

use std::collections::BTreeMap;
use std::fmt;

use igvm::IgvmDirectiveHeader;
use stockade_boot::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};

use crate::image::Image;
use crate::measure::{PageType, page_type};

/// How pages get into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Launched(PageType),
    Parameters,
    Shared,
}

/// Adjoining pages of one kind and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    pub(super) page_bytes: u64,
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.start.saturating_add(self.bytes);
        let pages = self.bytes / self.page_bytes;
        let size = if self.page_bytes == LARGE_PAGE_SIZE {
            "2M"
        } else {
            "4K"
        };
        write!(f, "{:#018x}..{end:#018x} {pages:>7} x {size}  ", self.start)?;
        match self.kind {
            Kind::Launched(page_type) => write!(f, "{page_type}"),
            Kind::Parameters => write!(f, "unmeasured (parameters from the host)"),
            Kind::Shared => write!(f, "shared (staged files, not launched)"),
        }
    }
}

/// Returns the regions of an image in the order of launch.
pub(super) fn regions(image: &Image) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    let mut areas = BTreeMap::new();
    for directive in image.directives() {
        let next = match directive {
            IgvmDirectiveHeader::PageData {
                gpa,
                flags,
                data_type,
                ..
            } => {
                let page_bytes = if flags.is_2mb_page() {
                    LARGE_PAGE_SIZE
                } else {
                    PAGE_SIZE
                };
                let kind = page_type(*flags, *data_type).map_or(Kind::Shared, Kind::Launched);
                Region {
                    start: *gpa,
                    bytes: page_bytes,
                    kind,
                    page_bytes,
                }
            }
            IgvmDirectiveHeader::ParameterArea {
                number_of_bytes,
                parameter_area_index,
                ..
            } => {
                areas.insert(*parameter_area_index, *number_of_bytes);
                continue;
            }
            IgvmDirectiveHeader::ParameterInsert(insert) => Region {
                start: insert.gpa,
                bytes: areas
                    .get(&insert.parameter_area_index)
                    .copied()
                    .unwrap_or(0),
                kind: Kind::Parameters,
                page_bytes: PAGE_SIZE,
            },
            IgvmDirectiveHeader::SnpVpContext { gpa, .. } => Region {
                start: *gpa,
                bytes: PAGE_SIZE,
                kind: Kind::Launched(PageType::Vmsa),
                page_bytes: PAGE_SIZE,
            },
            _ => continue,
        };
        match regions.last_mut() {
            Some(last) if continues(last, &next) => last.bytes += next.bytes,
            _ => regions.push(next),
        }
    }
    regions
}

fn continues(last: &Region, next: &Region) -> bool {
    last.kind == next.kind
        && last.page_bytes == next.page_bytes
        && last.start.checked_add(last.bytes) == Some(next.start)
}
