//! ELF kernels (System V ABI, chapters 4 and 5), as much as a boot loader needs.
//!
//! Only the program headers count. Nothing in the file is believed: each range is checked against the file's length before it
//! is read, each table has a greatest size.

use alloc::vec;
use alloc::vec::Vec;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note as ParsedNote, NoteIterator};
use elf::parse::{ParseAt, ParsingTable};
use elf::segment::ProgramHeader;
use stockade_bus::MemoryError;

use super::{Image, KernelFile, Segment};

/// The most program headers a kernel may have.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// The longest note segment, in bytes.
const MAX_NOTE_BYTES: u64 = 0x1_0000;
const IDENT_BYTES: usize = abi::EI_NIDENT;
/// Bytes of a 64-bit file header; a 32-bit one is shorter.
const HEADER_BYTES: usize = 64;

/// Why a file is no ELF kernel we can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// No ELF file, or a damaged one.
    #[error("the kernel's ELF header is damaged")]
    Header,
    /// For another processor.
    #[error("the kernel is for machine {0}, not for x86")]
    Machine(u16),
    /// Not to be executed.
    #[error("the kernel is an ELF file of type {0}, not an executable")]
    Kind(u16),
    /// Too many, none, or of a strange size.
    #[error("the kernel has {count} program headers of {entry_bytes} bytes")]
    ProgramHeaders {
        /// How many.
        count: u16,
        /// How long each is said to be.
        entry_bytes: u16,
    },
    /// Part of the file that is not there.
    #[error("the kernel's file ends before its part at {offset:#x} of {len_bytes} bytes")]
    Truncated {
        /// Where the part begins.
        offset: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// More bytes in the file than in memory, or past the end of the address space.
    #[error("the kernel has an impossible segment at {0:#x}")]
    Segment(u64),
    /// Nothing to load.
    #[error("the kernel has no loadable segment")]
    NoSegments,
    /// A note segment of absurd length.
    #[error("the kernel has notes of {0} bytes")]
    Notes(u64),
    /// The entry is in no segment, or not below 4 GiB.
    #[error("the kernel's entry {0:#x} is in none of its segments below 4 GiB")]
    Entry(u64),
    /// The private copy could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A note: who defines it, which it is, what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The owner's name, without the terminating zero.
    pub owner: Vec<u8>,
    /// The owner's number for it.
    pub kind: u64,
    /// The content.
    pub content: Vec<u8>,
}

/// The headers of an ELF kernel.
#[derive(Debug)]
pub struct ElfFile {
    class: Class,
    entry: u64,
    headers: Vec<ProgramHeader>,
}

impl ElfFile {
    /// Returns whether a file that begins like this is an ELF file.
    #[must_use]
    pub fn is_elf(start: &[u8]) -> bool {
        start.starts_with(&abi::ELFMAGIC)
    }

    /// Reads the headers.
    pub fn parse<F: KernelFile + ?Sized>(file: &F) -> Result<Self, ElfError> {
        let header = file_header(file)?;
        if ![abi::EM_386, abi::EM_X86_64].contains(&header.e_machine) {
            return Err(ElfError::Machine(header.e_machine));
        }
        if ![abi::ET_EXEC, abi::ET_DYN].contains(&header.e_type) {
            return Err(ElfError::Kind(header.e_type));
        }
        let (count, entry_bytes) = (header.e_phnum, header.e_phentsize);
        let is_table = (1..=MAX_PROGRAM_HEADERS).contains(&count)
            && ProgramHeader::validate_entsize(header.class, entry_bytes.into()).is_ok();
        if !is_table {
            return Err(ElfError::ProgramHeaders { count, entry_bytes });
        }
        let table_bytes = u64::from(count) * u64::from(entry_bytes);
        let table = read(file, header.e_phoff, table_bytes)?;
        let headers = ParsingTable::new(LittleEndian, header.class, &table);
        Ok(Self {
            class: header.class,
            entry: header.e_entry,
            headers: headers.iter().collect(),
        })
    }

    /// Returns the loadable segments at their physical addresses.
    pub fn segments<F: KernelFile + ?Sized>(&self, file: &F) -> Result<Vec<Segment>, ElfError> {
        let segments: Vec<Segment> = self
            .headers
            .iter()
            .filter(|header| header.p_type == abi::PT_LOAD && header.p_memsz != 0)
            .map(|header| segment(header, file.len_bytes()))
            .collect::<Result<_, _>>()?;
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        Ok(segments)
    }

    /// Returns the kernel as it lies in memory, with the file header's entry.
    pub fn image<F: KernelFile + ?Sized>(&self, file: &F) -> Result<Image, ElfError> {
        Image::try_new(self.physical_entry(), self.segments(file)?)
    }

    /// The entry is a virtual address; where segments have other physical addresses it moves with its segment.
    fn physical_entry(&self) -> u64 {
        let entry = self.entry;
        self.headers
            .iter()
            .filter(|header| header.p_type == abi::PT_LOAD)
            .find_map(|header| {
                let offset = entry.checked_sub(header.p_vaddr)?;
                (offset < header.p_memsz).then(|| header.p_paddr.wrapping_add(offset))
            })
            .unwrap_or(entry)
    }

