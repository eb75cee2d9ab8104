//! The file a guest reads from its TPM: the secure processor's report, and the document it is bound to.

use sha2::{Digest, Sha512};
use stockade_abi::report::AttestationReport;
use zerocopy::FromBytes;

use super::Refusal;

const REPORT_BYTES: usize = size_of::<AttestationReport>();
const MAGIC: &[u8; 16] = b"STOCKADE TPM 1\0\0";
const NONCE_BYTES: usize = 64;
/// What the paravisor's digest begins with, and the module it speaks for.
const LABEL: &[u8] = b"stockade module report 1\0";
const MODULE: &[u8] = b"tpm";

/// What a guest says of its TPM.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The report.
    pub report: AttestationReport,
    /// The report as it was signed.
    pub report_bytes: Vec<u8>,
    /// What the guest was given to write.
    pub nonce: [u8; NONCE_BYTES],
    /// Name of the RSA endorsement key; empty if the TPM has none.
    pub rsa_ek: Vec<u8>,
    /// Name of the ECC endorsement key.
    pub ecc_ek: Vec<u8>,
    /// Name of the attestation key.
    pub ak: Vec<u8>,
    document: Vec<u8>,
}

impl Evidence {
    /// Takes the file apart. What follows the document is of no meaning.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        let (report_bytes, document) = bytes
            .split_at_checked(REPORT_BYTES)
            .ok_or(malformed("it is too short for a report"))?;
        let report = AttestationReport::read_from_bytes(report_bytes)
            .map_err(|_| malformed("it is too short for a report"))?;
        let rest = document
            .strip_prefix(MAGIC)
            .ok_or(malformed("no document of version 1 is behind the report"))?;
        let short = malformed("the document is cut off");
        let (nonce, mut rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let mut names = [const { Vec::new() }; 3];
        for name in &mut names {
            let (len, behind) = rest.split_first_chunk().ok_or(short.clone())?;
            let len = usize::from(u16::from_be_bytes(*len));
            let (bytes, behind) = behind.split_at_checked(len).ok_or(short.clone())?;
            *name = bytes.to_vec();
            rest = behind;
        }
        let [rsa_ek, ecc_ek, ak] = names;
        Ok(Self {
            report,
            report_bytes: report_bytes.to_vec(),
            nonce: *nonce,
            rsa_ek,
            ecc_ek,
            ak,
            document: document[..document.len() - rest.len()].to_vec(),
        })
    }

    /// Sees that the report was made for the document.
    pub(super) fn check_binding(&self) -> Result<(), Refusal> {
        let digest = Sha512::new()
            .chain_update(LABEL)
            .chain_update((MODULE.len() as u64).to_le_bytes())
            .chain_update(MODULE)
            .chain_update(&self.document)
            .finalize();
        if digest[..] == self.report.report_data {
            return Ok(());
        }
        let text = "it is bound to another document than the one behind it";
        Err(Refusal::Forged(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = vec![0; REPORT_BYTES];
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&[7; 64]);
        file.extend_from_slice(&[0, 0, 0, 2, 1, 2, 0, 1, 3, 0, 0]);
        file
    }

    #[test]
    fn parts_are_found_and_what_follows_is_not_bound() {
        let evidence = Evidence::parse(&file()).unwrap();
        assert_eq!(evidence.nonce, [7; 64]);
        assert!(evidence.rsa_ek.is_empty());
        assert_eq!(
            (&evidence.ecc_ek[..], &evidence.ak[..]),
            (&[1, 2][..], &[3][..])
        );
        assert_eq!(evidence.document.len(), 16 + 64 + 9);
    }

    #[test]
    fn each_file_cut_short_is_malformed() {
        let file = file();
        for len in 0..file.len() - 2 {
            let refusal = Evidence::parse(&file[..len]).unwrap_err();
            assert!(matches!(refusal, Refusal::Malformed(_)), "{len}");
        }
    }

    #[test]
    fn report_for_another_document_is_forged() {
        let mut file = file();
        let digest = |file: &[u8]| {
            let head = [LABEL, &[3, 0, 0, 0, 0, 0, 0, 0], MODULE].concat();
            Sha512::digest([&head, &file[REPORT_BYTES..file.len() - 2]].concat())
        };
        // Where a report has its data (SNP ABI table 23).
        let made = digest(&file);
        file[0x50..0x90].copy_from_slice(&made);
        Evidence::parse(&file).unwrap().check_binding().unwrap();
        file[REPORT_BYTES + 20] ^= 1;
        let evidence = Evidence::parse(&file).unwrap();
        assert!(matches!(evidence.check_binding(), Err(Refusal::Forged(_))));
    }
}
