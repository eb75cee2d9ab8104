//! A module's ELF file: static, 64 bits, no page both writable and executable (System V ABI, chapters 4 and 5).
//!
//! [`Program::parse`] looks at the start of the file, which is not checked against its digest yet, so nothing in it is believed: what
//! it returns lies within the module's addresses and the file's length, segment by segment, none in another's pages.

use alloc::vec::Vec;
use core::ops::Range;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParsingTable;
use elf::segment::ProgramHeader;

use super::space::{Access, PAGE, USER_START};

/// Where a position-independent program is put.
const FLOATING_BASE: u64 = 0x10_0000_0000;
/// One past the highest address of a program.
const PROGRAM_END: u64 = 0x20_0000_0000;
/// The most segments.
const MOST_SEGMENTS: usize = 16;
/// Bytes of a program header of 64 bits.
const HEADER_BYTES: u16 = 56;

/// Why a file is no module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// No ELF file, or its headers are beyond its start.
    #[error("it is no ELF file, or its headers are damaged")]
    Header,
    /// For another processor or another width.
    #[error("it is no x86-64 program")]
    Machine,
    /// Neither executable nor position-independent executable.
    #[error("it is an ELF file of type {0}, not a program")]
    Kind(u16),
    /// It wants a loader of its own.
    #[error("it is dynamically linked")]
    Dynamic,
    /// Too many segments, or none.
    #[error("it has {0} segments")]
    Segments(usize),
    /// A segment outside the module's addresses or the file.
    #[error("its segment at {0:#x} is impossible")]
    Segment(u64),
    /// A segment that is both writable and executable.
    #[error("its segment at {0:#x} is writable and executable")]
    WritableCode(u64),
    /// Two segments on one page.
    #[error("its segment at {0:#x} shares a page with another")]
    Overlap(u64),
    /// The entry is no code.
    #[error("its entry {0:#x} is in no executable segment")]
    Entry(u64),
}

/// A part of the file and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// How much of it is in the file; the rest is zero.
    pub file_bytes: u64,
    /// Where it lies.
    pub place: Range<u64>,
    /// What may be done with it.
    pub access: Access,
}

impl Segment {
    /// Returns the pages it touches.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        self.place.start / PAGE * PAGE..self.place.end.next_multiple_of(PAGE)
    }
}

/// A program as its headers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its segments, by ascending address.
    pub segments: Vec<Segment>,
    /// Where it begins.
    pub entry: u64,
    /// Where its program headers lie in memory, if a segment has them: a program reads them about itself.
    pub headers: Option<u64>,
    /// How many program headers there are.
    pub header_count: u16,
}

impl Program {
    /// Reads the headers from `start`, the beginning of a file of `file_bytes` bytes.
    pub fn parse(start: &[u8], file_bytes: u64) -> Result<Self, ElfError> {
        let header = file_header(start)?;
        let base = match header.e_type {
            abi::ET_EXEC => 0,
            abi::ET_DYN => FLOATING_BASE,
            other => return Err(ElfError::Kind(other)),
        };
        let table = table(&header, start)?;
        let headers =
            ParsingTable::<LittleEndian, ProgramHeader>::new(LittleEndian, Class::ELF64, table);
        if headers.iter().any(|part| part.p_type == abi::PT_INTERP) {
            return Err(ElfError::Dynamic);
        }
        let segments = headers
            .iter()
            .filter(|part| part.p_type == abi::PT_LOAD && part.p_memsz != 0)
            .map(|part| segment(&part, base, file_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let program = Self {
            entry: base.wrapping_add(header.e_entry),
            headers: in_memory(&segments, header.e_phoff, table.len() as u64),
            header_count: header.e_phnum,
            segments,
        };
        program.check()?;
        Ok(program)
    }

    /// Returns one past the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(USER_START, |last| last.pages().end)
    }

    fn check(&self) -> Result<(), ElfError> {
        if !(1..=MOST_SEGMENTS).contains(&self.segments.len()) {
            return Err(ElfError::Segments(self.segments.len()));
        }
        for pair in self.segments.windows(2) {
            if pair[1].pages().start < pair[0].pages().end {
                return Err(ElfError::Overlap(pair[1].place.start));
            }
        }
        let is_code = |segment: &Segment| {
            segment.access == Access::Execute && segment.place.contains(&self.entry)
        };
        if !self.segments.iter().any(is_code) {
            return Err(ElfError::Entry(self.entry));
        }
        Ok(())
    }
}

fn file_header(start: &[u8]) -> Result<FileHeader<LittleEndian>, ElfError> {
    let (ident, tail) = start
        .split_at_checked(abi::EI_NIDENT)
        .ok_or(ElfError::Header)?;
    let ident = parse_ident::<LittleEndian>(ident).map_err(|_| ElfError::Header)?;
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| ElfError::Header)?;
    if header.class != Class::ELF64 || header.e_machine != abi::EM_X86_64 {
        return Err(ElfError::Machine);
    }
    Ok(header)
}

