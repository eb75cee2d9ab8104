//! The header in the kernel's file (Multiboot 0.6.96, 3.1).

use alloc::vec;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel::{ElfError, ElfFile, Image, KernelFile, Segment};

/// What EAX says to the kernel.
pub const LOADER_MAGIC: u32 = 0x2BAD_B002;

const MAGIC: u32 = 0x1BAD_B002;
/// The header is wholly within so many bytes.
const SEARCH_BYTES: usize = 8192;
/// Modules at page boundaries: always done.
const PAGE_ALIGN: u32 = 1 << 0;
/// Memory information: always given.
const MEMORY_INFO: u32 = 1 << 1;
/// A video mode, which there is not; kernels do without, as they do under QEMU.
const VIDEO_MODE: u32 = 1 << 2;
/// The low half of the flags is what a loader must do or give up.
const MANDATORY: u32 = 0xFFFF;
/// The address fields count.
const ADDRESSES: u32 = 1 << 16;

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fields {
    magic: U32,
    flags: U32,
    checksum: U32,
}

/// Where parts of a flat image go ("a.out kludge").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Addresses {
    header: U32,
    load: U32,
    load_end: U32,
    bss_end: U32,
    entry: U32,
}

/// Why a multiboot kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultibootError {
    /// It demands what there is not.
    #[error("the kernel demands multiboot features {0:#x}, which there are not")]
    Features(u32),
    /// The header ends with the file, or with the part of it that is searched.
    #[error("the kernel's multiboot header is cut off")]
    Truncated,
    /// Addresses that contradict each other.
    #[error("the kernel's multiboot addresses contradict each other")]
    Addresses,
}

/// The header of a multiboot kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultibootHeader {
    /// Where it is in the file.
    offset: u64,
    addresses: Option<Addresses>,
}

impl MultibootHeader {
    /// Looks for a header in a kernel's first bytes.
    pub fn find(start: &[u8]) -> Result<Option<Self>, MultibootError> {
        let start = start.get(..SEARCH_BYTES).unwrap_or(start);
        let found = (0..start.len()).step_by(4).find_map(|offset| {
            let (fields, rest) = Fields::read_from_prefix(start.get(offset..)?).ok()?;
            fields.is_header().then_some((offset, fields, rest))
        });
        let Some((offset, fields, rest)) = found else {
            return Ok(None);
        };
        let flags = fields.flags.get();
        let unknown = flags & MANDATORY & !(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE);
        if unknown != 0 {
            return Err(MultibootError::Features(unknown));
        }
        let addresses = if flags & ADDRESSES == 0 {
            None
        } else {
            let parsed = Addresses::read_from_prefix(rest);
            Some(parsed.map_err(|_| MultibootError::Truncated)?.0)
        };
        Ok(Some(Self {
            offset: offset as u64,
            addresses,
        }))
    }

    /// Returns the kernel as it lies in memory. Addresses in the header go before those of an ELF file.
    pub fn image<F: KernelFile + ?Sized>(&self, file: &F) -> Result<Image, ImageError> {
        match &self.addresses {
            Some(addresses) => self.flat_image(addresses, file.len_bytes()),
            None => Ok(ElfFile::parse(file)?.image(file)?),
        }
    }

    fn flat_image(&self, addresses: &Addresses, file_bytes: u64) -> Result<Image, ImageError> {
        let load = u64::from(addresses.load.get());
        let before = u64::from(addresses.header.get()).checked_sub(load);
        let offset = before
            .and_then(|before| self.offset.checked_sub(before))
            .ok_or(MultibootError::Addresses)?;
        // No end of data: all of the file. No end of bss: none.
        let load_end = match addresses.load_end.get() {
            0 => load.saturating_add(file_bytes.saturating_sub(offset)),
            end => end.into(),
        };
        let end = match addresses.bss_end.get() {
            0 => load_end,
            end => end.into(),
        };
        if load >= load_end || load_end > end {
            return Err(MultibootError::Addresses.into());
        }
        let len_bytes = load_end - load;
        crate::kernel::check_range(offset, len_bytes, file_bytes)?;
        let segment = Segment {
            offset,
            len_bytes,
            place: load..end,
        };
        let entry = addresses.entry.get().into();
        Ok(Image::try_new(entry, vec![segment])?)
    }
}

impl Fields {
    fn is_header(&self) -> bool {
        let (magic, flags) = (self.magic.get(), self.flags.get());
        let sum = magic.wrapping_add(flags).wrapping_add(self.checksum.get());
        magic == MAGIC && sum == 0
    }
}

