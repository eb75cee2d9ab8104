use super::*;
use igvm::{Arch, IgvmDirectiveHeader, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IgvmPageDataFlags, IgvmPageDataType, SnpPolicy,
};
use proptest::prelude::*;

fn platform(kind: IgvmPlatformType, mask: u32) -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: mask,
        highest_vtl: 0,
        platform_type: kind,
        platform_version: 1,
        shared_gpa_boundary: 0x4000_0000_0000,
    })
}

fn page(
    gpa: u64,
    mask: u32,
    data_type: IgvmPageDataType,
    flags: IgvmPageDataFlags,
    data: &[u8],
) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: mask,
        flags,
        data_type,
        data: data.to_vec(),
    }
}

fn directives() -> Vec<IgvmDirectiveHeader> {
    let none = IgvmPageDataFlags::new();
    vec![
        page(0x1000, 1, IgvmPageDataType::NORMAL, none, &[0xA5; 4096]),
        page(
            0x2000,
            1,
            IgvmPageDataType::NORMAL,
            none.with_unmeasured(true),
            &[1; 4096],
        ),
        page(0x3000, 1, IgvmPageDataType::SECRETS, none, &[]),
        page(0x4000, 1, IgvmPageDataType::CPUID_DATA, none, &[]),
        page(
            0x8000_0000,
            1,
            IgvmPageDataType::NORMAL,
            none.with_shared(true).with_unmeasured(true),
            &[2; 4096],
        ),
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 0x1000,
            parameter_area_index: 0,
            initial_data: vec![],
        },
        IgvmDirectiveHeader::VpCount(IGVM_VHS_PARAMETER {
            parameter_area_index: 0,
            byte_offset: 0,
        }),
        IgvmDirectiveHeader::MemoryMap(IGVM_VHS_PARAMETER {
            parameter_area_index: 0,
            byte_offset: 0x100,
        }),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: 0x5000,
            compatibility_mask: 1,
            parameter_area_index: 0,
        }),
        IgvmDirectiveHeader::RequiredMemory {
            gpa: 0x10_0000,
            compatibility_mask: 1,
            number_of_bytes: 0x10_0000,
            vtl2_protectable: false,
        },
        IgvmDirectiveHeader::SnpVpContext {
            gpa: 0xFFFF_FFFF_F000,
            compatibility_mask: 1,
            vp_index: 0,
            vmsa: Box::new(zerocopy::FromZeros::new_zeroed()),
        },
    ]
}

fn serialize(revision: IgvmRevision, directives: Vec<IgvmDirectiveHeader>) -> Vec<u8> {
    let policy = IgvmInitializationHeader::GuestPolicy {
        policy: SnpPolicy::new().with_smt(1).into(),
        compatibility_mask: 1,
    };
    let platforms = vec![platform(IgvmPlatformType::SEV_SNP, 1)];
    let file = igvm::IgvmFile::new(revision, platforms, vec![policy], directives).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    bytes
}

fn sample() -> Vec<u8> {
    serialize(IgvmRevision::V1, directives())
}

/// Mends the checksum of a file whose headers a test has changed.
fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[20..24].fill(0);
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (start, size) = (field(8), field(12));
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..if field(4) == 2 { 32 } else { 24 }]);
    hasher.update(&bytes[start..start + size]);
    let sum = hasher.finalize();
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn file_of_the_reference_writer_is_read_in_order() {
    let bytes = sample();
    let file = IgvmFile::parse(&bytes).unwrap();
    assert_eq!(file.platform.shared_gpa_boundary, 0x4000_0000_0000);
    assert_eq!(file.policy, Some(0x3_0000));
    let kinds: Vec<String> = file.directives.iter().map(describe).collect();
    let expected = [
        "0x1000 Normal a5",
        "0x2000 Unmeasured 1",
        "0x3000 Secrets -",
        "0x4000 Cpuid -",
        "0x80000000 Shared 2",
        "area 0 0x1000",
        "VpCount 0 0x0",
        "MemoryMap 0 0x100",
        "insert 0 0x5000",
        "memory 0x100000 0x100000",
        "vp 0 0xfffffffff000",
    ];
    assert_eq!(kinds, expected);
}

