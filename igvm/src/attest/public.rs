//! The public part of a TPM's key, and its name (TPM 2.0 Library, part 1, 16).

use sha2::{Digest, Sha256, Sha384, Sha512};

/// Returns the name of a `TPM2B_PUBLIC`, as `tpm2_readpublic -o` writes it: algorithm and digest of what is in it. `None` if it is none.
#[must_use]
pub fn name(file: &[u8]) -> Option<Vec<u8>> {
    let (len, public) = file.split_first_chunk()?;
    if usize::from(u16::from_be_bytes(*len)) != public.len() {
        return None;
    }
    // Its kind, then the algorithm of its name.
    let algorithm: [u8; 2] = public.get(2..4)?.try_into().ok()?;
    let digest = match u16::from_be_bytes(algorithm) {
        0x000B => Sha256::digest(public).to_vec(),
        0x000C => Sha384::digest(public).to_vec(),
        0x000D => Sha512::digest(public).to_vec(),
        _ => return None,
    };
    Some([algorithm.as_slice(), &digest].concat())
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn name_is_algorithm_and_digest_of_all_but_the_size() {
        let found = name(&[0, 5, 0, 0x23, 0, 0x0B, 9]).unwrap();
        assert_eq!(found.len(), 34);
        assert_eq!(found[..2], [0, 0x0B]);
        assert_eq!(name(&[0, 4, 0, 0x23, 0, 0x0C]).unwrap().len(), 50);
    }

    #[test]
    fn what_is_no_public_area_has_no_name() {
        for file in [
            &[][..],
            &[0],
            &[0, 5, 0, 0x23, 0, 0x0B],
            &[0, 4, 0, 0x23, 0, 4],
            &[0, 1, 0],
        ] {
            assert_eq!(name(file), None, "{file:?}");
        }
    }
}
