//! Certificates from a root that is trusted down to the chip's key, and its signature under a report.
//!
//! AMD's chains are RSA-PSS down to the VCEK and are judged by the crate `sev`, whose roots are AMD's. The SNP model's chain has the same
//! shape with keys of P-384 that everybody can make, so it proves nothing and is accepted only by who asks for it.

use std::io;
use std::path::Path;

use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{DerSignature, VerifyingKey};
use sev::certs::snp::builtin::{genoa, milan, turin};
use sev::certs::snp::{Certificate, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use sha2::{Digest, Sha256};
use x509_cert::der::{Decode, Encode, oid::ObjectIdentifier};

use super::Refusal;
use crate::input;

/// SHA-256 of the public key (SEC1) of the model's root.
const MODEL_ROOT: [u8; 32] = [
    0x15, 0x9C, 0xD5, 0x90, 0x7E, 0xF2, 0x46, 0x5B, 0x03, 0x27, 0x7A, 0x9F, 0x44, 0x6C, 0xAB, 0x2E,
    0x0A, 0x68, 0xD0, 0x71, 0x4B, 0x1C, 0x31, 0x2F, 0x36, 0xA2, 0xE4, 0xBC, 0x9D, 0x54, 0xED, 0x52,
];

/// Extensions of a VCEK (57230, 3.1): the chip, and the security versions of boot loader, operating system, SNP and microcode.
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const VERSIONS: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8"),
];
/// The same of the coprocessor that Turin has.
const COPROCESSOR: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
/// More than a certificate has.
const MOST_BYTES: u64 = 64 << 10;
/// The least of a chip's identity that a certificate names.
const LEAST_CHIP: usize = 8;

/// Which roots a verifier trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootChoice {
    /// AMD's.
    Amd,
    /// The model's, too, for tests.
    AmdOrModel,
}

/// Whose signature it all rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// AMD, for a product.
    Amd(&'static str),
    /// Nobody: the model's keys are known to all.
    Model,
}

/// The certificates of a chip.
#[derive(Clone, Debug)]
pub struct Certificates {
    vcek: Vec<u8>,
    /// Those above it, if they were given; else AMD's are tried.
    above: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    /// Reads `vcek`, and `ask` and `ark` if they are there, as `.der` or `.pem`.
    ///
    /// # Errors
    /// A file cannot be read, or is no certificate.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let vcek = read(folder, "vcek")?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no vcek.der or vcek.pem is there")
        })?;
        let above = read(folder, "ask")?.zip(read(folder, "ark")?);
        Ok(Self { vcek, above })
    }

    /// Takes the three as the SNP model prints them, in DER.
    #[must_use]
    pub fn of_model(ark: Vec<u8>, ask: Vec<u8>, vcek: Vec<u8>) -> Self {
        Self {
            vcek,
            above: Some((ask, ark)),
        }
    }

    /// Sees that a report is signed by the chip, for what its certificate says, and that the certificate is good.
    pub(super) fn check(&self, report: &[u8], choice: RootChoice) -> Result<Root, Refusal> {
        let forged = |error: io::Error| Refusal::Forged(error.to_string());
        let read = AttestationReport::from_bytes(report).map_err(forged)?;
        // First: another chip's certificate is a mistake that can be mended, not a forgery.
        check_extensions(&self.vcek, &read)?;
        let vcek = Certificate::from_der(&self.vcek).map_err(untrusted)?;
        let signed = (&vcek, &read).verify();
        signed.map_err(|_| Refusal::Forged("the chip's key has not signed it".to_owned()))?;
        let root = self.root(&vcek)?;
        if root == Root::Model && choice == RootChoice::Amd {
            let text = "they are the SNP model's test chain; --test-chain accepts it";
            return Err(Refusal::Untrusted(text.to_owned()));
        }
        Ok(root)
    }

    fn root(&self, vcek: &Certificate) -> Result<Root, Refusal> {
        if let Some((ask, ark)) = &self.above
            && is_model(ark)
        {
            for (signer, signed) in [(ark, ark), (ark, ask), (ask, &self.vcek)] {
                check_p384(signer, signed)?;
            }
            return Ok(Root::Model);
        }
        let products = [
            ("Milan", milan::ark(), milan::ask()),
            ("Genoa", genoa::ark(), genoa::ask()),
            ("Turin", turin::ark(), turin::ask()),
        ];
        for (name, ark, ask) in products {
            let (ark, ask) = (ark.map_err(untrusted)?, ask.map_err(untrusted)?);
            let links = [(&ark, &ark), (&ark, &ask), (&ask, vcek)];
            if links.into_iter().all(|link| link.verify().is_ok()) {
                return Ok(Root::Amd(name));
            }
        }
        let text = "they do not lead to a root of AMD's";
        Err(Refusal::Untrusted(text.to_owned()))
    }
}

fn untrusted(error: impl std::fmt::Display) -> Refusal {
    Refusal::Untrusted(error.to_string())
}

fn read(folder: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    for extension in ["der", "pem"] {
        let path = folder.join(format!("{name}.{extension}"));
        let bytes = match input::read(&path, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(in_file(&path, error)),
        };
        let certificate = match extension {
            "pem" => Certificate::from_pem(&bytes),
            _ => Certificate::from_der(&bytes),
        };
        let der = certificate.and_then(|certificate| certificate.to_der());
        return der.map(Some).map_err(|error| in_file(&path, error));
    }
    Ok(None)
}

/// What is wrong with a certificate's file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {error}")]
struct InFile {
    file: String,
    error: io::Error,
}