/// Why there is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The ELF file.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The multiboot header.
    #[error(transparent)]
    Multiboot(#[from] MultibootError),
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::vec::Vec;

    use elf::file::Class;

    use super::*;
    use crate::kernel::tests::{elf, load};

    /// A header with these flags, and addresses if it has any.
    pub(crate) fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
        let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
        let words = [MAGIC, flags, checksum];
        let words = words.iter().chain(addresses);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    fn flat(addresses: [u32; 5], len: usize) -> Result<Image, ImageError> {
        let mut file = vec![0x90; 0x40];
        file.extend(header(ADDRESSES | PAGE_ALIGN, &addresses));
        file.resize(len, 0xCC);
        let header = MultibootHeader::find(&file).unwrap().unwrap();
        header.image(&*file)
    }

    #[test]
    fn header_is_found_at_any_aligned_place_of_the_first_pages() {
        for offset in [0, 4, 0x1F0, 8192 - 12] {
            let mut file = vec![0; 0x3000];
            file[offset..offset + 12].copy_from_slice(&header(3, &[]));
            let found = MultibootHeader::find(&file).unwrap().unwrap();
            assert_eq!(found.offset, offset as u64);
        }
        for offset in [2, 8192 - 8, 8192] {
            let mut file = vec![0; 0x3000];
            file[offset..offset + 12].copy_from_slice(&header(3, &[]));
            assert_eq!(MultibootHeader::find(&file), Ok(None), "{offset}");
        }
    }

    #[test]
    fn wrong_checksum_is_no_header() {
        let mut file = header(3, &[]);
        file[8] ^= 1;
        assert_eq!(MultibootHeader::find(&file), Ok(None));
        assert_eq!(MultibootHeader::find(&[]), Ok(None));
    }

    #[test]
    fn features_that_are_not_there_are_refused() {
        for bit in 0..16 {
            let result = MultibootHeader::find(&header(1 << bit, &[]));
            let expected = if bit < 3 {
                Ok(true)
            } else {
                Err(MultibootError::Features(1 << bit))
            };
            assert_eq!(result.map(|found| found.is_some()), expected, "{bit}");
        }
    }

    #[test]
    fn flat_image_lies_where_its_addresses_say() {
        let image = flat(
            [0x10_0040, 0x10_0000, 0x10_0100, 0x10_0800, 0x10_0060],
            0x200,
        )
        .unwrap();
        assert_eq!(image.entry, 0x10_0060);
        let segment = Segment {
            offset: 0,
            len_bytes: 0x100,
            place: 0x10_0000..0x10_0800,
        };
        assert_eq!(image.segments, [segment]);
    }

    #[test]
    fn flat_image_without_ends_is_the_rest_of_the_file() {
        let image = flat([0x10_0020, 0x10_0000, 0, 0, 0x10_0000], 0x200).unwrap();
        let segment = Segment {
            offset: 0x20,
            len_bytes: 0x1E0,
            place: 0x10_0000..0x10_01E0,
        };
        assert_eq!(image.segments, [segment]);
    }

    #[test]
    fn contradicting_addresses_are_refused() {
        for (addresses, error) in [
            // The header before the image; the image before the file.
            ([0x0F_FFFF, 0x10_0000, 0, 0, 0x10_0000], "contradict"),
            ([0x10_0041, 0x10_0000, 0, 0, 0x10_0000], "contradict"),
            // The end before the start; bss before the data's end.
            (
                [0x10_0040, 0x10_0000, 0x0F_0000, 0, 0x10_0000],
                "contradict",
            ),
            (
                [0x10_0040, 0x10_0000, 0x10_0100, 0x10_00FF, 0x10_0000],
                "contradict",
            ),
            (
                [0x10_0040, 0x10_0000, 0x10_0000, 0, 0x10_0000],
                "contradict",
            ),
            // More than the file has; an entry elsewhere.
            (
                [0x10_0040, 0x10_0000, 0x10_0201, 0, 0x10_0000],
                "ends before",
            ),
            ([0x10_0040, 0x10_0000, 0, 0, 0x20_0000], "entry"),
        ] {
            use alloc::string::ToString;
            let text = flat(addresses, 0x200).unwrap_err().to_string();
            assert!(text.contains(error), "{addresses:x?}: {text}");
        }
    }

    #[test]
    fn elf_file_without_addresses_is_loaded_by_its_headers() {
        let content = header(3, &[]);
        for class in [Class::ELF32, Class::ELF64] {
            let file = elf(class, 0x10_0004, &[load(0x10_0000, 0x100, content.clone())]);
            let header = MultibootHeader::find(&file).unwrap().unwrap();
            assert_eq!(header.image(&*file).unwrap().entry, 0x10_0004);
        }
        let other = header(3, &[]);
        let found = MultibootHeader::find(&other).unwrap().unwrap();
        let error = found.image(&*other).unwrap_err();
        assert_eq!(error, ImageError::Elf(ElfError::Header));
    }

    #[test]
    fn cut_off_addresses_are_named() {
        let file = header(ADDRESSES, &[0x10_0000]);
        assert_eq!(MultibootHeader::find(&file), Err(MultibootError::Truncated));
    }
}
