//! Keys: HKDF-SHA-256 from one secret, one label a purpose, wiped when dropped (RFC 5869).

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Wiped when dropped.
type Bytes = Zeroizing<[u8; KEY_BYTES]>;

/// Length of every secret and key here.
pub const KEY_BYTES: usize = 32;

/// The secret all others come from: the PSP's derived key, or one released after attestation.
pub struct RootSecret(Bytes);

impl RootSecret {
    /// Takes the secret over. The caller wipes its own copy.
    #[must_use]
    pub fn new(secret: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Returns the key of the disk with this label.
    #[must_use]
    pub fn disk_key(&self, label: &str) -> DiskKey {
        DiskKey(derive(
            &self.0[..],
            &[],
            &[b"stockade disk 1\0", label.as_bytes()],
        ))
    }

    /// Returns the key of the sealed store.
    #[must_use]
    pub fn store_key(&self) -> StoreKey {
        StoreKey(derive(&self.0[..], &[], &[b"stockade store 1"]))
    }
}

/// The key of one disk, from which those of its parts are derived.
pub struct DiskKey(Bytes);

impl core::fmt::Debug for DiskKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("DiskKey")
    }
}

impl DiskKey {
    /// Takes over a key that was released or made elsewhere.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Returns what the key is known by to those who must not have it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(*derive(&self.0[..], &[], &[b"stockade disk key id 1"]))
    }

    /// Returns the key itself, to be sealed for somebody.
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Returns the key of one part of the disk with this identity.
    pub(crate) fn part(&self, disk: &[u8], part: &str) -> PartKey {
        PartKey(derive(
            &self.0[..],
            disk,
            &[b"stockade disk part\0", part.as_bytes()],
        ))
    }
}

/// What commits to a disk's key without giving it away, as long as nobody can guess the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub [u8; KEY_BYTES]);

impl core::fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// The key of the sealed store, from which those of its parts are derived.
pub struct StoreKey(Bytes);

impl StoreKey {
    /// Takes over a key that was released or made elsewhere.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Returns the key of one part of the store with this identity.
    pub(crate) fn part(&self, store: &[u8], part: &str) -> PartKey {
        PartKey(derive(
            &self.0[..],
            store,
            &[b"stockade store part\0", part.as_bytes()],
        ))
    }
}

/// A key with one use.
pub(crate) struct PartKey(Bytes);

impl PartKey {
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl core::fmt::Debug for PartKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("PartKey")
    }
}

/// Returns `HKDF(secret, salt, info)`.
pub(crate) fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Bytes {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, &mut key[..])
        .expect("one block of output is never too long");
    key
}

#[cfg(test)]
mod tests {
    use super::{DiskKey, KEY_BYTES, RootSecret, derive};

    /// RFC 5869, A.1, its first 32 bytes.
    #[test]
    fn derivation_is_hkdf_sha_256() {
        let salt: [u8; 13] = core::array::from_fn(|i| i as u8);
        let info: [u8; 10] = core::array::from_fn(|i| 0xF0 + i as u8);
        let key = derive(&[0x0B; 22], &salt, &[&info[..4], &info[4..]]);
        assert_eq!(
            *key,
            [
                0x3C, 0xB2, 0x5F, 0x25, 0xFA, 0xAC, 0xD5, 0x7A, 0x90, 0x43, 0x4F, 0x64, 0xD0, 0x36,
                0x2F, 0x2A, 0x2D, 0x2D, 0x0A, 0x90, 0xCF, 0x1A, 0x5A, 0x4C, 0x5D, 0xB0, 0x2D, 0x56,
                0xEC, 0xC4, 0xC5, 0xBF
            ]
        );
    }

    #[test]
    fn an_id_is_of_its_key_and_of_no_part_of_it() {
        let key = DiskKey::new([7; KEY_BYTES]);
        assert_eq!(key.id(), DiskKey::new([7; KEY_BYTES]).id());
        assert_ne!(key.id(), DiskKey::new([8; KEY_BYTES]).id());
        assert_ne!(key.id().0, *key.bytes());
        assert_eq!(
            alloc::format!("{}", super::KeyId([0xA5; 32])),
            "a5".repeat(32)
        );
    }

    #[test]
    fn every_purpose_has_a_key_of_its_own() {
        let root = RootSecret::new([7; KEY_BYTES]);
        let keys = [
            *root.disk_key("0").0,
            *root.disk_key("1").0,
            *root.store_key().0,
            *root.disk_key("0").part(&[1], "data").bytes(),
            *root.disk_key("0").part(&[2], "data").bytes(),
            *root.disk_key("0").part(&[1], "tree").bytes(),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key));
        }
    }
}