    /// Returns all notes that can be read.
    pub fn notes<F: KernelFile + ?Sized>(&self, file: &F) -> Result<Vec<Note>, ElfError> {
        let mut notes = Vec::new();
        for header in self.headers.iter().filter(|h| h.p_type == abi::PT_NOTE) {
            if header.p_filesz > MAX_NOTE_BYTES {
                return Err(ElfError::Notes(header.p_filesz));
            }
            let bytes = read(file, header.p_offset, header.p_filesz)?;
            let alignment = if header.p_align == 8 { 8 } else { 4 };
            let parsed = NoteIterator::new(LittleEndian, self.class, alignment, &bytes);
            notes.extend(parsed.filter_map(note));
        }
        Ok(notes)
    }
}

fn file_header<F: KernelFile + ?Sized>(file: &F) -> Result<FileHeader<LittleEndian>, ElfError> {
    let len = file.len_bytes().min(HEADER_BYTES as u64);
    let start = read(file, 0, len)?;
    let (ident, tail) = start
        .split_at_checked(IDENT_BYTES)
        .ok_or(ElfError::Header)?;
    let ident = parse_ident(ident).map_err(|_| ElfError::Header)?;
    FileHeader::parse_tail(ident, tail).map_err(|_| ElfError::Header)
}

fn segment(header: &ProgramHeader, file_bytes: u64) -> Result<Segment, ElfError> {
    let (start, offset, len_bytes) = (header.p_paddr, header.p_offset, header.p_filesz);
    let end = start
        .checked_add(header.p_memsz)
        .filter(|_| len_bytes <= header.p_memsz)
        .ok_or(ElfError::Segment(start))?;
    check_range(offset, len_bytes, file_bytes)?;
    Ok(Segment {
        offset,
        len_bytes,
        place: start..end,
    })
}

/// Refuses a range that is not in a file of `file_bytes`.
pub(crate) fn check_range(offset: u64, len_bytes: u64, file_bytes: u64) -> Result<(), ElfError> {
    match offset.checked_add(len_bytes) {
        Some(end) if end <= file_bytes => Ok(()),
        _ => Err(ElfError::Truncated { offset, len_bytes }),
    }
}

