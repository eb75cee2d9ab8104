//! Which kind of kernel a file is, by its first bytes.

use crate::kernel::{ElfFile, Image, KernelFile};
use crate::linux::{HeaderError, SetupHeader};
use crate::multiboot::{ImageError, MultibootError, MultibootHeader};
use crate::pvh::{self, PvhError};

/// A kernel format, with the header it was known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A bzImage.
    Linux(SetupHeader),
    /// A multiboot kernel, ELF or flat.
    Multiboot(MultibootHeader),
    /// Any other ELF file: a PVH kernel, if its notes say so.
    Pvh,
}

/// Why a file is no kernel we can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// None of the formats.
    #[error("the kernel is neither a bzImage nor a multiboot or PVH image")]
    Unknown,
    /// A bzImage we cannot start.
    #[error(transparent)]
    Linux(#[from] HeaderError),
    /// A multiboot kernel we cannot start.
    #[error(transparent)]
    Multiboot(#[from] MultibootError),
    /// A kernel that cannot be laid out.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An ELF file that is no PVH kernel.
    #[error(transparent)]
    Pvh(#[from] PvhError),
}

impl Format {
    /// Recognizes the format from a file's first bytes, which hold all headers: at least 8 KiB, if the file has so many.
    ///
    /// An ELF file may be both a multiboot and a PVH kernel; multiboot goes first, as it does in QEMU.
    pub fn detect(start: &[u8], file_bytes: u64) -> Result<Self, FormatError> {
        match SetupHeader::parse(start, file_bytes) {
            Ok(header) => return Ok(Self::Linux(header)),
            Err(HeaderError::NotBzImage) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(header) = MultibootHeader::find(start)? {
            return Ok(Self::Multiboot(header));
        }
        if ElfFile::is_elf(start) {
            return Ok(Self::Pvh);
        }
        Err(FormatError::Unknown)
    }

    /// Returns a 32-bit kernel as it lies in memory; `None` for a bzImage, which is placed as it comes in.
    pub fn image<F: KernelFile + ?Sized>(&self, file: &F) -> Result<Option<Image>, FormatError> {
        match self {
            Self::Linux(_) => Ok(None),
            Self::Multiboot(header) => Ok(Some(header.image(file)?)),
            Self::Pvh => Ok(Some(pvh::image(file)?)),
        }
    }
}

/// Returns the format of a file in hand, checked as far as it can be without knowing the guest's memory.
pub fn check(file: &[u8]) -> Result<Format, FormatError> {
    let format = Format::detect(file, file.len() as u64)?;
    format.image(file)?;
    Ok(format)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use elf::file::Class;

    use super::*;
    use crate::kernel::tests::{elf, load, xen_note};
    use crate::linux::header::tests as linux;
    use crate::multiboot::test_header as header;

    fn elf_kernel(content: Vec<u8>) -> Vec<u8> {
        let parts = [
            load(0x10_0000, 0x1000, content),
            xen_note(18, &0x10_0000_u32.to_le_bytes()),
        ];
        elf(Class::ELF64, 0x10_0000, &parts)
    }

    #[test]
    fn each_format_is_known_by_its_header() {
        let bz_image = linux::file(&linux::header(), &[0; 0x1000]);
        assert!(matches!(check(&bz_image), Ok(Format::Linux(_))));
        let both = elf_kernel(header(3, &[]));
        assert!(matches!(check(&both), Ok(Format::Multiboot(_))));
        let pvh = elf_kernel(vec![0x90; 64]);
        assert_eq!(check(&pvh), Ok(Format::Pvh));
    }

    #[test]
    fn other_files_are_no_kernels() {
        for file in [&[][..], b"MZ", &[0; 0x4000]] {
            assert_eq!(check(file), Err(FormatError::Unknown));
        }
        let plain = elf(Class::ELF64, 0x10_0000, &[load(0x10_0000, 16, vec![0; 16])]);
        assert_eq!(check(&plain), Err(FormatError::Pvh(PvhError::NoEntry)));
    }

    /// A bzImage we cannot start is said to be one, not taken for something else.
    #[test]
    fn unfit_bzimage_keeps_its_error() {
        let mut old = linux::header();
        old.version = 0x0206.into();
        let file = linux::file(&old, &[0; 0x1000]);
        let error = FormatError::Linux(HeaderError::Protocol(0x0206));
        assert_eq!(check(&file), Err(error));
    }
}
