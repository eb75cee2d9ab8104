//! The certificates a host hands out with an extended guest request: ARK, ASK and VCEK as X.509 DER in AMD's GUID table.
//!
//! The chain has the shape of AMD's, VCEK extensions included (57230, VCEK certificate and KDS interface), but for the keys of
//! ARK and ASK: those are P-384 here, not RSA-4096, so a verifier that insists on RSA-PSS must be told. The names say "model".

use super::Status;
use super::chip::{Chip, KeyName, tcb};
use alloc::vec::Vec;
use core::str::FromStr;
use p384::ecdsa::{DerSignature, SigningKey};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{GeneralizedTime, OctetString, UtcTime};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{DateTime, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

/// A chain of certificates, DER.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Root, signed by itself.
    pub ark: Vec<u8>,
    /// Signed by the root.
    pub ask: Vec<u8>,
    /// Signed by the ASK.
    pub vcek: Vec<u8>,
}

/// Makes the chip's chain. Slow (three signatures): keep it.
pub fn chain(chip: &Chip) -> Result<Chain, Status> {
    let (ark, ask) = (
        chip.signing_key(KeyName::Ark),
        chip.signing_key(KeyName::Ask),
    );
    let vcek = chip.signing_key(KeyName::Vcek);
    let make = |profile, subject: &SigningKey, signer: &SigningKey| {
        issue(profile, subject, signer).map_err(|_| Status::InvalidParam)
    };
    Ok(Chain {
        ark: make(Profile::authority(ARK, ARK), &ark, &ark)?,
        ask: make(Profile::authority(ARK, ASK), &ask, &ark)?,
        vcek: make(Profile::chip(chip), &vcek, &ask)?,
    })
}

/// GUIDs of the table, in their in-memory form (GHCB 4.1.8, and Linux' `linux/psp-sev.h` users).
mod guid {
    /// 63da758d-e664-4564-adc5-f4b93be8accd
    pub(super) const VCEK: [u8; 16] = [
        0x8D, 0x75, 0xDA, 0x63, 0x64, 0xE6, 0x64, 0x45, 0xAD, 0xC5, 0xF4, 0xB9, 0x3B, 0xE8, 0xAC,
        0xCD,
    ];
    /// 4ab7b379-bbac-4fe4-a02f-05aef327c782
    pub(super) const ASK: [u8; 16] = [
        0x79, 0xB3, 0xB7, 0x4A, 0xAC, 0xBB, 0xE4, 0x4F, 0xA0, 0x2F, 0x05, 0xAE, 0xF3, 0x27, 0xC7,
        0x82,
    ];
    /// c0b406a4-a803-4952-9743-3fb6014cd0ae
    pub(super) const ARK: [u8; 16] = [
        0xA4, 0x06, 0xB4, 0xC0, 0x03, 0xA8, 0x52, 0x49, 0x97, 0x43, 0x3F, 0xB6, 0x01, 0x4C, 0xD0,
        0xAE,
    ];
}

/// Bytes of a table entry: GUID, offset, length.
const ENTRY_BYTES: usize = 24;

