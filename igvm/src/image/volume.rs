//! Firmware volumes (UEFI Platform Initialization 1.8, volume 3), as far as it takes to see what kinds of programs are in them.
//!
//! A volume holds files, a file of volumes sections, and a section a volume or, compressed, more sections. Whatever is not by the rules
//! ends the search where it is: this is a look at a file its user chose, to say early what the machine would say late or never.

use std::io::Read;

use lzma_rust2::LzmaReader;

/// What volumes begin at.
const PAGE: usize = 4096;
/// The volume's file system, here `FFF12B8D-7696-4C8B-A985-2747075B4F50`: variables.
const VARIABLES: (usize, &[u8]) = (
    0x10,
    &[
        0x8D, 0x2B, 0xF1, 0xFF, 0x96, 0x76, 0x8B, 0x4C, 0xA9, 0x85, 0x27, 0x47, 0x07, 0x5B, 0x4F,
        0x50,
    ],
);
/// The volume's length, signature, header's length and extended header's place (3.2.1).
const VOLUME_LENGTH: usize = 0x20;
const VOLUME_SIGNATURE: (usize, &[u8]) = (0x28, b"_FVH");
const VOLUME_HEADER_LENGTH: usize = 0x30;
const EXTENDED_HEADER: usize = 0x34;
/// In the extended header: its length.
const EXTENDED_LENGTH: usize = 16;
/// The file's type, attributes and length (3.2.3).
const FILE_TYPE: usize = 18;
const FILE_ATTRIBUTES: usize = 19;
const FILE_LENGTH: usize = 20;
const FILE_HEADER: usize = 24;
/// Of files of 16 MiB and more.
const LARGE_FILE: u8 = 1;
const LARGE_FILE_HEADER: usize = 32;
/// A file that holds volumes.
const FILE_OF_VOLUMES: u8 = 0x0B;
/// The program all others of system management mode are started by.
const SMM_CORE: u8 = 0x0D;
/// Sections (3.2.4): a volume, and one whose form a GUID names.
const SECTION_OF_VOLUME: u8 = 0x17;
const SECTION_BY_GUID: u8 = 0x02;
const SECTION_TYPE: usize = 3;
const SECTION_HEADER: usize = 4;
const LARGE_SECTION: usize = 0xFF_FFFF;
const LARGE_SECTION_HEADER: usize = 8;
/// `EE4E5898-3914-4259-9D6E-DC7BD79403CF`: LZMA, with the header of files.
const LZMA: [u8; 16] = [
    0x98, 0x58, 0x4E, 0xEE, 0x14, 0x39, 0x59, 0x42, 0x9D, 0x6E, 0xDC, 0x7B, 0xD7, 0x94, 0x03, 0xCF,
];
/// More than any firmware for virtual machines unpacks to.
const MOST_UNPACKED: u64 = 64 << 20;
/// The most memory unpacking may take.
const MOST_MEMORY_KIB: u32 = 64 << 10;
/// How deep volumes are looked for in one another.
const DEEPEST: u32 = 6;

/// Returns whether there is a program among the volumes of `code` that needs system management mode to start.
pub(super) fn needs_smm(code: &[u8]) -> bool {
    let mut rest = code;
    while let Some(length) = volume_length(rest) {
        let (volume, behind) = rest.split_at(length);
        if volume_has_core(volume, DEEPEST) {
            return true;
        }
        rest = behind;
    }
    false
}

/// Returns whether a volume begins at any page: what has none is no UEFI firmware.
pub(super) fn has_volume(code: &[u8]) -> bool {
    let (at, signature) = VOLUME_SIGNATURE;
    let mut pages = code.chunks(PAGE);
    pages.any(|page| {
        page.get(at..)
            .is_some_and(|rest| rest.starts_with(signature))
    })
}

/// Returns whether the first volume is one of variables.
pub(super) fn begins_with_variables(code: &[u8]) -> bool {
    let (at, guid) = VARIABLES;
    let rest = volume_length(code).and_then(|_| code.get(at..));
    rest.is_some_and(|rest| rest.starts_with(guid))
}