fn describe(directive: &Directive<'_>) -> String {
    match directive {
        Directive::PageData(page) => {
            let first = page
                .data
                .first()
                .map_or("-".into(), |byte| format!("{byte:x}"));
            assert!(page.data.is_empty() || page.data.len() == 4096);
            format!("{:#x} {:?} {first}", page.gpa, page.kind)
        }
        Directive::ParameterArea { index, bytes, .. } => format!("area {index} {bytes:#x}"),
        Directive::Parameter {
            parameter,
            area,
            offset,
        } => format!("{parameter:?} {area} {offset:#x}"),
        Directive::ParameterInsert { area, gpa } => format!("insert {area} {gpa:#x}"),
        Directive::VpContext { gpa, vp_index, .. } => format!("vp {vp_index} {gpa:#x}"),
        Directive::RequiredMemory { gpa, bytes } => format!("memory {gpa:#x} {bytes:#x}"),
        Directive::ErrorRange { gpa, bytes } => format!("errors {gpa:#x} {bytes:#x}"),
        Directive::IdBlock(block) => format!("id {:?}", block.guest_svn),
    }
}

#[test]
fn version_2_is_read_too() {
    let revision = IgvmRevision::V2 {
        arch: Arch::X64,
        page_size: 4096,
    };
    let bytes = serialize(revision, directives());
    assert_eq!(IgvmFile::parse(&bytes).unwrap().directives.len(), 11);
    let mut other = bytes.clone();
    other[24] = 1;
    assert_eq!(IgvmFile::parse(&other).err(), Some(Error::Architecture(1)));
}

#[test]
fn bytes_after_the_file_are_ignored() {
    let mut bytes = sample();
    bytes.extend_from_slice(&[0xEE; 100]);
    assert_eq!(IgvmFile::parse(&bytes).unwrap().directives.len(), 11);
}

#[test]
fn headers_of_other_platforms_are_skipped() {
    let mut all = directives();
    all.push(page(
        0x7000,
        2,
        IgvmPageDataType::NORMAL,
        IgvmPageDataFlags::new(),
        &[9; 4096],
    ));
    let policy = IgvmInitializationHeader::GuestPolicy {
        policy: 0x3_0000,
        compatibility_mask: 1,
    };
    let platforms = vec![
        platform(IgvmPlatformType::SEV_SNP, 1),
        platform(IgvmPlatformType::TDX, 2),
    ];
    let file = igvm::IgvmFile::new(IgvmRevision::V1, platforms, vec![policy], all).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    assert_eq!(IgvmFile::parse(&bytes).unwrap().directives.len(), 11);
}

#[test]
fn file_for_another_platform_is_refused() {
    let policy = IgvmInitializationHeader::GuestPolicy {
        policy: 0x3_0000,
        compatibility_mask: 1,
    };
    let platforms = vec![platform(IgvmPlatformType::TDX, 1)];
    let pages = vec![page(
        0x1000,
        1,
        IgvmPageDataType::NORMAL,
        IgvmPageDataFlags::new(),
        &[9; 4096],
    )];
    let file = igvm::IgvmFile::new(IgvmRevision::V1, platforms, vec![policy], pages).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    assert_eq!(IgvmFile::parse(&bytes).err(), Some(Error::NotForSnp));
}

/// Every bit of the headers is under the checksum, so a change anywhere is noticed.
#[test]
fn any_changed_header_byte_is_refused() {
    let bytes = sample();
    let headers = 24 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    for at in 0..headers {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(IgvmFile::parse(&changed).is_err(), "{at:#x}");
    }
}

#[test]
fn cut_file_is_refused_at_every_length() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert!(IgvmFile::parse(&bytes[..len]).is_err(), "{len:#x}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let change = |at: usize, value: u32| {
        let mut bytes = sample();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        IgvmFile::parse(&reseal(bytes)).err().unwrap()
    };
    assert_eq!(IgvmFile::parse(b"MZ").err(), Some(Error::CutShort));
    assert_eq!(IgvmFile::parse(&[0; 64]).err(), Some(Error::Magic(0)));
    assert_eq!(change(4, 9), Error::Version(9));
    // The first variable header is at 0x18: platform, 16 bytes; then the policy at 0x30, then pages at 0x48.
    assert_eq!(
        change(0x18, 0x99),
        Error::UnknownHeader {
            at: 0x18,
            kind: 0x99
        }
    );
    assert_eq!(
        change(0x1C, 8),
        Error::HeaderLength {
            at: 0x18,
            kind: 1,
            length: 8
        }
    );
    assert_eq!(change(0x1C, 0x7FFF_FFF0), Error::HeaderBounds { at: 0x18 });
    assert_eq!(change(0x20, 3), Error::CompatibilityMask { at: 0x18 });
    assert_eq!(change(0x48, 1), Error::SectionOrder { at: 0x48 });
    assert_eq!(change(0x50, 0x1001), Error::Range { at: 0x48 });
    assert_eq!(
        change(0x5C, 0xFFFF_F000),
        Error::Contents {
            at: 0x48,
            offset: 0xFFFF_F000
        }
    );
    assert_eq!(
        change(0x60, 0x80),
        Error::Page {
            gpa: 0x1000,
            flags: 0x80,
            kind: 0
        }
    );
    assert_eq!(
        change(0x64, 7),
        Error::Page {
            gpa: 0x1000,
            flags: 0,
            kind: 7
        }
    );
}