/// Returns the program header table, which must be in the file's start.
fn table<'a>(header: &FileHeader<LittleEndian>, start: &'a [u8]) -> Result<&'a [u8], ElfError> {
    if header.e_phentsize != HEADER_BYTES {
        return Err(ElfError::Header);
    }
    let from = usize::try_from(header.e_phoff).map_err(|_| ElfError::Header)?;
    let bytes = usize::from(header.e_phnum) * usize::from(HEADER_BYTES);
    start
        .get(from..)
        .and_then(|rest| rest.get(..bytes))
        .ok_or(ElfError::Header)
}

fn segment(part: &ProgramHeader, base: u64, file_bytes: u64) -> Result<Segment, ElfError> {
    let impossible = ElfError::Segment(part.p_vaddr);
    let access = match part.p_flags & (abi::PF_W | abi::PF_X) {
        0 => Access::Read,
        abi::PF_W => Access::Write,
        abi::PF_X => Access::Execute,
        _ => return Err(ElfError::WritableCode(part.p_vaddr)),
    };
    let start = base.checked_add(part.p_vaddr).ok_or(impossible)?;
    let end = start.checked_add(part.p_memsz).ok_or(impossible)?;
    let is_in_file = part
        .p_offset
        .checked_add(part.p_filesz)
        .is_some_and(|end| end <= file_bytes);
    if start < USER_START || end > PROGRAM_END || part.p_filesz > part.p_memsz || !is_in_file {
        return Err(impossible);
    }
    Ok(Segment {
        offset: part.p_offset,
        file_bytes: part.p_filesz,
        place: start..end,
        access,
    })
}

