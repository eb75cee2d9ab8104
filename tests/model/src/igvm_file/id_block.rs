//! The SNP ID block: who signed the image, for launch finish.

use super::Error;
use super::header::VariableHeader;
use igvm_defs::{
    IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE,
};

/// The ID block with its signatures (SNP ABI 8.18, table 79).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// Expected launch digest.
    pub launch_digest: [u8; 48],
    /// Family.
    pub family_id: [u8; 16],
    /// Image.
    pub image_id: [u8; 16],
    /// Version of the block: 1.
    pub version: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Algorithm of the ID key: 1 is ECDSA P-384 with SHA-384.
    pub id_key_algorithm: u32,
    /// Algorithm of the author key.
    pub author_key_algorithm: u32,
    /// Signature of the block.
    pub id_signature: IdSignature,
    /// Its key.
    pub id_key: PublicKey,
    /// Author's signature of the ID key, and the author's key.
    pub author: Option<(IdSignature, PublicKey)>,
}

/// R and S, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSignature {
    /// R.
    pub r: [u8; 72],
    /// S.
    pub s: [u8; 72],
}

impl From<IGVM_VHS_SNP_ID_BLOCK_SIGNATURE> for IdSignature {
    fn from(raw: IGVM_VHS_SNP_ID_BLOCK_SIGNATURE) -> Self {
        Self {
            r: raw.r_comp,
            s: raw.s_comp,
        }
    }
}

/// A point on a curve, coordinates little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Curve: 2 is P-384.
    pub curve: u32,
    /// X.
    pub x: [u8; 72],
    /// Y.
    pub y: [u8; 72],
}

impl From<IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY> for PublicKey {
    fn from(raw: IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> Self {
        Self {
            curve: raw.curve,
            x: raw.qx,
            y: raw.qy,
        }
    }
}

impl IdBlock {
    /// Reads a block; `None` for one for other platforms than those in `mask`.
    pub(super) fn read(header: &VariableHeader<'_>, mask: u32) -> Result<Option<Self>, Error> {
        let found: IGVM_VHS_SNP_ID_BLOCK = header.read()?;
        if found.compatibility_mask & mask == 0 {
            return Ok(None);
        }
        let author = (found.author_key_enabled != 0).then(|| {
            let signature = IdSignature::from(found.author_key_signature);
            (signature, PublicKey::from(found.author_public_key))
        });
        Ok(Some(Self {
            launch_digest: found.ld,
            family_id: found.family_id,
            image_id: found.image_id,
            version: found.version,
            guest_svn: found.guest_svn,
            id_key_algorithm: found.id_key_algorithm,
            author_key_algorithm: found.author_key_algorithm,
            id_signature: found.id_key_signature.into(),
            id_key: found.id_public_key.into(),
            author,
        }))
    }
}
