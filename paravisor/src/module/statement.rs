//! What a module says under the secure processor's signature, as `docs/attestation.md` has it.
//!
//! A module hands over a document, and gets an attestation report of the paravisor that has the document's digest bound to it. The digest is
//! made here and has the module's name in it, so no module can speak for another, or for the paravisor.

use sha2::{Digest, Sha512};

/// What the digest begins with.
const LABEL: &[u8] = b"stockade module report 1\0";
/// The longest document.
pub const LONGEST_DOCUMENT: usize = 4096;

/// Returns what a report is bound to that says `document` for `module`.
#[must_use]
pub fn report_data(module: &str, document: &[u8]) -> [u8; 64] {
    let name = module.as_bytes();
    let len = u64::try_from(name.len()).unwrap_or(u64::MAX);
    Sha512::new()
        .chain_update(LABEL)
        .chain_update(len.to_le_bytes())
        .chain_update(name)
        .chain_update(document)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_module_speaks_for_another() {
        let own = report_data("tpm", b"x");
        assert_ne!(own, report_data("tpmx", b""));
        assert_ne!(own, report_data("tp", b"mx"));
        assert_ne!(own, report_data("tpm", b"y"));
        assert_eq!(own, report_data("tpm", b"x"));
    }
}
