//! The cryptography of a disk: AES-256-GCM for data, its authentication alone for nodes, HMAC-SHA-256 for superblocks.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::host::BLOCK_BYTES;
use crate::key::{DiskKey, PartKey};
use crate::nonce::Nonces;

/// What proves that a block is the one that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Never the same for two blocks.
    pub nonce: [u8; 12],
    /// Of AES-256-GCM.
    pub tag: [u8; 16],
}

/// The block is not the one that was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

/// The keys of a disk.
pub struct Seals {
    data: Aes256Gcm,
    node: Aes256Gcm,
    superblock: PartKey,
    nonces: Nonces,
}

impl core::fmt::Debug for Seals {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Seals").finish_non_exhaustive()
    }
}

impl Seals {
    /// Derives the keys of the disk with this identity; `entropy` must be new each time.
    #[must_use]
    pub fn new(key: &DiskKey, disk: &[u8; 16], entropy: &[u8; 32]) -> Self {
        Self {
            data: Aes256Gcm::new(key.part(disk, "data").bytes().into()),
            node: Aes256Gcm::new(key.part(disk, "tree").bytes().into()),
            superblock: key.part(disk, "superblock"),
            nonces: Nonces::new(key.part(disk, "nonce"), entropy),
        }
    }

    /// Encrypts a data block in place. The logical block is authenticated with it.
    pub fn seal_data(&mut self, block: u64, bytes: &mut [u8; BLOCK_BYTES]) -> Seal {
        let nonce = self.nonces.next();
        let tag = self
            .data
            .encrypt_inout_detached(
                &nonce.into(),
                &block.to_le_bytes(),
                bytes.as_mut_slice().into(),
            )
            .expect("a block is far shorter than GCM's limit");
        Seal {
            nonce,
            tag: tag.into(),
        }
    }

    /// Decrypts a data block in place.
    ///
    /// # Errors
    /// It is not the block that was sealed; then the bytes are not to be used.
    pub fn open_data(
        &self,
        block: u64,
        seal: &Seal,
        bytes: &mut [u8; BLOCK_BYTES],
    ) -> Result<(), Forged> {
        let aad = block.to_le_bytes();
        let tag = seal.tag.into();
        self.data
            .decrypt_inout_detached(&seal.nonce.into(), &aad, bytes.as_mut_slice().into(), &tag)
            .map_err(|_| Forged)
    }

    /// Authenticates a node, which stays readable.
    pub fn seal_node(&mut self, bytes: &[u8; BLOCK_BYTES]) -> Seal {
        let nonce = self.nonces.next();
        let tag = self
            .node
            .encrypt_inout_detached(&nonce.into(), bytes, (&mut [][..]).into())
            .expect("a block is far shorter than GCM's limit");
        Seal {
            nonce,
            tag: tag.into(),
        }
    }

    /// Checks a node.
    ///
    /// # Errors
    /// It is not the node that was sealed.
    pub fn check_node(&self, seal: &Seal, bytes: &[u8; BLOCK_BYTES]) -> Result<(), Forged> {
        let tag = seal.tag.into();
        self.node
            .decrypt_inout_detached(&seal.nonce.into(), bytes, (&mut [][..]).into(), &tag)
            .map_err(|_| Forged)
    }

    /// Returns the code of a superblock together with its header.
    #[must_use]
    pub fn superblock_code(&self, header: &[u8], superblock: &[u8]) -> [u8; 32] {
        self.superblock_mac(header, superblock)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Checks the code of a superblock, in constant time.
    ///
    /// # Errors
    /// It was not made with this key for this header and superblock.
    pub fn check_superblock(
        &self,
        header: &[u8],
        superblock: &[u8],
        code: &[u8; 32],
    ) -> Result<(), Forged> {
        self.superblock_mac(header, superblock)
            .verify_slice(code)
            .map_err(|_| Forged)
    }

    fn superblock_mac(&self, header: &[u8], superblock: &[u8]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(self.superblock.bytes())
            .expect("HMAC takes keys of any length")
            .chain_update(header)
            .chain_update(superblock)
    }
}

#[cfg(test)]
mod tests {
    use super::{Forged, Seal, Seals};
    use crate::host::BLOCK_BYTES;
    use crate::key::DiskKey;

    fn seals(disk: u8) -> Seals {
        Seals::new(&DiskKey::new([1; 32]), &[disk; 16], &[3; 32])
    }

    #[test]
    fn a_data_block_opens_only_as_itself() {
        let mut seals = seals(0);
        let mut sealed = [0x5A; BLOCK_BYTES];
        let seal = seals.seal_data(7, &mut sealed);
        assert!(sealed.windows(4).all(|window| window != [0x5A; 4]));
        let open = |block, seal: &Seal, bytes: &[u8; BLOCK_BYTES]| {
            let mut bytes = *bytes;
            seals.open_data(block, seal, &mut bytes).map(|()| bytes)
        };
        assert_eq!(open(7, &seal, &sealed), Ok([0x5A; BLOCK_BYTES]));
        assert_eq!(open(8, &seal, &sealed), Err(Forged));
        for byte in [0, 1, 2048, 4095] {
            let mut changed = sealed;
            changed[byte] ^= 1;
            assert_eq!(open(7, &seal, &changed), Err(Forged));
        }
        let mut other = seal;
        other.nonce[11] ^= 1;
        assert_eq!(open(7, &other, &sealed), Err(Forged));
    }

    #[test]
    fn a_block_of_another_disk_under_the_same_key_does_not_open() {
        let mut bytes = [9; BLOCK_BYTES];
        let seal = seals(0).seal_data(7, &mut bytes);
        assert_eq!(seals(1).open_data(7, &seal, &mut bytes), Err(Forged));
    }

    #[test]
    fn a_node_is_authenticated_and_stays_readable() {
        let mut seals = seals(0);
        let mut node = [4; BLOCK_BYTES];
        let seal = seals.seal_node(&node);
        assert_eq!(seals.check_node(&seal, &node), Ok(()));
        node[17] ^= 0x80;
        assert_eq!(seals.check_node(&seal, &node), Err(Forged));
    }

    #[test]
    fn a_superblock_is_bound_to_its_header() {
        let seals = seals(0);
        let code = seals.superblock_code(b"header", b"super");
        assert_eq!(seals.check_superblock(b"header", b"super", &code), Ok(()));
        assert_eq!(
            seals.check_superblock(b"heading", b"super", &code),
            Err(Forged)
        );
    }
}