fn in_file(path: &Path, error: io::Error) -> io::Error {
    let file = path.file_name().unwrap_or_default();
    let file = file.to_string_lossy().into_owned();
    io::Error::new(error.kind(), InFile { file, error })
}

fn parse(der: &[u8]) -> Result<x509_cert::Certificate, Refusal> {
    x509_cert::Certificate::from_der(der).map_err(untrusted)
}

fn key(certificate: &x509_cert::Certificate) -> &[u8] {
    let info = certificate.tbs_certificate().subject_public_key_info();
    info.subject_public_key.raw_bytes()
}

fn is_model(ark: &[u8]) -> bool {
    parse(ark).is_ok_and(|ark| Sha256::digest(key(&ark))[..] == MODEL_ROOT)
}

fn check_p384(signer: &[u8], signed: &[u8]) -> Result<(), Refusal> {
    let (signer, signed) = (parse(signer)?, parse(signed)?);
    let key = VerifyingKey::from_sec1_bytes(key(&signer)).map_err(untrusted)?;
    let message = signed.tbs_certificate().to_der().map_err(untrusted)?;
    let signature = DerSignature::from_bytes(signed.signature().raw_bytes());
    let signature = signature.map_err(untrusted)?;
    key.verify(&message, &signature)
        .map_err(|_| untrusted("one has not signed the next"))
}

/// The certificate is of the chip and the versions that the report names.
fn check_extensions(vcek: &[u8], report: &AttestationReport) -> Result<(), Refusal> {
    let vcek = parse(vcek)?;
    let find = |oid: ObjectIdentifier| {
        let mut all = vcek.tbs_certificate().extensions().into_iter().flatten();
        let found = all.find(|extension| extension.extn_id == oid);
        found.map(|extension| extension.extn_value.as_bytes())
    };
    let chip = find(CHIP).unwrap_or_default();
    if chip.len() < LEAST_CHIP || !report.chip_id.starts_with(chip) {
        let wanted = hex::encode(report.chip_id);
        let text = format!("vcek is of another chip; fetch that of chip {wanted}");
        return Err(untrusted(text));
    }
    let tcb = &report.reported_tcb;
    let reported = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode].map(Some);
    // A DER integer: its last byte is all of it below 256.
    let certified = |oid| find(oid).and_then(|value| value.last().copied());
    let coprocessor = tcb.fmc.filter(|fmc| certified(COPROCESSOR) != Some(*fmc));
    if VERSIONS.map(certified) != reported || coprocessor.is_some() {
        let text = format!(
            "vcek is of another firmware; fetch that of boot loader {}, TEE {}, SNP {}, microcode {}",
            tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
        );
        return Err(untrusted(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folder_without_a_chips_certificate_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Certificates::open(folder.path()).unwrap_err();
        assert!(missing.to_string().contains("vcek"));
        fs::write(folder.path().join("vcek.der"), b"nonsense").unwrap();
        let broken = Certificates::open(folder.path()).unwrap_err().to_string();
        assert!(broken.starts_with("vcek."), "{broken}");
    }

    /// AMD's own certificates are no chip's, but their chain is what chips hang on.
    #[test]
    fn a_certificate_that_amd_s_intermediate_has_not_signed_is_untrusted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vcek.pem"), milan::ARK).unwrap();
        let certificates = Certificates::open(folder.path()).unwrap();
        let vcek = Certificate::from_der(&certificates.vcek).unwrap();
        let refused = certificates.root(&vcek).unwrap_err();
        assert!(matches!(refused, Refusal::Untrusted(_)));
    }

    /// A report of AMD's silicon and the certificate of its chip, which the crate `sev` has for its own tests.
    fn milan() -> (Certificates, Vec<u8>) {
        let cargo = std::process::Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--offline"])
            // Others need not have been fetched.
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&cargo.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let sev = packages.iter().find(|package| package["name"] == "sev");
        let manifest = Path::new(sev.unwrap()["manifest_path"].as_str().unwrap());
        let data = manifest.with_file_name("tests").join("certs_data");
        let vcek = fs::read(data.join("vcek_milan.der")).unwrap();
        let digits = fs::read_to_string(data.join("report_milan.hex")).unwrap();
        let certificates = Certificates { vcek, above: None };
        (certificates, hex::decode(digits.trim()).unwrap())
    }

    #[test]
    fn a_report_of_silicon_stands_by_amd_s_chain_and_its_chip_s_certificate() {
        let (certificates, mut report) = milan();
        let checked = certificates.check(&report, RootChoice::Amd);
        assert_eq!(checked, Ok(Root::Amd("Milan")));
        // A byte of what is signed: the data it is bound to.
        report[0x50] ^= 1;
        let refused = certificates.check(&report, RootChoice::Amd).unwrap_err();
        assert!(matches!(refused, Refusal::Forged(_)), "{refused}");
    }

    /// Nobody sees it from the signature: that only says that something does not fit.
    #[test]
    fn a_certificate_of_another_chip_or_firmware_is_named() {
        const REPORTED_TCB: usize = 0x180;
        const CHIP_ID: usize = 0x1A0;
        let (certificates, report) = milan();
        for (at, words) in [
            (REPORTED_TCB, "another firmware"),
            (CHIP_ID, "another chip"),
        ] {
            let mut report = report.clone();
            report[at] ^= 1;
            let refused = certificates.check(&report, RootChoice::Amd).unwrap_err();
            assert!(
                matches!(&refused, Refusal::Untrusted(it) if it.contains(words)),
                "{refused}"
            );
        }
    }
}
