//! Unwind tables, which a program that aborts where others unwind has no use for: an eighth of the TPM's engine.
//!
//! Compilers make them of C as well, and linkers put them, the index first, behind all else that is only read. The program is told to load its
//! read-only part up to there.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};

const TABLES: [&[u8]; 2] = [b".eh_frame_hdr", b".eh_frame"];
/// Places in a program header (`Elf64_Phdr`).
const TYPE: Range<usize> = 0..4;
const FILE_SIZE: Range<usize> = 32..40;
const MEMORY_SIZE: Range<usize> = 40..48;

/// What there is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// The header of the segment, in the file, and how long the segment is without tables.
    segment: (usize, u64),
    /// The header that names the tables.
    index: usize,
}

/// Has the tables of an ELF program not be loaded, if they are where linkers put them; leaves any other file as it is.
pub(super) fn leave_out(program: &mut [u8]) {
    let Ok(Some(cut)) = find(program) else {
        return;
    };
    let (at, bytes) = cut.segment;
    let null = elf::PT_NULL.to_le_bytes();
    for (at, place, value) in [
        (at, FILE_SIZE, &bytes.to_le_bytes()[..]),
        (at, MEMORY_SIZE, &bytes.to_le_bytes()),
        (cut.index, TYPE, &null),
    ] {
        let place = at + place.start..at + place.end;
        if let Some(place) = program.get_mut(place) {
            place.copy_from_slice(value);
        }
    }
}

fn find(program: &[u8]) -> object::Result<Option<Cut>> {
    let header = FileHeader64::<LittleEndian>::parse(program)?;
    let first = usize::try_from(header.e_phoff(LittleEndian)).unwrap_or(usize::MAX);
    let headers = header.program_headers(LittleEndian, program)?;
    let places = (first..).step_by(usize::from(header.e_phentsize(LittleEndian)).max(1));
    let headers = || headers.iter().zip(places.clone());
    let is_index = |kind| kind == elf::PT_GNU_EH_FRAME;
    let Some((tables, index)) = headers().find(|(it, _)| is_index(it.p_type(LittleEndian))) else {
        return Ok(None);
    };
    let start = tables.p_vaddr(LittleEndian);
    let segment = headers().find_map(|(it, at)| {
        let from = it.p_vaddr(LittleEndian);
        let end = from.checked_add(it.p_memsz(LittleEndian))?;
        let is_it = it.p_type(LittleEndian) == elf::PT_LOAD && (from..end).contains(&start);
        is_it.then_some((at, from, end))
    });
    let Some((at, from, end)) = segment else {
        return Ok(None);
    };
    let cut = Cut {
        segment: (at, start - from),
        index,
    };
    Ok(has_tables_alone(header, program, &(start..end))?.then_some(cut))
}

/// Returns whether nothing lies in a range of addresses but the tables.
fn has_tables_alone(
    header: &FileHeader64<LittleEndian>,
    program: &[u8],
    range: &Range<u64>,
) -> object::Result<bool> {
    let sections = header.sections(LittleEndian, program)?;
    let mut are_found = false;
    for section in sections.iter() {
        let from = section.sh_addr(LittleEndian);
        let end = from.saturating_add(section.sh_size(LittleEndian));
        let is_loaded = section.sh_flags(LittleEndian) & u64::from(elf::SHF_ALLOC) != 0;
        if !is_loaded || end <= range.start || from >= range.end {
            continue;
        }
        if !TABLES.contains(&sections.section_name(LittleEndian, section)?) {
            return Ok(false);
        }
        are_found = true;
    }
    Ok(are_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a header, two program headers and these sections' names behind each other, 0x100 bytes each, in one segment at 0x1000.
    fn file(sections: &[&str], tables_at: u64) -> Vec<u8> {
        let mut names = vec![0_u8];
        let mut headers = vec![[0_u64; 8]; 1];
        for (place, name) in (0_u64..).zip(sections) {
            let name_at = names.len() as u64;
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            let at = 0x1000 + 0x100 * place;
            headers.push([name_at | 1 << 32, 2, at, 0x1000, 0x100, 0, 1, 0]);
        }
        let names_at = 0x200;
        headers.push([3 << 32, 0, 0, names_at, names.len() as u64, 0, 1, 0]);
        let mut file = b"\x7FELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let put = |file: &mut Vec<u8>, words: &[u64]| {
            words
                .iter()
                .for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        };
        // Type, machine, version; entry; headers; flags and sizes.
        put(&mut file, &[2 | 62 << 16 | 1 << 32, 0x1000, 64, 0x400]);
        let count = headers.len() as u64;
        put(
            &mut file,
            &[
                64 << 32 | 56 << 48,
                2 | 64 << 16 | count << 32 | (count - 1) << 48,
            ],
        );
        let bytes = 0x100 * sections.len() as u64;
        put(
            &mut file,
            &[1 | 4 << 32, 0x1000, 0x1000, 0x1000, bytes, bytes, 0x1000],
        );
        put(
            &mut file,
            &[0x6474_E550 | 4 << 32, 0x1000, tables_at, tables_at, 8, 8, 4],
        );
        file.resize(0x200, 0);
        file.extend_from_slice(&names);
        file.resize(0x400, 0);
        headers.iter().for_each(|header| put(&mut file, header));
        file.resize(0x1000 + 0x100 * sections.len(), 0x5A);
        file
    }

    /// The segment's two sizes, and the type of the header that names the tables.
    fn loaded(file: &[u8]) -> (u64, u64, u32) {
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        (
            word(64 + 32),
            word(64 + 40),
            word(120).to_le_bytes()[0].into(),
        )
    }

    #[test]
    fn tables_at_the_end_of_their_segment_are_not_loaded() {
        let mut file = file(&[".rodata", ".eh_frame_hdr", ".eh_frame"], 0x1100);
        assert_eq!(loaded(&file), (0x300, 0x300, 0x50));
        leave_out(&mut file);
        assert_eq!(loaded(&file), (0x100, 0x100, 0));
    }

    #[test]
    fn any_other_file_stays_as_it_is() {
        for (sections, at) in [
            (
                &[".rodata", ".eh_frame_hdr", ".eh_frame", ".late"][..],
                0x1100,
            ),
            (&[".rodata"], 0x1080),
            (&[".rodata", ".eh_frame_hdr", ".eh_frame"], 0x5000),
        ] {
            let before = file(sections, at);
            let mut after = before.clone();
            leave_out(&mut after);
            assert!(before == after, "{sections:?}");
        }
        for mut bytes in [Vec::new(), b"\x7FELF".to_vec(), vec![0xFF; 200]] {
            let before = bytes.clone();
            leave_out(&mut bytes);
            assert_eq!(bytes, before);
        }
    }
}