/// Returns where a part of the file lies in memory.
fn in_memory(segments: &[Segment], offset: u64, bytes: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let inside = offset.checked_sub(segment.offset)?;
        let end = inside.checked_add(bytes)?;
        (end <= segment.file_bytes).then(|| segment.place.start + inside)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;

    /// A program header to be: type, flags, offset, address, bytes in the file, bytes in memory.
    pub(crate) type Part = (u32, u32, u64, u64, u64, u64);

    pub(crate) const READ: u32 = abi::PF_R;
    pub(crate) const CODE: u32 = abi::PF_R | abi::PF_X;
    pub(crate) const DATA: u32 = abi::PF_R | abi::PF_W;

    /// A file with these headers and nothing else, `kind` 2 for a fixed address and 3 for any.
    pub(crate) fn file(kind: u16, entry: u64, parts: &[Part]) -> Vec<u8> {
        let mut bytes = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(kind.to_le_bytes());
        bytes.extend(62_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(entry.to_le_bytes());
        bytes.extend(64_u64.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend([64, 0, 56, 0]);
        bytes.extend(u16::try_from(parts.len()).unwrap().to_le_bytes());
        bytes.extend([0; 6]);
        for (kind, flags, offset, address, file_bytes, memory) in parts {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for word in [offset, address, address, file_bytes, memory, &0x1000] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes
    }

    fn parse(kind: u16, entry: u64, parts: &[Part]) -> Result<Program, ElfError> {
        let bytes = file(kind, entry, parts);
        Program::parse(&bytes, 0x10_0000)
    }

    const TEXT: Part = (abi::PT_LOAD, CODE, 0, 0x40_0000, 0x1800, 0x1800);

    #[test]
    fn a_static_program_keeps_its_addresses() {
        let data = (abi::PT_LOAD, DATA, 0x1800, 0x40_2800, 0x100, 0x3000);
        let program = parse(2, 0x40_0100, &[TEXT, data]).unwrap();
        assert_eq!(program.entry, 0x40_0100);
        assert_eq!(program.headers, Some(0x40_0040));
        assert_eq!(program.segments[1].pages(), 0x40_2000..0x40_6000);
        assert_eq!(program.segments[1].access, Access::Write);
        assert_eq!(program.end(), 0x40_6000);
    }

    #[test]
    fn a_position_independent_program_gets_a_base() {
        let text = (abi::PT_LOAD, CODE, 0, 0, 0x1800, 0x1800);
        let program = parse(3, 0x100, &[text]).unwrap();
        assert_eq!(program.entry, FLOATING_BASE + 0x100);
        assert_eq!(program.segments[0].place.start, FLOATING_BASE);
    }

    #[test]
    fn writable_code_is_refused() {
        let both = (abi::PT_LOAD, 7, 0, 0x50_0000, 0, 0x1000);
        let error = parse(2, 0x40_0100, &[TEXT, both]).unwrap_err();
        assert_eq!(error, ElfError::WritableCode(0x50_0000));
    }

    #[test]
    fn segments_on_one_page_are_refused() {
        let near = (abi::PT_LOAD, DATA, 0, 0x40_1900, 0, 0x100);
        let error = parse(2, 0x40_0100, &[TEXT, near]).unwrap_err();
        assert_eq!(error, ElfError::Overlap(0x40_1900));
        let before = (abi::PT_LOAD, DATA, 0, 0x30_0000, 0, 0x100);
        assert!(parse(2, 0x40_0100, &[TEXT, before]).is_err());
    }

    #[test]
    fn segments_outside_the_file_or_the_addresses_are_refused() {
        for part in [
            (abi::PT_LOAD, DATA, 0xF_FFFF, 0x50_0000, 2, 2),
            (abi::PT_LOAD, DATA, u64::MAX, 0x50_0000, 2, 2),
            (abi::PT_LOAD, DATA, 0, 0x50_0000, 3, 2),
            (abi::PT_LOAD, DATA, 0, PROGRAM_END - 1, 0, 2),
            (abi::PT_LOAD, DATA, 0, u64::MAX, 0, 2),
            (abi::PT_LOAD, DATA, 0, 0, 0, 2),
            (abi::PT_LOAD, DATA, 0, 0x80_0000_0000, 0, 0x1000),
        ] {
            let error = parse(2, 0x40_0100, &[TEXT, part]).unwrap_err();
            assert_eq!(error, ElfError::Segment(part.3));
        }
    }

    #[test]
    fn an_entry_outside_code_is_refused() {
        let data = (abi::PT_LOAD, DATA, 0, 0x50_0000, 0, 0x1000);
        for entry in [0, 0x40_1800, 0x50_0000, u64::MAX] {
            let error = parse(2, entry, &[TEXT, data]).unwrap_err();
            assert_eq!(error, ElfError::Entry(entry));
        }
    }

    #[test]
    fn other_files_are_named() {
        let interpreter = (abi::PT_INTERP, READ, 0, 0x40_0000, 0, 0);
        assert_eq!(
            parse(2, 0x40_0100, &[TEXT, interpreter]),
            Err(ElfError::Dynamic)
        );
        assert_eq!(parse(1, 0, &[TEXT]), Err(ElfError::Kind(1)));
        assert_eq!(parse(2, 0, &[]), Err(ElfError::Segments(0)));
        assert_eq!(Program::parse(b"#!/bin/sh", 9), Err(ElfError::Header));
        let mut other = file(2, 0x40_0100, &[TEXT]);
        other[18] = 0xB7;
        assert_eq!(Program::parse(&other, 0x2000), Err(ElfError::Machine));
        let short = &file(2, 0x40_0100, &[TEXT])[..100];
        assert_eq!(Program::parse(short, 0x2000), Err(ElfError::Header));
    }
}
