//! The paravisor's first page tables: its 8 MiB one to one, nothing else.

use stockade_boot::layout::{LARGE_PAGE_SIZE, PAGE_SIZE, paravisor};

use super::elf::{Rights, Segment};
use super::pages::Pages;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
/// Set beforehand, so that hardware need not write to the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Returns PML4, PDPT, PD and PT, ready to be launched.
pub(super) fn tables(c_bit: u32, segments: &[Segment]) -> Pages {
    let private = 1 << c_bit;
    let mut tables = Tables {
        pages: Pages::default(),
        private,
    };
    let table = PRESENT | WRITABLE | ACCESSED;
    tables.set(
        paravisor::PML4,
        index(paravisor::BASE, 39),
        paravisor::PDPT | table,
    );
    tables.set(
        paravisor::PDPT,
        index(paravisor::BASE, 30),
        paravisor::PD | table,
    );
    tables.set(
        paravisor::PD,
        index(paravisor::BASE, 21),
        paravisor::PT | table,
    );
    for gpa in steps(paravisor::IMAGE_END, paravisor::END, LARGE_PAGE_SIZE) {
        tables.set(
            paravisor::PD,
            index(gpa, 21),
            gpa | LARGE | flags(Rights::Write),
        );
    }
    for gpa in steps(paravisor::BASE, paravisor::IMAGE_END, PAGE_SIZE) {
        if let Some(rights) = rights(gpa, segments) {
            tables.set(paravisor::PT, index(gpa, 12), gpa | flags(rights));
        }
    }
    tables.pages
}

/// How the page at `gpa` is mapped; `None` for guards.
fn rights(gpa: u64, segments: &[Segment]) -> Option<Rights> {
    if let Some(segment) = segments.iter().find(|s| (s.start..s.end).contains(&gpa)) {
        return Some(segment.rights);
    }
    match gpa {
        paravisor::LOW_GUARD | paravisor::STACK_GUARD => None,
        // Written by others than us, or not at all; secrets are wiped after use, so they are writable.
        paravisor::CPUID_PAGE | paravisor::MANIFEST_PAGE | paravisor::PARAMETERS_PAGE => {
            Some(Rights::Read)
        }
        _ => Some(Rights::Write),
    }
}

fn flags(rights: Rights) -> u64 {
    let leaf = PRESENT | ACCESSED;
    match rights {
        Rights::Read => leaf | NO_EXECUTE,
        Rights::Execute => leaf,
        Rights::Write => leaf | WRITABLE | DIRTY | NO_EXECUTE,
    }
}

fn index(gpa: u64, shift: u32) -> u64 {
    (gpa >> shift) & 0x1FF
}

fn steps(start: u64, end: u64, step: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(start), move |gpa| gpa.checked_add(step))
        .take_while(move |gpa| *gpa < end)
}

struct Tables {
    pages: Pages,
    private: u64,
}

impl Tables {
    fn set(&mut self, table: u64, index: u64, entry: u64) {
        self.pages
            .put(table + index * 8, &(entry | self.private).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const C_BIT: u64 = 1 << 51;

    fn segments() -> Vec<Segment> {
        let base = paravisor::IMAGE_BASE;
        vec![
            Segment {
                start: base,
                end: base + 0x2000,
                rights: Rights::Execute,
            },
            Segment {
                start: base + 0x2000,
                end: base + 0x3000,
                rights: Rights::Read,
            },
            Segment {
                start: base + 0x3000,
                end: base + 0x9000,
                rights: Rights::Write,
            },
        ]
    }

    /// Walks the tables as hardware does; returns the leaf's flags if it maps the address to itself.
    fn walk(tables: &BTreeMap<u64, Vec<u8>>, address: u64) -> Option<u64> {
        let mut table = paravisor::PML4;
        for shift in [39, 30, 21, 12] {
            let offset = usize::try_from(index(address, shift) * 8).unwrap();
            let bytes = tables[&table][offset..offset + 8].try_into().unwrap();
            let entry = u64::from_le_bytes(bytes);
            if entry & PRESENT == 0 {
                return None;
            }
            assert_ne!(entry & C_BIT, 0, "an entry without C-bit at {address:#x}");
            let target = entry & 0x7_FFFF_FFFF_F000;
            if shift == 12 || entry & LARGE != 0 {
                assert_eq!(target + (address & ((1 << shift) - 1)), address);
                return Some(entry & (WRITABLE | NO_EXECUTE));
            }
            table = target;
        }
        None
    }

    fn tables() -> BTreeMap<u64, Vec<u8>> {
        super::tables(51, &segments()).into_iter().collect()
    }

    #[test]
    fn every_page_is_mapped_one_to_one_or_guarded() {
        let tables = tables();
        assert_eq!(tables.len() as u64, paravisor::PAGE_TABLE_PAGES);
        for gpa in steps(paravisor::BASE, paravisor::END, PAGE_SIZE) {
            let is_guard = [paravisor::LOW_GUARD, paravisor::STACK_GUARD].contains(&gpa);
            assert_eq!(walk(&tables, gpa).is_none(), is_guard, "{gpa:#x}");
        }
        assert_eq!(walk(&tables, paravisor::END), None);
        assert_eq!(walk(&tables, 0), None);
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        let tables = tables();
        for gpa in steps(paravisor::BASE, paravisor::END, PAGE_SIZE) {
            if let Some(rights) = walk(&tables, gpa) {
                assert!(
                    rights & WRITABLE == 0 || rights & NO_EXECUTE != 0,
                    "{gpa:#x}"
                );
            }
        }
    }

    #[test]
    fn segments_have_their_rights() {
        let tables = tables();
        let at = |offset| walk(&tables, paravisor::IMAGE_BASE + offset).unwrap();
        assert_eq!(at(0x1000), 0);
        assert_eq!(at(0x2000), NO_EXECUTE);
        assert_eq!(at(0x8000), WRITABLE | NO_EXECUTE);
        assert_eq!(at(0x9000), WRITABLE | NO_EXECUTE);
        assert_eq!(walk(&tables, paravisor::MANIFEST_PAGE), Some(NO_EXECUTE));
        assert_eq!(
            walk(&tables, paravisor::SECRETS_PAGE),
            Some(WRITABLE | NO_EXECUTE)
        );
    }
}
