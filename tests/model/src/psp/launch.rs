//! Launch: policy, pages, digest, finish (SNP ABI 8.16 to 8.18).
//!
//! The digest is a chain: each page hashes a PAGE_INFO with the digest so far (8.17.2, table 75). What is in it by page type:
//! contents' SHA-384 for normal and VMSA pages, zeros for zero, unmeasured, secrets and CPUID pages. Address and type always
//! count, and so does order. A 2 MiB page counts as 512 pages of 4 KiB, which is how a hypervisor launches it. Shared pages
//! are not launched at all. A page of zeros in an image is a *normal* page to IGVM and measured as such; the firmware's own
//! zero page type is only used by those who say so.

use super::Status;
use crate::igvm_file::{IdBlock, IdSignature, PublicKey};
use p384::ecdsa::{Signature, VerifyingKey, signature::Verifier};
use sha2::{Digest, Sha384};
use zerocopy::{Immutable, IntoBytes};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// A SHA-384 digest.
pub type Sha384Digest = [u8; 48];

/// Page types of SNP_LAUNCH_UPDATE (SNP ABI 8.17, table 72).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// Contents measured.
    Normal = 1,
    /// A vCPU's save area, contents measured.
    Vmsa = 2,
    /// Filled with zeros by the firmware.
    Zero = 3,
    /// Contents not measured.
    Unmeasured = 4,
    /// Filled with the secrets by the firmware.
    Secrets = 5,
    /// CPUID answers, checked by the firmware.
    Cpuid = 6,
}

/// Guest policy (SNP ABI 4.3, table 9).
mod policy {
    pub(super) const ABI_MINOR: u64 = 0xFF;
    pub(super) const ABI_MAJOR_SHIFT: u32 = 8;
    pub(super) const RESERVED_ONE: u64 = 1 << 17;
    pub(super) const MIGRATION_AGENT: u64 = 1 << 18;
    pub(super) const CIPHERTEXT_HIDING: u64 = 1 << 24;
    pub(super) const RESERVED: u64 = !((1 << 26) - 1);
}

/// The firmware's ABI version: 1.55.
pub const ABI_MAJOR: u8 = 1;
/// See [`ABI_MAJOR`].
pub const ABI_MINOR: u8 = 55;

/// PAGE_INFO (SNP ABI 8.17.2, table 75).
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct PageInfo {
    digest_current: Sha384Digest,
    contents: Sha384Digest,
    length: u16,
    page_type: u8,
    imi_page: u8,
    /// VMPL3, VMPL2, VMPL1 permissions and a reserved byte: all zero, as KVM launches.
    permissions: [u8; 4],
    gpa: u64,
}

const _: () = assert!(size_of::<PageInfo>() == 0x70);

/// A guest being launched.
#[derive(Clone, Debug)]
pub struct Launch {
    policy: u64,
    digest: Sha384Digest,
}

/// Who the guest says it is, from its ID block; all zero without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Family.
    pub family_id: [u8; 16],
    /// Image.
    pub image_id: [u8; 16],
    /// Security version.
    pub guest_svn: u32,
    /// SHA-384 of the ID key; zero without ID block.
    pub id_key_digest: Sha384Digest,
    /// SHA-384 of the author key, where there is one.
    pub author_key_digest: Option<Sha384Digest>,
}

/// A launched guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Its policy.
    pub policy: u64,
    /// Its launch digest.
    pub measurement: Sha384Digest,
    /// What the host said in launch finish.
    pub host_data: [u8; 32],
    /// From the ID block.
    pub identity: Identity,
}

impl Launch {
    /// SNP_LAUNCH_START: checks the policy (SNP ABI 8.16).
    pub fn start(policy: u64) -> Result<Self, Status> {
        if policy & policy::RESERVED_ONE == 0 || policy & policy::RESERVED != 0 {
            return Err(Status::InvalidParam);
        }
        let version = (
            policy >> policy::ABI_MAJOR_SHIFT & 0xFF,
            policy & policy::ABI_MINOR,
        );
        let too_new = version > (u64::from(ABI_MAJOR), u64::from(ABI_MINOR));
        let unavailable = policy & (policy::CIPHERTEXT_HIDING | policy::MIGRATION_AGENT) != 0;
        if too_new || unavailable {
            return Err(Status::PolicyFailure);
        }
        Ok(Self {
            policy,
            digest: [0; 48],
        })
    }