/// Returns how long the volume is that begins here, if one does.
fn volume_length(bytes: &[u8]) -> Option<usize> {
    let (at, signature) = VOLUME_SIGNATURE;
    let is_volume = bytes.get(at..)?.starts_with(signature);
    let length = usize::try_from(number(bytes, VOLUME_LENGTH, 8)?).ok()?;
    (is_volume && length > 0 && length <= bytes.len()).then_some(length)
}

fn volume_has_core(volume: &[u8], depth: u32) -> bool {
    files(volume).is_some_and(|files| {
        files.into_iter().any(|file| match file.kind {
            SMM_CORE => true,
            FILE_OF_VOLUMES => sections_have_core(file.content, depth),
            _ => false,
        })
    })
}

struct File<'a> {
    kind: u8,
    content: &'a [u8],
}

/// Returns the files of a volume, which lie behind each other at multiples of eight bytes.
fn files(volume: &[u8]) -> Option<Vec<File<'_>>> {
    const ALIGNMENT: usize = 8;
    let volume = volume.get(..volume_length(volume)?)?;
    let header = length(volume, VOLUME_HEADER_LENGTH, 2)?;
    let start = match length(volume, EXTENDED_HEADER, 2)? {
        0 => header,
        extended => extended.checked_add(length(volume, extended + EXTENDED_LENGTH, 4)?)?,
    };
    let mut files = Vec::new();
    let mut at = start.checked_next_multiple_of(ALIGNMENT)?;
    while let Some((file, length)) = file(volume.get(at..)?) {
        files.push(file);
        at = at
            .checked_add(length)?
            .checked_next_multiple_of(ALIGNMENT)?;
        if at >= volume.len() {
            break;
        }
    }
    Some(files)
}

/// Returns the file that begins here, and its length with the header; `None` in free space.
fn file(bytes: &[u8]) -> Option<(File<'_>, usize)> {
    let is_large = bytes.get(FILE_ATTRIBUTES)? & LARGE_FILE != 0;
    let (length, header) = if is_large {
        (length(bytes, FILE_HEADER, 8)?, LARGE_FILE_HEADER)
    } else {
        (length(bytes, FILE_LENGTH, 3)?, FILE_HEADER)
    };
    let kind = *bytes.get(FILE_TYPE)?;
    let content = bytes.get(header..length)?;
    Some((File { kind, content }, length))
}

fn sections_have_core(sections: &[u8], depth: u32) -> bool {
    const ALIGNMENT: usize = 4;
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    let mut rest = sections;
    while let Some((section, length)) = section(rest) {
        let has_core = match section {
            Section::Volume(volume) => volume_has_core(volume, depth),
            Section::Packed(packed) => {
                unpack(packed).is_some_and(|sections| sections_have_core(&sections, depth))
            }
            Section::Other => false,
        };
        if has_core {
            return true;
        }
        let behind = length.checked_next_multiple_of(ALIGNMENT);
        rest = behind.and_then(|at| rest.get(at..)).unwrap_or(&[]);
    }
    false
}

