//! The setup header of a bzImage (boot.rst, "The Real-Mode Kernel Header" and "Details of Header Fields").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the header begins, in the file and in the zero page.
pub const HEADER_OFFSET: usize = 0x1F1;
/// The oldest protocol we speak: 2.12 brought `xloadflags`.
pub const MINIMUM_PROTOCOL: u16 = 0x020C;
/// The 64-bit entry, counted from where the kernel is loaded.
pub const ENTRY_64_OFFSET: u64 = 0x200;

const BOOT_FLAG: u16 = 0xAA55;
const MAGIC: [u8; 4] = *b"HdrS";
const SECTOR: u64 = 512;
/// `xloadflags`: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `loadflags`: the kernel proper is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;

/// The setup header, as far as protocol 2.15 goes. Values are the file's until a loader fills in its own.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(
    missing_docs,
    reason = "the fields are those of boot.rst, by its names"
)]
pub struct SetupHeader {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    pub jump: [u8; 2],
    pub header: [u8; 4],
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}

const _: () = assert!(size_of::<SetupHeader>() == 0x26C - HEADER_OFFSET);

/// Why a file cannot be started as a Linux kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No boot flag or no magic, or too short for them.
    #[error("the kernel is not a bzImage")]
    NotBzImage,
    /// Before [`MINIMUM_PROTOCOL`].
    #[error("the kernel speaks boot protocol {0:#06x}, at least {MINIMUM_PROTOCOL:#06x} is needed")]
    Protocol(u16),
    /// 32-bit, or not to be loaded high.
    #[error("the kernel has no 64-bit entry (xloadflags {0:#x})")]
    No64BitEntry(u16),
    /// The setup part is as long as the file or longer.
    #[error("the kernel file ends within its setup part of {0} bytes")]
    Truncated(u64),
    /// The alignment is no power of two, or absurd.
    #[error("the kernel wants to be aligned to {0:#x}")]
    Alignment(u32),
}

impl SetupHeader {
    /// Reads the header from the first bytes of a kernel file of `file_bytes` bytes.
    pub fn parse(start: &[u8], file_bytes: u64) -> Result<Self, HeaderError> {
        let bytes = start.get(HEADER_OFFSET..).ok_or(HeaderError::NotBzImage)?;
        let (header, _) = Self::read_from_prefix(bytes).map_err(|_| HeaderError::NotBzImage)?;
        header.check(file_bytes)?;
        Ok(header)
    }

    /// Returns the length of the setup part: the file's first bytes, which are not part of the kernel proper.
    #[must_use]
    pub fn setup_bytes(&self) -> u64 {
        // 0 means 4, for reasons of history.
        let sectors = if self.setup_sects == 0 {
            4
        } else {
            self.setup_sects
        };
        (u64::from(sectors) + 1) * SECTOR
    }

    /// Returns how much of the header this protocol version has: the jump over it says so.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        let end = 0x202 + usize::from(self.jump[1]);
        end.saturating_sub(HEADER_OFFSET).min(size_of::<Self>())
    }

    /// Returns whether the kernel runs at any address of its alignment.
    #[must_use]
    pub fn is_relocatable(&self) -> bool {
        self.relocatable_kernel != 0
    }

    fn check(&self, file_bytes: u64) -> Result<(), HeaderError> {
        if self.boot_flag.get() != BOOT_FLAG || self.header != MAGIC {
            return Err(HeaderError::NotBzImage);
        }
        if self.version.get() < MINIMUM_PROTOCOL {
            return Err(HeaderError::Protocol(self.version.get()));
        }
        if self.xloadflags.get() & XLF_KERNEL_64 == 0 || self.loadflags & LOADED_HIGH == 0 {
            return Err(HeaderError::No64BitEntry(self.xloadflags.get()));
        }
        if file_bytes <= self.setup_bytes() + ENTRY_64_OFFSET {
            return Err(HeaderError::Truncated(self.setup_bytes()));
        }
        let alignment = self.kernel_alignment.get();
        if !alignment.is_power_of_two() || !(0x1000..=0x4000_0000).contains(&alignment) {
            return Err(HeaderError::Alignment(alignment));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// A file with the header of a usual kernel: 64-bit, relocatable, preferring 16 MiB.
    pub(crate) fn header() -> SetupHeader {
        let mut header = SetupHeader::read_from_bytes(&[0; size_of::<SetupHeader>()]).unwrap();
        header.setup_sects = 3;
        header.boot_flag = BOOT_FLAG.into();
        header.jump = [0xEB, 0x6A];
        header.header = MAGIC;
        header.version = 0x020F.into();
        header.loadflags = LOADED_HIGH;
        header.initrd_addr_max = 0x7FFF_FFFF.into();
        header.kernel_alignment = 0x20_0000.into();
        header.relocatable_kernel = 1;
        header.xloadflags = 0x7F.into();
        header.cmdline_size = 2047.into();
        header.pref_address = 0x100_0000.into();
        header.init_size = 0x40_0000.into();
        header
    }

    pub(crate) fn file(header: &SetupHeader, kernel: &[u8]) -> Vec<u8> {
        let mut file = vec![0x90; usize::try_from(header.setup_bytes()).unwrap()];
        file[HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
        file.extend_from_slice(kernel);
        file
    }

    fn parse(header: &SetupHeader) -> Result<SetupHeader, HeaderError> {
        let file = file(header, &[0; 0x1000]);
        SetupHeader::parse(&file, file.len() as u64)
    }

    #[test]
    fn usual_kernel_is_taken() {
        let parsed = parse(&header()).unwrap();
        assert_eq!(parsed, header());
        assert_eq!(parsed.setup_bytes(), 0x800);
        assert_eq!(parsed.used_bytes(), 0x26C - 0x1F1);
    }

    #[test]
    fn zero_setup_sectors_mean_four() {
        let header = SetupHeader {
            setup_sects: 0,
            ..header()
        };
        assert_eq!(header.setup_bytes(), 5 * 512);
    }

    #[test]
    fn other_files_are_no_kernel() {
        let elf = [b"\x7fELF".as_slice(), &[0; 0x1000]].concat();
        assert_eq!(
            SetupHeader::parse(&elf, 0x1004),
            Err(HeaderError::NotBzImage)
        );
        assert_eq!(SetupHeader::parse(&[], 0), Err(HeaderError::NotBzImage));
        let short = &file(&header(), &[])[..0x200];
        assert_eq!(
            SetupHeader::parse(short, 0x200),
            Err(HeaderError::NotBzImage)
        );
    }

    #[test]
    fn old_and_32_bit_kernels_are_named() {
        let old = SetupHeader {
            version: 0x0206.into(),
            ..header()
        };
        assert_eq!(parse(&old), Err(HeaderError::Protocol(0x0206)));
        let narrow = SetupHeader {
            xloadflags: 0x2.into(),
            ..header()
        };
        assert_eq!(parse(&narrow), Err(HeaderError::No64BitEntry(0x2)));
    }

    #[test]
    fn kernel_cut_off_in_its_setup_part_is_named() {
        let header = SetupHeader {
            setup_sects: 255,
            ..header()
        };
        let file = file(&header, &[]);
        assert_eq!(
            SetupHeader::parse(&file, 0x1000),
            Err(HeaderError::Truncated(0x2_0000))
        );
    }

    #[test]
    fn absurd_alignments_are_refused() {
        for alignment in [0, 3, 0x800, 0x8000_0000, u32::MAX] {
            let header = SetupHeader {
                kernel_alignment: alignment.into(),
                ..header()
            };
            assert_eq!(parse(&header), Err(HeaderError::Alignment(alignment)));
        }
    }
}