    /// SNP_LAUNCH_UPDATE of one 4 KiB page: extends the digest. The caller fills secrets and CPUID pages.
    pub fn update(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: &[u8; PAGE_BYTES],
    ) -> Result<(), Status> {
        if !gpa.is_multiple_of(PAGE_BYTES as u64) {
            return Err(Status::InvalidAddress);
        }
        let contents = match page_type {
            PageType::Normal | PageType::Vmsa => Sha384::digest(contents).into(),
            _ => [0; 48],
        };
        let info = PageInfo {
            digest_current: self.digest,
            contents,
            length: 0x70,
            page_type: page_type as u8,
            imi_page: 0,
            permissions: [0; 4],
            gpa,
        };
        self.digest = Sha384::digest(info.as_bytes()).into();
        Ok(())
    }

    /// Returns the digest so far.
    #[must_use]
    pub const fn digest(&self) -> &Sha384Digest {
        &self.digest
    }

    /// SNP_LAUNCH_FINISH: checks the ID block, where one is given (SNP ABI 8.18).
    pub fn finish(
        self,
        id_block: Option<&IdBlock>,
        host_data: [u8; 32],
    ) -> Result<Launched, Status> {
        let identity = match id_block {
            Some(block) => self.check_id_block(block)?,
            None => Identity {
                family_id: [0; 16],
                image_id: [0; 16],
                guest_svn: 0,
                id_key_digest: [0; 48],
                author_key_digest: None,
            },
        };
        Ok(Launched {
            policy: self.policy,
            measurement: self.digest,
            host_data,
            identity,
        })
    }

    fn check_id_block(&self, block: &IdBlock) -> Result<Identity, Status> {
        if block.version != 1 {
            return Err(Status::InvalidParam);
        }
        if block.launch_digest != self.digest {
            return Err(Status::BadMeasurement);
        }
        let id_key = encode_key(&block.id_key);
        check_signature(
            block.id_key_algorithm,
            &block.id_key,
            &block.id_signature,
            &self.encode(block),
        )?;
        let author_key_digest = match &block.author {
            Some((signature, key)) => {
                check_signature(block.author_key_algorithm, key, signature, &id_key)?;
                Some(Sha384::digest(encode_key(key)).into())
            }
            None => None,
        };
        Ok(Identity {
            family_id: block.family_id,
            image_id: block.image_id,
            guest_svn: block.guest_svn,
            id_key_digest: Sha384::digest(id_key).into(),
            author_key_digest,
        })
    }

    /// ID block (SNP ABI 8.18, table 79), the policy being the launch's.
    fn encode(&self, block: &IdBlock) -> [u8; 0x60] {
        let mut bytes = [0; 0x60];
        bytes[..0x30].copy_from_slice(&block.launch_digest);
        bytes[0x30..0x40].copy_from_slice(&block.family_id);
        bytes[0x40..0x50].copy_from_slice(&block.image_id);
        bytes[0x50..0x54].copy_from_slice(&block.version.to_le_bytes());
        bytes[0x54..0x58].copy_from_slice(&block.guest_svn.to_le_bytes());
        bytes[0x58..].copy_from_slice(&self.policy.to_le_bytes());
        bytes
    }
}

/// ECDSA P-384 with SHA-384 (SNP ABI table 137); curve 2 is P-384 (table 138).
const ALGORITHM_ECDSA_P384: u32 = 1;
const CURVE_P384: u32 = 2;
/// Bytes of a public key's format (SNP ABI table 141).
const KEY_BYTES: usize = 0x404;

fn encode_key(key: &PublicKey) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes[..4].copy_from_slice(&key.curve.to_le_bytes());
    bytes[4..0x4C].copy_from_slice(&key.x);
    bytes[0x4C..0x94].copy_from_slice(&key.y);
    bytes
}

fn check_signature(
    algorithm: u32,
    key: &PublicKey,
    signature: &IdSignature,
    message: &[u8],
) -> Result<(), Status> {
    if algorithm != ALGORITHM_ECDSA_P384 || key.curve != CURVE_P384 {
        return Err(Status::InvalidParam);
    }
    let point = p384::Sec1Point::from_affine_coordinates(
        &big_endian(&key.x).into(),
        &big_endian(&key.y).into(),
        false,
    );
    let key = VerifyingKey::from_sec1_point(&point).map_err(|_| Status::BadSignature)?;
    let signature = Signature::from_scalars(big_endian(&signature.r), big_endian(&signature.s))
        .map_err(|_| Status::BadSignature)?;
    key.verify(message, &signature)
        .map_err(|_| Status::BadSignature)
}

/// The firmware's numbers are 72 bytes, least significant first.
fn big_endian(number: &[u8; 72]) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes.copy_from_slice(&number[..48]);
    bytes.reverse();
    bytes
}

#[cfg(test)]
mod tests;
