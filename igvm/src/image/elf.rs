//! The paravisor's ELF file: which pages to launch, and how each is to be mapped.

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, Sym as _};
use stockade_boot::layout::{PAGE_SIZE, paravisor};

use super::pages::Pages;

/// Where the paravisor's first code believes that the launched pages end.
const LAUNCHED_END_SYMBOL: &[u8] = b"__launched_end";

/// Why a file cannot be launched as the paravisor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, or damaged.
    #[error("not a 64-bit little-endian ELF file ({0})")]
    NotElf(String),
    /// For another processor, or not linked to a fixed address.
    #[error("not a static x86-64 executable")]
    NotExecutable,
    /// A segment lies outside the paravisor's image range.
    #[error(
        "segment {start:#x}..{end:#x} lies outside {:#x}..{:#x}",
        paravisor::IMAGE_BASE,
        paravisor::IMAGE_END
    )]
    Placement {
        /// The first address.
        start: u64,
        /// One past the last address.
        end: u64,
    },
    /// A segment is writable and executable.
    #[error("segment at {0:#x} is writable and executable")]
    WritableCode(u64),
    /// Two segments of different rights in one page.
    #[error("two segments share the page at {0:#x}")]
    SharedPage(u64),
    /// The entry is in no executable segment.
    #[error("entry {0:#x} is in no executable segment")]
    Entry(u64),
    /// The linker script and the image builder disagree.
    #[error("the file's content ends at {found:#x}, but its first code believes at {believed:#x}")]
    LaunchedEnd {
        /// What the segments say.
        found: u64,
        /// What the symbol says.
        believed: u64,
    },
}

/// How a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    Execute,
    Write,
}

/// A loadable segment in whole pages, its `.bss` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) rights: Rights,
}

/// The paravisor, checked and cut into pages.
#[derive(Clone, Debug)]
pub struct Paravisor {
    pub(super) entry: u64,
    pub(super) pages: Pages,
    pub(super) segments: Vec<Segment>,
}

impl Paravisor {
    /// Reads an ELF file.
    pub fn parse(data: &[u8]) -> Result<Self, ElfError> {
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(not_elf)?;
        let endian = header.endian().map_err(not_elf)?;
        if header.e_machine(endian) != elf::EM_X86_64 || header.e_type(endian) != elf::ET_EXEC {
            return Err(ElfError::NotExecutable);
        }
        let mut loader = Loader::default();
        for segment in header.program_headers(endian, data).map_err(not_elf)? {
            if segment.p_type(endian) == elf::PT_LOAD && segment.p_memsz(endian) != 0 {
                loader.load(segment, data)?;
            }
        }
        let paravisor = loader.finish(header.e_entry(endian))?;
        if let Some(believed) = launched_end(header, data).map_err(not_elf)?
            && believed != paravisor.1
        {
            return Err(ElfError::LaunchedEnd {
                found: paravisor.1,
                believed,
            });
        }
        Ok(paravisor.0)
    }
}

fn not_elf(error: object::Error) -> ElfError {
    ElfError::NotElf(error.to_string())
}

/// What has been loaded so far.
#[derive(Default)]
struct Loader {
    pages: Pages,
    segments: Vec<Segment>,
    content_end: u64,
}

impl Loader {
    fn load(
        &mut self,
        header: &ProgramHeader64<LittleEndian>,
        data: &[u8],
    ) -> Result<(), ElfError> {
        let start = header.p_vaddr(LittleEndian);
        let end = start.checked_add(header.p_memsz(LittleEndian));
        let end = end.ok_or(ElfError::Placement {
            start,
            end: u64::MAX,
        })?;
        if start < paravisor::IMAGE_BASE || end > paravisor::IMAGE_END {
            return Err(ElfError::Placement { start, end });
        }
        let flags = header.p_flags(LittleEndian);
        let rights = match (flags & elf::PF_W != 0, flags & elf::PF_X != 0) {
            (true, true) => return Err(ElfError::WritableCode(start)),
            (true, false) => Rights::Write,
            (false, true) => Rights::Execute,
            (false, false) => Rights::Read,
        };
        let segment = Segment {
            start: start & !(PAGE_SIZE - 1),
            end: end.next_multiple_of(PAGE_SIZE),
            rights,
        };
        let shared = |other: &&Segment| segment.start < other.end && other.start < segment.end;
        if let Some(other) = self.segments.iter().find(shared) {
            return Err(ElfError::SharedPage(segment.start.max(other.start)));
        }
        self.segments.push(segment);
        let content = header
            .data(LittleEndian, data)
            .map_err(|()| ElfError::NotElf("a segment reaches beyond the file".into()))?;
        if content.len() as u64 > end - start {
            return Err(ElfError::NotElf(
                "a segment's content is longer than the segment".into(),
            ));
        }
        self.pages.put(start, content);
        if !content.is_empty() {
            self.content_end = self.content_end.max(start + content.len() as u64);
        }
        Ok(())
    }

