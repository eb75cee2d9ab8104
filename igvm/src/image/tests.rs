//! Whole images, and a paravisor and a kernel to make them of.

use object::elf;
use stockade_boot::layout::{self, paravisor};
use stockade_boot::manifest::{ManifestError, PayloadKind};

use super::*;
use igvm::IgvmDirectiveHeader;

/// A loadable segment of an ELF file to be.
pub(crate) struct ElfSegment {
    pub(crate) address: u64,
    pub(crate) content: Vec<u8>,
    pub(crate) memory: u64,
    pub(crate) flags: u32,
}

/// Returns a static x86-64 executable of these segments, without sections.
pub(crate) fn elf_file(entry: u64, segments: &[ElfSegment]) -> Vec<u8> {
    let mut file = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(elf::ET_EXEC.to_le_bytes());
    file.extend(elf::EM_X86_64.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64_u64.to_le_bytes()); // program headers
    file.extend(0_u64.to_le_bytes()); // section headers
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, u16::try_from(segments.len()).unwrap(), 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for segment in segments {
        let len = segment.content.len() as u64;
        file.extend(elf::PT_LOAD.to_le_bytes());
        file.extend(segment.flags.to_le_bytes());
        for word in [
            offset,
            segment.address,
            segment.address,
            len,
            segment.memory,
            1,
        ] {
            file.extend(word.to_le_bytes());
        }
        offset += len;
    }
    file.extend(segments.iter().flat_map(|segment| segment.content.clone()));
    file
}

/// Returns a paravisor of three pages with content, and a `.bss`.
pub(crate) fn paravisor_file() -> Vec<u8> {
    let base = paravisor::IMAGE_BASE;
    let text = ElfSegment {
        address: base,
        content: vec![0x90; 0x1234],
        memory: 0x1234,
        flags: elf::PF_R | elf::PF_X,
    };
    let data = ElfSegment {
        address: base + 0x2000,
        content: vec![0x55; 0x10],
        memory: 0x8000,
        flags: elf::PF_R | elf::PF_W,
    };
    elf_file(base + 0x10, &[text, data])
}