/// Lays out the table: entries with GUID, offset and length, an entry of zeros, the certificates.
#[must_use]
pub fn table(chain: &Chain) -> Vec<u8> {
    let certificates = [
        (guid::VCEK, &chain.vcek),
        (guid::ASK, &chain.ask),
        (guid::ARK, &chain.ark),
    ];
    let mut offset = (certificates.len() + 1) * ENTRY_BYTES;
    let mut table = Vec::new();
    for (guid, certificate) in certificates {
        table.extend_from_slice(&guid);
        for number in [offset, certificate.len()] {
            table.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        offset += certificate.len();
    }
    table.extend_from_slice(&[0; ENTRY_BYTES]);
    for (_, certificate) in certificates {
        table.extend_from_slice(certificate);
    }
    table
}

const ARK: &str = "CN=Stockade model ARK,O=Stockade,OU=Engineering,C=XX";
const ASK: &str = "CN=Stockade model ASK,O=Stockade,OU=Engineering,C=XX";
const VCEK: &str = "CN=Stockade model VCEK,O=Stockade,OU=Engineering,C=XX";

/// What differs between the certificates.
struct Profile {
    issuer: &'static str,
    subject: &'static str,
    serial: u8,
    extensions: Vec<(ObjectIdentifier, Vec<u8>)>,
}

type BuildResult<T> = Result<T, x509_cert::builder::Error>;

impl Profile {
    fn authority(issuer: &'static str, subject: &'static str) -> Self {
        Self {
            issuer,
            subject,
            serial: 1,
            extensions: Vec::new(),
        }
    }

    /// The VCEK's extensions, under 1.3.6.1.4.1.3704.1: structure version, product, four security versions, chip ID. Small
    /// numbers are INTEGERs, the chip ID is raw, as AMD's are.
    fn chip(chip: &Chip) -> Self {
        const OID: [&str; 7] = [
            "1.3.6.1.4.1.3704.1.1",
            "1.3.6.1.4.1.3704.1.2",
            "1.3.6.1.4.1.3704.1.3.1",
            "1.3.6.1.4.1.3704.1.3.2",
            "1.3.6.1.4.1.3704.1.3.3",
            "1.3.6.1.4.1.3704.1.3.8",
            "1.3.6.1.4.1.3704.1.4",
        ];
        let product = [b"\x16\x08".as_slice(), b"Milan-B1"].concat();
        let integer = |value: u8| value.to_der().unwrap_or_default();
        let tcb = tcb();
        let values = [
            integer(0),
            product,
            integer(tcb.boot_loader()),
            integer(tcb.tee()),
            integer(tcb.snp()),
            integer(tcb.microcode()),
            chip.id().to_vec(),
        ];
        let extensions = OID
            .into_iter()
            .map(ObjectIdentifier::new_unwrap)
            .zip(values)
            .collect();
        Self {
            issuer: ASK,
            subject: VCEK,
            serial: 0,
            extensions,
        }
    }
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        Name::from_str(self.issuer).unwrap_or_default()
    }

    fn get_subject(&self) -> Name {
        Name::from_str(self.subject).unwrap_or_default()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> BuildResult<Vec<Extension>> {
        if !self.extensions.is_empty() {
            return self.extensions.iter().map(extension).collect();
        }
        let ca = BasicConstraints {
            ca: true,
            path_len_constraint: None,
        };
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        Ok([
            (&ca).to_extension(tbs.subject(), &[])?,
            (&usage).to_extension(tbs.subject(), &[])?,
        ]
        .into())
    }
}

fn extension((oid, value): &(ObjectIdentifier, Vec<u8>)) -> BuildResult<Extension> {
    Ok(Extension {
        extn_id: *oid,
        critical: false,
        extn_value: OctetString::new(value.as_slice())?,
    })
}

/// Valid from 2024 to 2099: the model has no clock to speak of.
fn issue(profile: Profile, subject: &SigningKey, signer: &SigningKey) -> BuildResult<Vec<u8>> {
    let serial = SerialNumber::new(&[profile.serial])?;
    let start = UtcTime::from_date_time(DateTime::new(2024, 1, 1, 0, 0, 0)?)?;
    let end = GeneralizedTime::from_date_time(DateTime::new(2099, 12, 31, 23, 59, 59)?);
    let validity = Validity::new(Time::UtcTime(start), Time::GeneralTime(end));
    let key = SubjectPublicKeyInfo::from_key(subject.verifying_key())?;
    let builder = CertificateBuilder::new(profile, serial, validity, key)?;
    let certificate = builder.build::<_, DerSignature>(signer)?;
    Ok(certificate.to_der()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::ecdsa::{VerifyingKey, signature::Verifier};
    use sha2::{Digest, Sha256};
    use std::string::String;
    use x509_cert::Certificate;
    use x509_cert::der::Decode;

    fn verify(certificate: &[u8], signer: &[u8]) {
        let (certificate, signer) = (
            Certificate::from_der(certificate).unwrap(),
            Certificate::from_der(signer).unwrap(),
        );
        let key = signer
            .tbs_certificate()
            .subject_public_key_info()
            .subject_public_key
            .raw_bytes();
        let key = VerifyingKey::from_sec1_bytes(key).unwrap();
        let message = certificate.tbs_certificate().to_der().unwrap();
        let signature = DerSignature::from_bytes(certificate.signature().raw_bytes()).unwrap();
        key.verify(&message, &signature).unwrap();
        assert_eq!(
            certificate.tbs_certificate().issuer(),
            signer.tbs_certificate().subject()
        );
    }

    #[test]
    fn each_certificate_is_signed_by_the_one_above() {
        let chain = chain(&Chip::new(3)).unwrap();
        verify(&chain.ark, &chain.ark);
        verify(&chain.ask, &chain.ark);
        verify(&chain.vcek, &chain.ask);
    }

    /// Verifiers know the root by the digest of its key, and whoever trusts the model asks for that key by name.
    #[test]
    fn root_is_the_same_for_every_chip_and_in_the_verifier() {
        let root = |seed| chain(&Chip::new(seed)).unwrap().ark;
        assert_eq!(root(3), root(4));
        let ark = Certificate::from_der(&root(3)).unwrap();
        let info = ark.tbs_certificate().subject_public_key_info();
        let digest = Sha256::digest(info.subject_public_key.raw_bytes());
        assert_eq!(
            hex::encode(digest),
            "159cd5907ef2465b03277a9f446cab2e0a68d0714b1c312f36a2e4bc9d54ed52"
        );
    }

    #[test]
    fn vcek_names_the_chip_and_its_versions() {
        let chip = Chip::new(3);
        let chain = chain(&chip).unwrap();
        let vcek = Certificate::from_der(&chain.vcek).unwrap();
        let value = |oid: &str| {
            let oid = ObjectIdentifier::new_unwrap(oid);
            let found = vcek
                .tbs_certificate()
                .extensions()
                .unwrap()
                .iter()
                .find(|found| found.extn_id == oid);
            found.unwrap().extn_value.as_bytes().to_vec()
        };
        assert_eq!(value("1.3.6.1.4.1.3704.1.4"), chip.id());
        assert_eq!(value("1.3.6.1.4.1.3704.1.3.1"), [2, 1, 4]);
        assert_eq!(value("1.3.6.1.4.1.3704.1.3.8"), [2, 2, 0, 219]);
    }

    #[test]
    fn table_leads_to_each_certificate() {
        let chain = chain(&Chip::new(3)).unwrap();
        let table = table(&chain);
        for (at, expected) in [&chain.vcek, &chain.ask, &chain.ark]
            .into_iter()
            .enumerate()
        {
            let entry = &table[at * 24..][..24];
            let number =
                |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(table[number(16)..][..number(20)], **expected);
        }
        assert_eq!(table[72..96], [0; 24]);
        assert_eq!(
            sev_guid("63da758d-e664-4564-adc5-f4b93be8accd"),
            table[..16]
        );
        assert_eq!(
            sev_guid("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
            table[24..40]
        );
        assert_eq!(
            sev_guid("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
            table[48..64]
        );
    }

    fn sev_guid(text: &str) -> [u8; 16] {
        let digits: String = text.chars().filter(|digit| *digit != '-').collect();
        let mut bytes: Vec<u8> = (0..16)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes.try_into().unwrap()
    }
}