    /// Returns the paravisor and where its launched pages end.
    ///
    /// All pages from the image's base to there are launched, so that the first code knows with one number what is left.
    fn finish(mut self, entry: u64) -> Result<(Paravisor, u64), ElfError> {
        let is_entry =
            |s: &Segment| s.rights == Rights::Execute && (s.start..s.end).contains(&entry);
        if !self.segments.iter().any(is_entry) {
            return Err(ElfError::Entry(entry));
        }
        let end = self.content_end.next_multiple_of(PAGE_SIZE);
        for gpa in (paravisor::IMAGE_BASE..end).step_by(super::pages::PAGE_BYTES) {
            self.pages.page(gpa);
        }
        Ok((
            Paravisor {
                entry,
                pages: self.pages,
                segments: self.segments,
            },
            end,
        ))
    }
}

fn launched_end(header: &FileHeader64<LittleEndian>, data: &[u8]) -> object::Result<Option<u64>> {
    let sections = header.sections(LittleEndian, data)?;
    let symbols = sections.symbols(LittleEndian, data, elf::SHT_SYMTAB)?;
    for symbol in symbols.iter() {
        if symbol.name(LittleEndian, symbols.strings())? == LAUNCHED_END_SYMBOL {
            return Ok(Some(symbol.st_value(LittleEndian)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ElfSegment, elf_file};
    use super::*;

    const BASE: u64 = paravisor::IMAGE_BASE;
    const TEXT: u32 = elf::PF_R | elf::PF_X;
    const DATA: u32 = elf::PF_R | elf::PF_W;

    fn segment(address: u64, content: usize, memory: u64, flags: u32) -> ElfSegment {
        ElfSegment {
            address,
            content: vec![0xAB; content],
            memory,
            flags,
        }
    }

    fn parse(entry: u64, segments: &[ElfSegment]) -> Result<Paravisor, ElfError> {
        Paravisor::parse(&elf_file(entry, segments))
    }

    #[test]
    fn content_is_launched_and_bss_is_not() {
        let text = segment(BASE, 0x1800, 0x1800, TEXT);
        let data = segment(BASE + 0x3000, 0x10, 0x5000, DATA);
        let paravisor = parse(BASE + 0x20, &[text, data]).unwrap();
        let pages: Vec<u64> = paravisor
            .pages
            .into_iter()
            .map(|page| page.0 - BASE)
            .collect();
        // The gap at 0x2000 is launched too: one number says where launched pages end.
        assert_eq!(pages, [0, 0x1000, 0x2000, 0x3000]);
        assert_eq!(paravisor.segments[1].end, BASE + 0x8000);
        assert_eq!(paravisor.entry, BASE + 0x20);
    }

    #[test]
    fn segments_outside_the_image_range_are_refused() {
        for (address, memory) in [
            (BASE - 0x1000, 0x10),
            (paravisor::IMAGE_END - 0x1000, 0x1001),
            (0x40_0000, 0x10),
            (u64::MAX - 1, 0x10),
        ] {
            let error = parse(address, &[segment(address, 0, memory, TEXT)]).unwrap_err();
            assert!(matches!(error, ElfError::Placement { .. }), "{error}");
        }
    }

    #[test]
    fn writable_code_and_shared_pages_are_refused() {
        let both = segment(BASE, 0x10, 0x10, TEXT | elf::PF_W);
        assert_eq!(
            parse(BASE, &[both]).unwrap_err(),
            ElfError::WritableCode(BASE)
        );
        let text = segment(BASE, 0x10, 0x10, TEXT);
        let data = segment(BASE + 0x800, 0x10, 0x10, DATA);
        assert_eq!(
            parse(BASE, &[text, data]).unwrap_err(),
            ElfError::SharedPage(BASE)
        );
    }

    #[test]
    fn entry_must_be_code() {
        let data = segment(BASE, 0x10, 0x10, DATA);
        assert_eq!(parse(BASE, &[data]).unwrap_err(), ElfError::Entry(BASE));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(
            Paravisor::parse(b"MZ").unwrap_err(),
            ElfError::NotElf(_)
        ));
        let mut file = elf_file(BASE, &[segment(BASE, 0x10, 0x10, TEXT)]);
        file[18] = 3; // EM_386
        assert_eq!(
            Paravisor::parse(&file).unwrap_err(),
            ElfError::NotExecutable
        );
        let file = elf_file(BASE, &[segment(BASE, 0x10, 0x10, TEXT)]);
        let error = Paravisor::parse(&file[..file.len() - 8]).unwrap_err();
        assert!(matches!(error, ElfError::NotElf(_)));
    }
}
