use super::*;
use p384::ecdsa::{SigningKey, signature::Signer};
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};

const POLICY: u64 = 0x3_0000;

/// A firmware file as `sev` wants one: two pages with a footer that names three special ranges.
fn firmware() -> Vec<u8> {
    let mut file: Vec<u8> = (0..8192_u32).map(|at| (at % 251) as u8).collect();
    let mut table = Vec::new();
    let mut entry = |data: &[u8], guid: [u8; 16]| {
        table.extend_from_slice(data);
        table.extend_from_slice(&u16::try_from(data.len() + 18).unwrap().to_le_bytes());
        table.extend_from_slice(&guid);
    };
    let metadata = 0x1000_u32;
    entry(
        &metadata.to_le_bytes(),
        guid("dc886566-984a-4798-a75e-5585a7bf67cc"),
    );
    entry(
        &0xFFFF_FFF0_u32.to_le_bytes(),
        guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e"),
    );
    let footer = table.len() + 18;
    table.extend_from_slice(&u16::try_from(footer).unwrap().to_le_bytes());
    table.extend_from_slice(&guid("96b582de-1fb2-45f7-baea-a366c55a082d"));
    let end = file.len() - 32;
    file[end - table.len()..end].copy_from_slice(&table);
    let sections: [(u32, u32, u8); 3] = [
        (0x80_0000, 0x3000, 1),
        (0x80_3000, 0x1000, 2),
        (0x80_4000, 0x1000, 3),
    ];
    let mut described = b"ASEV".to_vec();
    for number in [16 + 36_u32, 1, 3] {
        described.extend_from_slice(&number.to_le_bytes());
    }
    for (gpa, size, kind) in sections {
        described.extend_from_slice(&gpa.to_le_bytes());
        described.extend_from_slice(&size.to_le_bytes());
        described.extend_from_slice(&[kind, 0, 0, 0]);
    }
    let start = file.len() - 0x1000;
    file[start..start + described.len()].copy_from_slice(&described);
    file
}

fn guid(text: &str) -> [u8; 16] {
    let digits = text.replace('-', "");
    let mut bytes: [u8; 16] =
        core::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap());
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// The oracle is the crate verifiers use: every page type but "unmeasured" goes through it.
#[test]
fn digest_is_that_of_the_independent_calculator() {
    let file = firmware();
    let path = std::env::temp_dir().join(format!("stockade-model-firmware-{}", std::process::id()));
    std::fs::write(&path, &file).unwrap();
    let arguments = SnpMeasurementArgs {
        vcpus: 1,
        vcpu_type: CpuType::EpycMilan,
        ovmf_file: path.clone(),
        guest_features: GuestFeatures(1),
        kernel_file: None,
        initrd_file: None,
        append: None,
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    };
    let expected = snp_calc_launch_digest(arguments).unwrap();
    std::fs::remove_file(&path).unwrap();

    let vmsa = VMSA::new(
        0xFFFF_FFF0,
        CpuType::EpycMilan,
        VMMType::QEMU,
        Some(1),
        GuestFeatures(1),
    );
    let vmsa: [u8; 4096] = vmsa.pages(1).unwrap().remove(0).try_into().unwrap();
    let mut launch = Launch::start(POLICY).unwrap();
    for (at, page) in file.as_chunks().0.iter().enumerate() {
        launch
            .update(PageType::Normal, 0xFFFF_E000 + 0x1000 * at as u64, page)
            .unwrap();
    }
    for gpa in [0x80_0000, 0x80_1000, 0x80_2000] {
        launch.update(PageType::Zero, gpa, &[0; 4096]).unwrap();
    }
    launch
        .update(PageType::Secrets, 0x80_3000, &[0; 4096])
        .unwrap();
    launch
        .update(PageType::Cpuid, 0x80_4000, &[0; 4096])
        .unwrap();
    launch
        .update(PageType::Vmsa, 0xFFFF_FFFF_F000, &vmsa)
        .unwrap();
    assert_eq!(hex::encode(launch.digest()), expected.get_hex_ld());
}

#[test]
fn only_contents_of_measured_pages_count() {
    let digest = |page_type, fill| {
        let mut launch = Launch::start(POLICY).unwrap();
        launch.update(page_type, 0x1000, &[fill; 4096]).unwrap();
        *launch.digest()
    };
    for (page_type, is_measured) in [
        (PageType::Normal, true),
        (PageType::Vmsa, true),
        (PageType::Zero, false),
        (PageType::Unmeasured, false),
        (PageType::Secrets, false),
        (PageType::Cpuid, false),
    ] {
        assert_eq!(
            digest(page_type, 1) != digest(page_type, 2),
            is_measured,
            "{page_type:?}"
        );
    }
}