#[test]
fn id_block_is_read_with_its_author() {
    use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE};
    let signature = |fill| IGVM_VHS_SNP_ID_BLOCK_SIGNATURE {
        r_comp: [fill; 72],
        s_comp: [fill + 1; 72],
    };
    let key = |fill| IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
        curve: 2,
        reserved: 0,
        qx: [fill; 72],
        qy: [fill + 1; 72],
    };
    let mut all = directives();
    all.push(IgvmDirectiveHeader::SnpIdBlock {
        compatibility_mask: 1,
        author_key_enabled: 1,
        reserved: [0; 3],
        ld: [1; 48],
        family_id: [2; 16],
        image_id: [3; 16],
        version: 1,
        guest_svn: 9,
        id_key_algorithm: 1,
        author_key_algorithm: 1,
        id_key_signature: Box::new(signature(10)),
        id_public_key: Box::new(key(20)),
        author_key_signature: Box::new(signature(30)),
        author_public_key: Box::new(key(40)),
    });
    let bytes = serialize(IgvmRevision::V1, all);
    let file = IgvmFile::parse(&bytes).unwrap();
    let Some(Directive::IdBlock(block)) = file.directives.last() else {
        unreachable!("the ID block")
    };
    assert_eq!(
        (block.launch_digest, block.family_id, block.image_id),
        ([1; 48], [2; 16], [3; 16])
    );
    assert_eq!((block.version, block.guest_svn), (1, 9));
    assert_eq!(
        block.id_signature,
        IdSignature {
            r: [10; 72],
            s: [11; 72]
        }
    );
    assert_eq!(
        block.id_key,
        PublicKey {
            curve: 2,
            x: [20; 72],
            y: [21; 72]
        }
    );
    let author = (
        IdSignature {
            r: [30; 72],
            s: [31; 72],
        },
        PublicKey {
            curve: 2,
            x: [40; 72],
            y: [41; 72],
        },
    );
    assert_eq!(block.author, Some(author));
}

#[test]
fn second_policy_is_refused() {
    let mut bytes = sample();
    let policy = bytes[0x30..0x48].to_vec();
    bytes.splice(0x48..0x48, policy);
    for at in [12, 16] {
        let size = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + 24;
        bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
    }
    assert_eq!(
        IgvmFile::parse(&reseal(bytes)).err(),
        Some(Error::Duplicate { at: 0x48 })
    );
}

#[test]
fn optional_unknown_header_is_skipped() {
    let mut bytes = sample();
    bytes[0x48..0x4C].copy_from_slice(&0x8000_03FF_u32.to_le_bytes());
    assert_eq!(
        IgvmFile::parse(&reseal(bytes)).unwrap().directives.len(),
        10
    );
}

#[test]
fn large_page_has_two_mebibytes_and_their_alignment() {
    let mut bytes = sample();
    bytes[0x60] = 1;
    assert_eq!(
        IgvmFile::parse(&reseal(bytes.clone())).err(),
        Some(Error::Range { at: 0x48 })
    );
    bytes[0x50..0x58].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    assert!(matches!(
        IgvmFile::parse(&reseal(bytes.clone())).err(),
        Some(Error::Contents { at: 0x48, .. })
    ));
    bytes[0x5C..0x60].fill(0);
    let bytes = reseal(bytes);
    let file = IgvmFile::parse(&bytes).unwrap();
    let Directive::PageData(page) = file.directives[0] else {
        unreachable!("a page")
    };
    assert!(page.large && page.data.is_empty() && page.size() == 0x20_0000);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = IgvmFile::parse(&bytes);
    }

    /// With the checksum mended, changes reach every parser behind it.
    #[test]
    fn no_header_makes_the_parser_panic(changes in proptest::collection::vec((24_usize..500, any::<u8>()), 1..8)) {
        let mut bytes = sample();
        for (at, value) in changes {
            bytes[at] = value;
        }
        let _ = IgvmFile::parse(&reseal(bytes));
    }
}
