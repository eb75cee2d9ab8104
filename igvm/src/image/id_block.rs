//! The ID block: who signed the image, for the secure processor to check and to report (SNP firmware ABI, section 8.18, table 79).
//!
//! Signatures are deterministic (RFC 6979), so the same image and key give the same bytes.

use std::path::Path;

use igvm::IgvmDirectiveHeader;
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE};
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::DecodePrivateKey as _;
use sha2::{Digest, Sha384};
use zerocopy::{Immutable, IntoBytes};

use super::error::ImageError;
use super::file::read;
use super::parts::MASK;

/// ECDSA P-384 with SHA-384 (SNP firmware ABI, table 137).
const ALGORITHM: u32 = 1;
/// P-384 (table 138).
const CURVE: u32 = 2;
const VERSION: u32 = 1;
/// Bytes of a number: the first 48 count, least significant first.
const NUMBER: usize = 72;

/// Who an image says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    key: SigningKey,
    /// Images that belong together.
    pub family_id: [u8; 16],
    /// Which of them.
    pub image_id: [u8; 16],
    /// Its security version.
    pub svn: u32,
}

/// What is signed.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Block {
    launch_digest: [u8; 48],
    family_id: [u8; 16],
    image_id: [u8; 16],
    version: u32,
    guest_svn: u32,
    policy: u64,
}

const _: () = assert!(size_of::<Block>() == 0x60);

impl Identity {
    /// Reads the ID key, a P-384 key in PEM (PKCS #8). The family is that of all images with this key.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let text = String::from_utf8(read(path)?).unwrap_or_default();
        let key = SigningKey::from_pkcs8_pem(&text)
            .map_err(|_| ImageError::IdKey { path: path.into() })?;
        let mut family_id = [0; 16];
        family_id.copy_from_slice(&digest(&key)[..16]);
        Ok(Self {
            key,
            family_id,
            image_id: [0; 16],
            svn: 0,
        })
    }

    /// Returns the block of the image with this launch digest and policy.
    pub(super) fn directive(&self, launch_digest: [u8; 48], policy: u64) -> IgvmDirectiveHeader {
        let block = Block {
            launch_digest,
            family_id: self.family_id,
            image_id: self.image_id,
            version: VERSION,
            guest_svn: self.svn,
            policy,
        };
        let signature: Signature = self.key.sign(block.as_bytes());
        let (r, s) = signature.split_bytes();
        IgvmDirectiveHeader::SnpIdBlock {
            compatibility_mask: MASK,
            author_key_enabled: 0,
            reserved: [0; 3],
            ld: launch_digest,
            family_id: self.family_id,
            image_id: self.image_id,
            version: VERSION,
            guest_svn: self.svn,
            id_key_algorithm: ALGORITHM,
            author_key_algorithm: 0,
            id_key_signature: Box::new(IGVM_VHS_SNP_ID_BLOCK_SIGNATURE {
                r_comp: number(&r),
                s_comp: number(&s),
            }),
            id_public_key: Box::new(public_key(&self.key)),
            author_key_signature: Box::new(IGVM_VHS_SNP_ID_BLOCK_SIGNATURE {
                r_comp: [0; NUMBER],
                s_comp: [0; NUMBER],
            }),
            author_public_key: Box::new(IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
                curve: 0,
                reserved: 0,
                qx: [0; NUMBER],
                qy: [0; NUMBER],
            }),
        }
    }
}

fn public_key(key: &SigningKey) -> IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
    let point = key.verifying_key().to_sec1_point(false);
    // An uncompressed point is a byte 4 and two coordinates.
    let (x, y) = point.as_bytes()[1..].split_at(48);
    IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
        curve: CURVE,
        reserved: 0,
        qx: number(x),
        qy: number(y),
    }
}

/// Returns the key's digest, as reports have it: SHA-384 of its 404h bytes (table 141).
fn digest(key: &SigningKey) -> [u8; 48] {
    let key = public_key(key);
    let mut bytes = [0; 0x404];
    bytes[..4].copy_from_slice(&key.curve.to_le_bytes());
    bytes[4..0x4C].copy_from_slice(&key.qx);
    bytes[0x4C..0x94].copy_from_slice(&key.qy);
    Sha384::digest(bytes).into()
}

fn number(big_endian: &[u8]) -> [u8; NUMBER] {
    let mut number = [0; NUMBER];
    for (to, from) in number.iter_mut().zip(big_endian.iter().rev()) {
        *to = *from;
    }
    number
}