/// Copies a part of the file; the caller bounds its length.
fn read<F: KernelFile + ?Sized>(file: &F, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
    check_range(offset, len, file.len_bytes())?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn note(parsed: ParsedNote<'_>) -> Option<Note> {
    // Notes the library knows are not for boot loaders.
    let ParsedNote::Unknown(note) = parsed else {
        return None;
    };
    Some(Note {
        owner: note.name.strip_suffix(&[0]).unwrap_or(note.name).to_vec(),
        kind: note.n_type,
        content: note.desc.to_vec(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program header to be: type, virtual and physical address, bytes in memory, content.
    pub(crate) struct Part {
        pub(crate) kind: u32,
        pub(crate) virtual_address: u64,
        pub(crate) physical_address: u64,
        pub(crate) memory: u64,
        pub(crate) content: Vec<u8>,
    }

    /// A loadable part where virtual and physical addresses agree.
    pub(crate) fn load(address: u64, memory: u64, content: Vec<u8>) -> Part {
        Part {
            kind: abi::PT_LOAD,
            virtual_address: address,
            physical_address: address,
            memory,
            content,
        }
    }

    /// A note of Xen's with this content.
    pub(crate) fn xen_note(kind: u32, content: &[u8]) -> Part {
        let mut note = Vec::new();
        for word in [4, u32::try_from(content.len()).unwrap(), kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(content);
        note.resize(note.len().next_multiple_of(4), 0);
        Part {
            kind: abi::PT_NOTE,
            ..load(0, 0, note)
        }
    }

    /// An executable of these parts.
    pub(crate) fn elf(class: Class, entry: u64, parts: &[Part]) -> Vec<u8> {
        let is_wide = class == Class::ELF64;
        let (header_bytes, entry_bytes) = if is_wide { (64, 56) } else { (52, 32) };
        let mut file = abi::ELFMAGIC.to_vec();
        file.extend([if is_wide { 2 } else { 1 }, 1, 1, 0]);
        file.resize(16, 0);
        let mut words = Words {
            bytes: file,
            is_wide,
        };
        words.half(abi::ET_EXEC);
        words.half(if is_wide { abi::EM_X86_64 } else { abi::EM_386 });
        words.word(1);
        words.address(entry);
        words.address(header_bytes);
        words.address(0);
        words.word(0);
        for half in [header_bytes, entry_bytes, parts.len() as u64, 0, 0, 0] {
            words.half(u16::try_from(half).unwrap());
        }
        let mut offset = header_bytes + entry_bytes * parts.len() as u64;
        for part in parts {
            words.program_header(part, offset);
            offset += part.content.len() as u64;
        }
        let mut file = words.bytes;
        file.extend(parts.iter().flat_map(|part| part.content.clone()));
        file
    }

    struct Words {
        bytes: Vec<u8>,
        is_wide: bool,
    }

    impl Words {
        fn half(&mut self, value: u16) {
            self.bytes.extend(value.to_le_bytes());
        }
        fn word(&mut self, value: u32) {
            self.bytes.extend(value.to_le_bytes());
        }
        fn address(&mut self, value: u64) {
            if self.is_wide {
                self.bytes.extend(value.to_le_bytes());
            } else {
                self.word(u32::try_from(value).unwrap());
            }
        }
        fn program_header(&mut self, part: &Part, offset: u64) {
            self.word(part.kind);
            if self.is_wide {
                self.word(7);
            }
            self.address(offset);
            self.address(part.virtual_address);
            self.address(part.physical_address);
            self.address(part.content.len() as u64);
            self.address(part.memory);
            if !self.is_wide {
                self.word(7);
            }
            self.address(4);
        }
    }

    fn image(file: &[u8]) -> Result<Image, ElfError> {
        ElfFile::parse(file)?.image(file)
    }

    #[test]
    fn both_classes_give_the_same_image() {
        for class in [Class::ELF32, Class::ELF64] {
            let parts = [
                load(0x10_0000, 0x2000, vec![1; 0x1000]),
                load(0x20_0000, 8, vec![2; 8]),
            ];
            let image = image(&elf(class, 0x10_0010, &parts)).unwrap();
            assert_eq!(image.entry, 0x10_0010);
            assert_eq!(image.segments.len(), 2);
            assert_eq!(image.segments[0].place, 0x10_0000..0x10_2000);
            assert_eq!(image.segments[0].len_bytes, 0x1000);
            assert_eq!(image.segments[1].offset, image.segments[0].offset + 0x1000);
        }
    }

    #[test]
    fn entry_moves_with_its_segment() {
        let high = Part {
            virtual_address: 0xFFFF_FFFF_8010_0000,
            ..load(0x10_0000, 0x1000, vec![0x90; 16])
        };
        let file = elf(Class::ELF64, 0xFFFF_FFFF_8010_0020, &[high]);
        assert_eq!(image(&file).unwrap().entry, 0x10_0020);
    }

    #[test]
    fn notes_are_found_by_owner() {
        let parts = [
            load(0x10_0000, 16, vec![0x90; 16]),
            xen_note(18, &0x10_0000_u32.to_le_bytes()),
            xen_note(6, b"linux\0"),
        ];
        let file = elf(Class::ELF64, 0x10_0000, &parts);
        let elf = ElfFile::parse(&*file).unwrap();
        let notes = elf.notes(&*file).unwrap();
        assert_eq!(notes.len(), 2);
        assert_eq!((&*notes[0].owner, notes[0].kind), (b"Xen".as_slice(), 18));
        assert_eq!(notes[1].content, b"linux\0");
    }

    #[test]
    fn files_for_others_are_named() {
        let good = elf(Class::ELF64, 0x10_0000, &[load(0x10_0000, 16, vec![0; 16])]);
        let patched = |offset: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            image(&file).unwrap_err()
        };
        assert_eq!(patched(18, &[183, 0]), ElfError::Machine(183));
        assert_eq!(patched(16, &[1, 0]), ElfError::Kind(1));
        assert_eq!(patched(5, &[2]), ElfError::Header);
        assert_eq!(patched(4, &[9]), ElfError::Header);
        let entry_bytes = 56;
        let count = 0;
        let none = ElfError::ProgramHeaders { count, entry_bytes };
        assert_eq!(patched(56, &[0, 0]), none);
        assert_eq!(patched(64, &[4]), ElfError::NoSegments);
        assert_eq!(patched(24, &[0, 0, 0x20]), ElfError::Entry(0x20_0000));
    }

    #[test]
    fn parts_outside_the_file_or_the_address_space_are_refused() {
        let good = elf(Class::ELF64, 0x10_0000, &[load(0x10_0000, 16, vec![0; 16])]);
        let patched = |offset: usize, value: u64| {
            let mut file = good.clone();
            file[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
            image(&file).unwrap_err()
        };
        let header = 64;
        for offset in [121, u64::MAX] {
            let error = patched(header + 8, offset);
            assert!(matches!(error, ElfError::Truncated { .. }), "{error}");
        }
        assert_eq!(patched(header + 32, 17), ElfError::Segment(0x10_0000));
        assert_eq!(
            patched(header + 24, u64::MAX - 3),
            ElfError::Segment(u64::MAX - 3)
        );
        let error = patched(32, 100);
        assert!(matches!(error, ElfError::Truncated { .. }), "{error}");
    }

    /// Every prefix of a file is refused or taken, never more.
    #[test]
    fn cut_off_files_end_in_an_error() {
        let parts = [load(0x10_0000, 16, vec![0; 16]), xen_note(18, &[0; 4])];
        let file = elf(Class::ELF64, 0x10_0000, &parts);
        for len in 0..file.len() {
            let cut = &file[..len];
            let result = ElfFile::parse(cut).and_then(|elf| {
                elf.notes(cut)?;
                elf.image(cut)
            });
            assert!(result.is_err(), "{len}");
        }
    }
}
