//! What the secret of sealed disks and records depends on.
//!
//! The secure processor derives it from the chip and from what is selected here (SNP firmware ABI, table 19). What each choice is worth
//! is in `docs/threats.md`.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ManifestError;

/// Who else gets the secret. Whoever writes the image chooses the number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(transparent)]
pub struct Binding(pub u8);

impl Binding {
    /// Nobody: launch digest and policy.
    pub const IMAGE: Self = Self(0);
    /// Images with the same family and image ids and policy, whoever signed them, and at least this security version.
    pub const FAMILY: Self = Self(1);
}

/// The choice.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(C)]
pub struct Sealing {
    binding: Binding,
    reserved: [u8; 3],
    svn: U32,
}

const _: () = assert!(size_of::<Sealing>() == 8);

impl Sealing {
    /// Binds the secret to this image alone.
    #[must_use]
    pub fn to_image() -> Self {
        Self::default()
    }

    /// Binds the secret to the image's family, from the security version `svn` on.
    #[must_use]
    pub fn to_family(svn: u32) -> Self {
        Self {
            binding: Binding::FAMILY,
            reserved: [0; 3],
            svn: svn.into(),
        }
    }

    /// Returns who else gets the secret.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// Returns the least security version of an image that gets the secret.
    #[must_use]
    pub fn svn(&self) -> u32 {
        self.svn.get()
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let is_known = match self.binding {
            Binding::IMAGE => self.svn() == 0,
            binding => binding == Binding::FAMILY,
        };
        if !is_known || self.reserved != [0; 3] {
            return Err(ManifestError::Sealing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_nobody_knows_are_refused() {
        assert_eq!(Sealing::to_image().check(), Ok(()));
        assert_eq!(Sealing::to_family(7).check(), Ok(()));
        let (image, family) = (Sealing::to_image(), Sealing::to_family(0));
        for odd in [
            Sealing {
                binding: Binding(2),
                ..image
            },
            Sealing {
                svn: 1.into(),
                ..image
            },
            Sealing {
                reserved: [0, 0, 1],
                ..family
            },
        ] {
            assert_eq!(odd.check(), Err(ManifestError::Sealing));
        }
    }
}
