//! The chip's secrets, all from one seed, and the keys of the guests on it.
//!
//! HKDF-SHA-384 (salt "stockade model chip", input the seed as eight little-endian bytes) gives a root; every secret is
//! expanded from it with a label, a zero byte and what it depends on. So a seed names a chip: the same seed gives the same
//! keys in every run, which is what sealed state and attested releases are tested with. Nothing here is secret from whoever
//! runs the model.

use hkdf::Hkdf;
use p384::ecdsa::SigningKey;
use p384::elliptic_curve::ops::Reduce;
use sha2::Sha384;
use stockade_abi::report::TcbVersion;

use super::launch::Launched;

/// Security versions of this platform: now, committed, reported and at launch alike.
#[must_use]
pub fn tcb() -> TcbVersion {
    TcbVersion::new()
        .with_boot_loader(4)
        .with_tee(0)
        .with_snp(24)
        .with_microcode(219)
}

/// The three keys of the certificate chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// Root.
    Ark,
    /// Intermediate.
    Ask,
    /// The chip's, versioned by [`tcb`].
    Vcek,
}

/// A chip.
#[derive(Clone)]
pub struct Chip {
    root: Hkdf<Sha384>,
    launches: u64,
}

/// The keys of one guest.
#[derive(Clone)]
pub struct GuestKeys {
    /// VMPCK0 to VMPCK3.
    pub vmpck: [[u8; 32]; 4],
    /// What its memory would be encrypted with.
    pub vek: [u8; 32],
    /// Identity of this instance in reports.
    pub report_id: [u8; 32],
}

impl Chip {
    /// Returns the chip a seed names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let root = Hkdf::new(Some(b"stockade model chip"), &seed.to_le_bytes());
        Self { root, launches: 0 }
    }

    /// Returns the chip's identity.
    #[must_use]
    pub fn id(&self) -> [u8; 64] {
        self.derive(b"chip id", &[])
    }

    /// Returns a signing key. The ARK and the ASK are the product's and the same on every chip.
    #[must_use]
    pub fn signing_key(&self, name: KeyName) -> SigningKey {
        let product = Self::new(0x0041_4D44);
        let bytes: [u8; 48] = match name {
            KeyName::Ark => product.derive(b"ARK", &[]),
            KeyName::Ask => product.derive(b"ASK", &[]),
            KeyName::Vcek => self.derive(b"VCEK", &[&tcb().into_bits().to_le_bytes()]),
        };
        p384::NonZeroScalar::reduce(&p384::FieldBytes::from(bytes)).into()
    }

    /// Draws the keys of the next guest: they depend on how many were launched before, as random ones would differ.
    pub fn launch_keys(&mut self) -> GuestKeys {
        let number = self.launches.to_le_bytes();
        self.launches += 1;
        GuestKeys {
            vmpck: [0_u8, 1, 2, 3].map(|vmpl| self.derive(b"VMPCK", &[&number, &[vmpl]])),
            vek: self.derive(b"VEK", &[&number]),
            report_id: self.derive(b"report id", &[&number]),
        }
    }

    /// Derives the key of a guest's key request from the versioned chip key (`root` 0) or the VM root key (1). The VM root
    /// key of a guest without migration agent is the chip's own secret.
    #[must_use]
    pub fn derived_key(&self, root: u8, fields: &[&[u8]]) -> [u8; 32] {
        let label: &[u8] = if root == 0 {
            b"derived VCEK"
        } else {
            b"derived VMRK"
        };
        self.derive(label, fields)
    }

    fn derive<const N: usize>(&self, label: &[u8], context: &[&[u8]]) -> [u8; N] {
        let mut key = [0; N];
        let mut info = alloc::vec::Vec::from(label);
        info.push(0);
        for part in context {
            info.extend_from_slice(part);
        }
        // HKDF-SHA-384 fails only beyond 255 * 48 bytes.
        const { assert!(N <= 64) };
        if self.root.expand(&info, &mut key).is_err() {
            key.fill(0);
        }
        key
    }
}

/// What is mixed into a derived key, selected by `GUEST_FIELD_SELECT` (SNP ABI 7.2, table 19).
#[must_use]
pub fn guest_fields(launched: &Launched) -> [alloc::vec::Vec<u8>; 4] {
    [
        launched.policy.to_le_bytes().to_vec(),
        launched.identity.image_id.to_vec(),
        launched.identity.family_id.to_vec(),
        launched.measurement.to_vec(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_chip() {
        assert_eq!(Chip::new(7).id(), Chip::new(7).id());
        assert_ne!(Chip::new(7).id(), Chip::new(8).id());
        assert_eq!(
            Chip::new(7).signing_key(KeyName::Ark),
            Chip::new(8).signing_key(KeyName::Ark)
        );
        assert_ne!(
            Chip::new(7).signing_key(KeyName::Vcek),
            Chip::new(8).signing_key(KeyName::Vcek)
        );
    }

    #[test]
    fn every_guest_has_keys_of_its_own() {
        let mut chip = Chip::new(7);
        let (first, second) = (chip.launch_keys(), chip.launch_keys());
        assert_ne!(first.vmpck[0], first.vmpck[1]);
        assert_ne!(first.vmpck[0], second.vmpck[0]);
        assert_ne!(first.vek, second.vek);
        assert_eq!(Chip::new(7).launch_keys().vmpck, first.vmpck);
    }
}