#[test]
fn address_type_and_order_count() {
    let digest = |pages: &[(PageType, u64)]| {
        let mut launch = Launch::start(POLICY).unwrap();
        for (page_type, gpa) in pages {
            launch.update(*page_type, *gpa, &[0; 4096]).unwrap();
        }
        *launch.digest()
    };
    let one = digest(&[(PageType::Normal, 0x1000), (PageType::Zero, 0x2000)]);
    assert_ne!(
        one,
        digest(&[(PageType::Zero, 0x2000), (PageType::Normal, 0x1000)])
    );
    assert_ne!(
        one,
        digest(&[(PageType::Normal, 0x3000), (PageType::Zero, 0x2000)])
    );
    assert_ne!(
        one,
        digest(&[(PageType::Normal, 0x1000), (PageType::Unmeasured, 0x2000)])
    );
}

#[test]
fn policies_the_platform_cannot_keep_are_refused() {
    let refused = |policy| Launch::start(policy).err();
    assert_eq!(refused(POLICY), None);
    assert_eq!(refused(POLICY | 1 << 19), None, "debug is allowed");
    assert_eq!(
        refused(0x1_0000),
        Some(Status::InvalidParam),
        "bit 17 must be one"
    );
    assert_eq!(
        refused(POLICY | 1 << 26),
        Some(Status::InvalidParam),
        "reserved"
    );
    assert_eq!(
        refused(POLICY | 0x01_38),
        Some(Status::PolicyFailure),
        "ABI 1.56"
    );
    assert_eq!(refused(POLICY | 0x01_37), None, "ABI 1.55");
    assert_eq!(
        refused(POLICY | 0x02_00),
        Some(Status::PolicyFailure),
        "ABI 2.0"
    );
    assert_eq!(
        refused(POLICY | 1 << 24),
        Some(Status::PolicyFailure),
        "ciphertext hiding"
    );
}

#[test]
fn unaligned_page_is_refused() {
    let mut launch = Launch::start(POLICY).unwrap();
    assert_eq!(
        launch.update(PageType::Normal, 0x1001, &[0; 4096]),
        Err(Status::InvalidAddress)
    );
}

fn little_endian(bytes: &[u8]) -> [u8; 72] {
    let mut number = [0; 72];
    number[..48].copy_from_slice(bytes);
    number[..48].reverse();
    number
}

fn public(key: &SigningKey) -> PublicKey {
    let point = key.verifying_key().to_sec1_point(false);
    let bytes = point.as_bytes();
    PublicKey {
        curve: 2,
        x: little_endian(&bytes[1..49]),
        y: little_endian(&bytes[49..]),
    }
}

fn sign(key: &SigningKey, message: &[u8]) -> IdSignature {
    let signature: Signature = key.sign(message);
    let (r, s) = signature.split_bytes();
    IdSignature {
        r: little_endian(&r),
        s: little_endian(&s),
    }
}

fn launched_with_block(change: impl Fn(&mut IdBlock)) -> Result<Launched, Status> {
    let id_key = SigningKey::from_slice(&[1; 48]).unwrap();
    let author_key = SigningKey::from_slice(&[2; 48]).unwrap();
    let mut launch = Launch::start(POLICY).unwrap();
    launch.update(PageType::Normal, 0x1000, &[7; 4096]).unwrap();
    let mut block = IdBlock {
        launch_digest: *launch.digest(),
        family_id: [3; 16],
        image_id: [4; 16],
        version: 1,
        guest_svn: 5,
        id_key_algorithm: 1,
        author_key_algorithm: 1,
        id_signature: IdSignature {
            r: [0; 72],
            s: [0; 72],
        },
        id_key: public(&id_key),
        author: Some((
            sign(&author_key, &encode_key(&public(&id_key))),
            public(&author_key),
        )),
    };
    block.id_signature = sign(&id_key, &launch.encode(&block));
    change(&mut block);
    launch.finish(Some(&block), [6; 32])
}

#[test]
fn signed_id_block_gives_the_guest_its_identity() {
    let launched = launched_with_block(|_| ()).unwrap();
    assert_eq!(launched.identity.family_id, [3; 16]);
    assert_eq!(launched.identity.image_id, [4; 16]);
    assert_eq!(launched.identity.guest_svn, 5);
    assert_ne!(launched.identity.id_key_digest, [0; 48]);
    assert!(launched.identity.author_key_digest.is_some());
    assert_eq!(launched.host_data, [6; 32]);
}

#[test]
fn id_block_that_does_not_fit_is_refused() {
    let refused = |change: fn(&mut IdBlock)| launched_with_block(change).err();
    assert_eq!(
        refused(|block| block.launch_digest[0] ^= 1),
        Some(Status::BadMeasurement)
    );
    assert_eq!(
        refused(|block| block.guest_svn = 6),
        Some(Status::BadSignature)
    );
    assert_eq!(
        refused(|block| block.version = 2),
        Some(Status::InvalidParam)
    );
    assert_eq!(
        refused(|block| block.id_key.curve = 1),
        Some(Status::InvalidParam)
    );
    assert_eq!(
        refused(|block| block.id_key.x[0] ^= 1),
        Some(Status::BadSignature)
    );
    assert_eq!(
        refused(|block| block.id_signature.r = [0; 72]),
        Some(Status::BadSignature)
    );
    assert_eq!(
        refused(|block| block.author.as_mut().unwrap().0.s[0] ^= 1),
        Some(Status::BadSignature)
    );
    assert_eq!(refused(|block| block.author = None), None);
}
