//! Keys sealed for one machine: HPKE (RFC 9180), base mode, with X25519, HKDF-SHA-256 and AES-256-GCM.
//!
//! The associated data is the whole evidence, report and document, so an envelope opens for the question it answers and for no other.

use alloc::vec::Vec;

use hpke::aead::{AeadTag, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::message::PublicKey;
use crate::key::{DiskKey, KEY_BYTES};

/// What the key schedule is bound to.
const INFO: &[u8] = b"stockade key release 2\0";
/// The encapsulated key before the ciphertext.
const ENCAPSULATED_BYTES: usize = 32;
/// The tag behind it.
const TAG_BYTES: usize = 16;

/// It was not sealed for this machine and this question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope does not open")]
pub struct Unopened;

/// It could not be sealed: the public key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing can be sealed for this public key")]
pub struct Unsealed;

/// Returns how many bytes an envelope of so many keys has.
#[must_use]
pub const fn len_bytes(keys: usize) -> usize {
    ENCAPSULATED_BYTES + keys * KEY_BYTES + TAG_BYTES
}

/// Seals keys for who has the private part of `public`.
///
/// # Errors
/// There is no such part.
pub fn seal<'k>(
    keys: impl IntoIterator<Item = &'k DiskKey>,
    public: &PublicKey,
    evidence: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Unsealed> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(|_| Unsealed)?;
    let mut content = Zeroizing::new(Vec::with_capacity(super::MAX_KEYS * KEY_BYTES));
    keys.into_iter()
        .for_each(|key| content.extend_from_slice(key.bytes()));
    let sealed =
        hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            content.as_mut_slice().into(),
            evidence,
            rng,
        );
    let (encapsulated, tag) = sealed.map_err(|_| Unsealed)?;
    Ok([&encapsulated.to_bytes()[..], &content, &tag.to_bytes()].concat())
}

/// A machine's key pair, made for one question.
pub struct Recipient {
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: PublicKey,
}

impl core::fmt::Debug for Recipient {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Recipient").finish_non_exhaustive()
    }
}

impl Recipient {
    /// Makes a key pair; `entropy` is never used for anything else.
    #[must_use]
    pub fn new(entropy: &[u8; 32]) -> Self {
        let (private, public) = X25519HkdfSha256::derive_keypair(entropy);
        Self {
            private,
            public: public.to_bytes().into(),
        }
    }

    /// Returns the public part.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// It was sealed for somebody else, for other evidence, or changed on its way.
    pub fn open(&self, envelope: &[u8], evidence: &[u8]) -> Result<Vec<DiskKey>, Unopened> {
        let (encapsulated, rest) = envelope
            .split_at_checked(ENCAPSULATED_BYTES)
            .ok_or(Unopened)?;
        let content = rest.len().checked_sub(TAG_BYTES).ok_or(Unopened)?;
        let (content, tag) = rest.split_at_checked(content).ok_or(Unopened)?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)
            .map_err(|_| Unopened)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(|_| Unopened)?;
        let mut content = Zeroizing::new(content.to_vec());
        hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            INFO,
            content.as_mut_slice().into(),
            evidence,
            &tag,
        )
        .map_err(|_| Unopened)?;
        let (keys, rest) = content.as_chunks::<KEY_BYTES>();
        if !rest.is_empty() {
            return Err(Unopened);
        }
        Ok(keys.iter().copied().map(DiskKey::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Recipient, Unopened, len_bytes, seal};
    use crate::key::{DiskKey, KeyId};

    fn sealed(recipient: &Recipient) -> Vec<u8> {
        let keys = [DiskKey::new([3; 32]), DiskKey::new([4; 32])];
        seal(&keys, recipient.public(), b"evidence", &mut rand::rng()).unwrap()
    }

    fn ids(keys: Result<Vec<DiskKey>, Unopened>) -> Result<Vec<KeyId>, Unopened> {
        keys.map(|keys| keys.iter().map(DiskKey::id).collect())
    }

    #[test]
    fn keys_come_out_as_they_went_in_and_do_not_show() {
        let recipient = Recipient::new(&[1; 32]);
        let envelope = sealed(&recipient);
        assert_eq!(envelope.len(), len_bytes(2));
        assert!(!envelope.windows(8).any(|bytes| bytes == [3; 8]));
        let expected = [3, 4].map(|byte| DiskKey::new([byte; 32]).id());
        let opened = ids(recipient.open(&envelope, b"evidence"));
        assert_eq!(opened, Ok(expected.to_vec()));
    }

    #[test]
    fn an_envelope_opens_for_one_machine_and_one_question() {
        let recipient = Recipient::new(&[1; 32]);
        let envelope = sealed(&recipient);
        let other = Recipient::new(&[2; 32]);
        assert_eq!(ids(other.open(&envelope, b"evidence")), Err(Unopened));
        assert_eq!(ids(recipient.open(&envelope, b"Evidence")), Err(Unopened));
    }

    #[test]
    fn every_bit_and_every_byte_counts() {
        let recipient = Recipient::new(&[1; 32]);
        let envelope = sealed(&recipient);
        for at in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[at] ^= 1;
            let opened = ids(recipient.open(&changed, b"evidence"));
            assert_eq!(opened, Err(Unopened), "{at}");
            let cut = ids(recipient.open(&envelope[..at], b"evidence"));
            assert_eq!(cut, Err(Unopened), "{at}");
        }
    }

    /// A host could name a point that makes the secret the same whoever has the private key (RFC 9180, 7.1.4).
    #[test]
    fn points_of_small_order_are_refused() {
        let keys = [DiskKey::new([3; 32])];
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            assert!(seal(&keys, &point, b"", &mut rand::rng()).is_err());
            let mut envelope = point.to_vec();
            envelope.resize(len_bytes(1), 0);
            let opened = Recipient::new(&[1; 32]).open(&envelope, b"");
            assert_eq!(ids(opened), Err(Unopened));
        }
    }

    /// RFC 9180, A.1.1: the recipient's pair from `ikmR`.
    #[test]
    fn pairs_are_derived_as_the_standard_has_it() {
        let hex = |text| <[u8; 32]>::try_from(hex::decode(text).unwrap()).unwrap();
        let ikm = hex("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037");
        let public = hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
        assert_eq!(*Recipient::new(&ikm).public(), public);
    }
}