enum Section<'a> {
    Volume(&'a [u8]),
    Packed(&'a [u8]),
    Other,
}

/// Returns the section that begins here, and its length with the header.
fn section(bytes: &[u8]) -> Option<(Section<'_>, usize)> {
    let (length, header) = match length(bytes, 0, 3)? {
        LARGE_SECTION => (length(bytes, SECTION_HEADER, 4)?, LARGE_SECTION_HEADER),
        length => (length, SECTION_HEADER),
    };
    let content = bytes.get(header..length)?;
    let section = match *bytes.get(SECTION_TYPE)? {
        SECTION_OF_VOLUME => Section::Volume(content),
        SECTION_BY_GUID if content.starts_with(&LZMA) => {
            let start = self::length(content, LZMA.len(), 2)?;
            Section::Packed(bytes.get(start..length)?)
        }
        _ => Section::Other,
    };
    Some((section, length))
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let reader = LzmaReader::new_mem_limit(packed, MOST_MEMORY_KIB, None).ok()?;
    let mut bytes = Vec::new();
    reader.take(MOST_UNPACKED).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn length(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    usize::try_from(number(bytes, at, len)?).ok()
}

/// Returns a number of up to eight bytes, the least significant first.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    let number = bytes.iter().rev();
    Some(number.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut file = vec![0; FILE_HEADER];
        file[FILE_TYPE] = kind;
        let length = u32::try_from(FILE_HEADER + content.len()).unwrap();
        file[FILE_LENGTH..FILE_LENGTH + 3].copy_from_slice(&length.to_le_bytes()[..3]);
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(8), 0xFF);
        file
    }

    fn volume_of(files: &[Vec<u8>]) -> Vec<u8> {
        let mut volume = vec![0; 0x48];
        volume[0x28..0x2C].copy_from_slice(b"_FVH");
        volume[VOLUME_HEADER_LENGTH] = 0x48;
        volume.extend(files.concat());
        volume.resize(volume.len() + 0x100, 0xFF);
        let length = volume.len() as u64;
        volume[VOLUME_LENGTH..VOLUME_LENGTH + 8].copy_from_slice(&length.to_le_bytes());
        volume
    }

    fn section_of(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(SECTION_HEADER + content.len()).unwrap();
        let mut section = length.to_le_bytes()[..3].to_vec();
        section.push(kind);
        section.extend_from_slice(content);
        section.resize(section.len().next_multiple_of(4), 0);
        section
    }

    fn nested(kind: u8) -> Vec<u8> {
        let inner = volume_of(&[file_of(7, b"driver"), file_of(kind, b"core")]);
        let sections = [
            section_of(0x19, b"raw"),
            section_of(SECTION_OF_VOLUME, &inner),
        ];
        let outer = volume_of(&[file_of(FILE_OF_VOLUMES, &sections.concat())]);
        [volume_of(&[]), outer].concat()
    }

    #[test]
    fn core_is_found_in_a_volume_within_a_later_one() {
        assert!(needs_smm(&nested(SMM_CORE)));
        assert!(!needs_smm(&nested(7)));
    }

    /// As edk2 writes it: properties, the size of a dictionary, the unpacked length, and the stream (here of a volume with that file).
    #[test]
    fn core_is_found_in_what_is_packed() {
        let sections = section_of(SECTION_OF_VOLUME, &volume_of(&[file_of(SMM_CORE, b"core")]));
        let mut packed = Vec::new();
        let options = lzma_rust2::LzmaOptions::with_preset(1);
        let size = Some(sections.len() as u64);
        let mut writer =
            lzma_rust2::LzmaWriter::new_use_header(&mut packed, &options, size).unwrap();
        std::io::Write::write_all(&mut writer, &sections).unwrap();
        writer.finish().unwrap();
        let head = [&LZMA[..], &[24, 0, 1, 0]].concat();
        let section = section_of(SECTION_BY_GUID, &[head, packed].concat());
        assert!(needs_smm(&volume_of(&[file_of(FILE_OF_VOLUMES, &section)])));
    }

    #[test]
    fn volumes_and_those_of_variables_are_told() {
        let mut variables = volume_of(&[]);
        variables[0x10..0x20].copy_from_slice(VARIABLES.1);
        variables.resize(PAGE, 0xFF);
        let code = [&[0; PAGE][..], &volume_of(&[])].concat();
        assert!(has_volume(&code) && !begins_with_variables(&code));
        assert!(begins_with_variables(&[&variables[..], &code].concat()));
        assert!(!begins_with_variables(&volume_of(&[])));
        assert!(!has_volume(&[0; 3 * PAGE]) && !has_volume(&[]));
    }

    /// Each prefix, and each byte in turn put to either extreme.
    #[test]
    fn nonsense_is_looked_at_without_harm() {
        let code = nested(SMM_CORE);
        for end in 0..code.len() {
            let _ = needs_smm(&code[..end]);
        }
        for at in 0..code.len() {
            for byte in [0, 0x80, 0xFF] {
                let mut code = code.clone();
                code[at] = byte;
                let _ = needs_smm(&code);
            }
        }
        assert!(!needs_smm(&[0xFF; 0x1000]));
    }
}