/// Returns a file that is a bzImage by its header.
pub(crate) fn kernel_file() -> Vec<u8> {
    let mut file = vec![0; 0x3000];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1F1, &[3]);
    put(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(0x202, b"HdrS");
    put(0x206, &0x020F_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &0x7F_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    put(0x800, &[0xCC; 0x2800]);
    file
}

pub(crate) fn options() -> BuildOptions {
    let mut options = BuildOptions::new(paravisor_file(), kernel_file());
    options.initrd = Some(vec![7; 0x1801]);
    options.command_line = "console=ttyS0".into();
    options.max_vcpus = 4;
    options
}

pub(crate) fn image() -> Image {
    Image::parse("test", &build(&options()).unwrap()).unwrap()
}

fn page_data(image: &Image, at: u64) -> Vec<u8> {
    let page = image.directives().find_map(|directive| match directive {
        IgvmDirectiveHeader::PageData { gpa, data, .. } if *gpa == at => Some(data.clone()),
        _ => None,
    });
    page.unwrap()
}

fn last_vmsa(image: &Image) -> (u64, u16, &igvm::snp_defs::SevVmsa) {
    let vmsa = image
        .directives()
        .last()
        .and_then(|directive| match directive {
            IgvmDirectiveHeader::SnpVpContext {
                gpa,
                vp_index,
                vmsa,
                ..
            } => Some((*gpa, *vp_index, &**vmsa)),
            _ => None,
        });
    vmsa.unwrap()
}

#[test]
fn same_options_give_the_same_bytes() {
    assert_eq!(build(&options()).unwrap(), build(&options()).unwrap());
}

#[test]
fn manifest_describes_what_is_staged() {
    use sha2::Digest as _;
    let image = image();
    let page = page_data(&image, paravisor::MANIFEST_PAGE);
    let manifest = stockade_boot::manifest::Manifest::parse(&page).unwrap();
    assert_eq!(manifest.max_vcpus(), 4);
    let initrd = manifest.payload(PayloadKind::INITRD).unwrap();
    let mut staged = page_data(&image, initrd.gpa.get());
    staged.extend(page_data(&image, initrd.gpa.get() + 0x1000));
    staged.truncate(usize::try_from(initrd.len_bytes.get()).unwrap());
    assert_eq!(staged, vec![7; 0x1801]);
    assert_eq!(initrd.sha384[..], sha2::Sha384::digest(&staged)[..]);
}

#[test]
fn payload_is_shared_and_everything_else_private() {
    for directive in image().directives() {
        if let IgvmDirectiveHeader::PageData { gpa, flags, .. } = directive {
            let is_staging = (layout::STAGING_BASE..layout::STAGING_END).contains(gpa);
            assert_eq!(
                (flags.shared(), flags.unmeasured()),
                (is_staging, is_staging)
            );
        }
    }
}

#[test]
fn vmsa_is_last_and_as_the_architecture_says() {
    let image = image();
    let (gpa, vp_index, vmsa) = last_vmsa(&image);
    assert_eq!((gpa, vp_index), (0xFFFF_FFFF_F000, 0));
    assert_eq!(vmsa.rip, paravisor::IMAGE_BASE + 0x10);
    assert_eq!(vmsa.rsp, 0x80_0001_0000);
    assert_eq!(vmsa.cr3, 0x80_0000_1000 | 1 << 51);
    assert_eq!(vmsa.efer, 0x1D00);
    assert_eq!(u64::from(vmsa.sev_features), 0b10_1001);
    assert_eq!((vmsa.cs.selector, vmsa.cs.attrib), (0x10, 0xA9B));
    assert_eq!((vmsa.xcr0, vmsa.dr7, vmsa.rflags), (1, 0x400, 2));
}

#[test]
fn no_page_is_given_twice() {
    let mut pages = std::collections::BTreeSet::new();
    for directive in image().directives() {
        if let IgvmDirectiveHeader::PageData { gpa, .. } = directive {
            assert!(pages.insert(*gpa), "{gpa:#x}");
        }
    }
}

#[test]
fn impossible_options_are_named() {
    let mut nul = options();
    nul.command_line.push('\0');
    assert!(matches!(build(&nul), Err(ImageError::CommandLineNul)));
    let many = BuildOptions {
        max_vcpus: 256,
        ..options()
    };
    assert!(matches!(
        build(&many),
        Err(ImageError::Manifest(ManifestError::Vcpus(256)))
    ));
    let no_kernel = BuildOptions {
        kernel: b"\x7fELF".to_vec(),
        ..options()
    };
    assert!(matches!(build(&no_kernel), Err(ImageError::Kernel(_))));
    let no_paravisor = BuildOptions {
        paravisor: Vec::new(),
        ..options()
    };
    assert!(matches!(
        build(&no_paravisor),
        Err(ImageError::Paravisor(_))
    ));
}

#[test]
fn enlightened_image_covers_all_memory_once() {
    const MEMORY: u64 = 64 << 20;
    let mut options = EnlightenedOptions::new(kernel_file(), MEMORY);
    options.initrd = Some(vec![3; 0x5001]);
    options.command_line = "acpi=off".into();
    for zero_pages in [ZeroPages::Large, ZeroPages::Small] {
        options.zero_pages = zero_pages;
        let image = Image::parse("test", &enlightened(&options).unwrap()).unwrap();
        let mut covered = vec![false; usize::try_from(MEMORY / 0x1000).unwrap()];
        let mut has_large = false;
        for directive in image.directives() {
            let IgvmDirectiveHeader::PageData { gpa, flags, .. } = directive else {
                continue;
            };
            has_large |= flags.is_2mb_page();
            let pages = if flags.is_2mb_page() { 512 } else { 1 };
            for page in 0..pages {
                let slot = &mut covered[usize::try_from(gpa / 0x1000 + page).unwrap()];
                assert!(!std::mem::replace(slot, true), "{gpa:#x} twice");
            }
        }
        assert!(covered.iter().all(|covered| *covered));
        assert_eq!(has_large, zero_pages == ZeroPages::Large);
    }
}

#[test]
fn enlightened_kernel_finds_its_blob() {
    let options = EnlightenedOptions::new(kernel_file(), 64 << 20);
    let image = Image::parse("test", &enlightened(&options).unwrap()).unwrap();
    let word = |page: &[u8], at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let zero_page = page_data(&image, layout::guest::ZERO_PAGE);
    let node = word(&zero_page, 0x250);
    assert_eq!(node, 0xE_3100);
    let page = page_data(&image, 0xE_3000);
    // A lone SETUP_CC_BLOB node naming the blob at the start of its page.
    assert_eq!((word(&page, 0x100), word(&page, 0x108)), (0, 4 << 32 | 7));
    assert_eq!(page[0x110..0x114], 0xE_3000_u32.to_le_bytes());
    assert_eq!(&page[..4], b"AMDE");
    assert_eq!((word(&page, 8), word(&page, 24)), (0xE_1000, 0xE_2000));
    let (_, _, vmsa) = last_vmsa(&image);
    assert_eq!((vmsa.rip, vmsa.rsi), (0x100_0200, layout::guest::ZERO_PAGE));
    assert_eq!(vmsa.cr3, layout::guest::PAGE_TABLES | 1 << 51);
    assert_eq!(u64::from(vmsa.sev_features), 1);
}

#[test]
fn files_that_are_no_image_are_named_with_a_remedy() {
    let text = |bytes: &[u8]| Image::parse("x.igvm", bytes).unwrap_err().to_string();
    assert!(text(b"hello").starts_with("x.igvm is not an IGVM file"));
    assert!(text(&[]).starts_with("x.igvm is not an IGVM file"));
    let image = build(&options()).unwrap();
    assert!(text(&image[..image.len() / 2]).contains("bytes but should have"));
    let mut flipped = image.clone();
    flipped[0x60] ^= 1;
    assert!(text(&flipped).contains("is damaged"));
}

#[test]
fn image_for_another_platform_is_named() {
    let mut image = build(&options()).unwrap();
    // The platform type lies behind the fixed header (24), the head (8) and mask and level (5).
    image[24 + 8 + 5] = 3;
    let text = Image::parse("x.igvm", &reseal(image))
        .unwrap_err()
        .to_string();
    assert!(text.contains("is for TDX, not for SEV-SNP"), "{text}");
}

/// Returns the file with a checksum that fits, as an attacker would send it.
fn reseal(mut file: Vec<u8>) -> Vec<u8> {
    let end = 24 + usize::try_from(u32::from_le_bytes(file[12..16].try_into().unwrap())).unwrap();
    file[20..24].fill(0);
    let checksum = crc32fast::hash(&file[..end]);
    file[20..24].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// Whatever stands in the headers, reading ends with an image or an error, never in a panic.
#[test]
fn garbled_headers_never_panic() {
    let mut small = options();
    small.kernel.truncate(0x1800);
    small.initrd = None;
    let image = build(&small).unwrap();
    let end = 24 + usize::try_from(u32::from_le_bytes(image[12..16].try_into().unwrap())).unwrap();
    for offset in 0..end {
        for value in [0x01, 0xFF] {
            let mut garbled = image.clone();
            garbled[offset] = value;
            let garbled = if (12..24).contains(&offset) {
                garbled
            } else {
                reseal(garbled)
            };
            if let Ok(image) = Image::parse("x", &garbled) {
                assert!(!crate::inspect::describe(&image).is_empty());
            }
        }
    }
}

#[test]
fn writing_replaces_the_whole_file_and_leaves_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.igvm");
    write(&path, b"old").unwrap();
    write(&path, b"new and longer").unwrap();
    assert_eq!(read(&path).unwrap(), b"new and longer");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let missing = directory.path().join("no/such/x.igvm");
    let text = write(&missing, b"").unwrap_err().to_string();
    assert!(
        text.starts_with("cannot write") && text.contains("no/such"),
        "{text}"
    );
}

/// Returns a multiboot kernel of a header and nothing else.
fn multiboot_file() -> Vec<u8> {
    let mut header = Vec::new();
    for word in [0x1BAD_B002_u32, 0, 0_u32.wrapping_sub(0x1BAD_B002)] {
        header.extend(word.to_le_bytes());
    }
    let segment = ElfSegment {
        address: 0x10_0000,
        content: header,
        memory: 0x1000,
        flags: elf::PF_R | elf::PF_X,
    };
    elf_file(0x10_0000, &[segment])
}

#[test]
fn modules_are_staged_in_order_with_their_words() {
    let module = |content: &[u8], words: &str| Module {
        content: content.to_vec(),
        command_line: words.into(),
    };
    let mut options = options();
    options.kernel = multiboot_file();
    options.modules = vec![module(b"first", "a b"), module(b"second", "")];
    let image = Image::parse("test", &build(&options).unwrap()).unwrap();
    let page = page_data(&image, paravisor::MANIFEST_PAGE);
    let manifest = stockade_boot::manifest::Manifest::parse(&page).unwrap();
    let modules: Vec<_> = manifest
        .modules()
        .map(|(file, words)| {
            (
                file.kind,
                file.len_bytes.get(),
                words.map(|w| w.len_bytes.get()),
            )
        })
        .collect();
    let expected = [
        (PayloadKind::MODULE, 5, Some(3)),
        (PayloadKind::MODULE, 6, None),
        (PayloadKind::INITRD, 0x1801, None),
    ];
    assert_eq!(modules, expected);
}

#[test]
fn kernel_of_no_format_is_refused() {
    let mut options = options();
    options.kernel = vec![0; 0x4000];
    let text = build(&options).unwrap_err().to_string();
    assert!(text.contains("neither a bzImage nor"), "{text}");
}
