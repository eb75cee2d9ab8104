//! `stockade attest`: what a guest's TPM was attested by, judged on a machine that trusts neither the guest nor its host.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use stockade::attest::{Certificates, Expected, Root, RootChoice, Verdict, public, verify};
use stockade::input;

use crate::failure::Failure;
use crate::values::{self, Measurement};

/// More than evidence can have.
const MOST_BYTES: u64 = 64 << 10;

/// Arguments of `stockade attest`.
#[derive(Debug, Subcommand)]
pub(crate) enum Attest {
    /// Verifies evidence: exit code 0 only when all of it is right.
    Verify(Verify),
}

/// Arguments of `stockade attest verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// What the guest read from NV index 0x01400001
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// The endorsement key, as `tpm2_readpublic -o` writes it
    #[arg(long, value_name = "FILE")]
    ek: PathBuf,
    /// The attestation key, as `tpm2_readpublic -o` writes it
    #[arg(long, value_name = "FILE")]
    ak: PathBuf,
    /// What the guest was given to write to NV index 0x01400002: 16 to 64 bytes, as hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
    nonce: Nonce,
    /// The launch digest, as `stockade measure` prints it
    #[arg(long, value_name = "HEX", value_parser = values::parse_digest)]
    expect_measurement: Measurement,
    /// A directory with vcek.der or .pem, and with ask and ark if they are not AMD's
    #[arg(long, value_name = "DIR")]
    certificates: PathBuf,
    /// Accept the SNP model's test chain too, which anybody can sign with
    #[arg(long)]
    test_chain: bool,
}

/// A verifier's question.
#[derive(Clone, Debug)]
struct Nonce(Vec<u8>);

/// Does what was asked, and returns what there is to print.
pub(crate) fn attest(command: &Attest) -> Result<String, Failure> {
    let Attest::Verify(arguments) = command;
    let certificates = Certificates::open(&arguments.certificates);
    let certificates = certificates.map_err(|source| Failure::File {
        path: arguments.certificates.clone(),
        source,
    })?;
    let (report, ek, ak) = (
        read(&arguments.report)?,
        read_public(&arguments.ek)?,
        read_public(&arguments.ak)?,
    );
    let expected = Expected {
        nonce: &arguments.nonce.0,
        ek: &ek,
        ak: &ak,
        measurement: arguments.expect_measurement.0,
        root: if arguments.test_chain {
            RootChoice::AmdOrModel
        } else {
            RootChoice::Amd
        },
    };
    let verdict = verify(&report, &certificates, &expected)?;
    Ok(describe(&verdict))
}

fn describe(verdict: &Verdict) -> String {
    let mut text = String::new();
    let root = match verdict.root {
        Root::Amd(product) => format!("AMD {product}, by the chip's VCEK"),
        Root::Model => "the SNP model's TEST CHAIN: this proves nothing about hardware".to_owned(),
    };
    let lines = [
        ("signed by", root),
        ("chip", hex::encode(verdict.chip_id)),
        (
            "launch digest",
            "as expected, VMPL 0, no debugging".to_owned(),
        ),
        (
            "endorsement key",
            format!("{}, of the attested TPM", verdict.ek),
        ),
        ("attestation key", "of the attested TPM".to_owned()),
        ("nonce", "as given".to_owned()),
    ];
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<16} {value}");
    }
    text
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    input::read(path, MOST_BYTES).map_err(|source| Failure::File {
        path: path.into(),
        source,
    })
}

/// Reads the public part of a TPM's key.
fn read_public(path: &Path) -> Result<Vec<u8>, Failure> {
    let content = read(path)?;
    match public::name(&content) {
        Some(_) => Ok(content),
        None => Err(Failure::NoPublicArea(path.into())),
    }
}

fn parse_nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text)
        .ok()
        .filter(|bytes| (16..=64).contains(&bytes.len()));
    let wrong = "give 32 to 128 hexadecimal digits, two a byte";
    bytes.map(Nonce).ok_or_else(|| wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_nonce;
    use crate::values::{Measurement, parse_digest};

    #[test]
    fn nonces_have_16_to_64_bytes_and_digests_48() {
        let nonce = parse_nonce(&"0f".repeat(16));
        assert_eq!(nonce.map(|nonce| nonce.0), Ok(vec![15; 16]));
        let digest = parse_digest(&"ff".repeat(48));
        assert_eq!(digest, Ok(Measurement([255; 48])));
        for text in [
            "",
            "0",
            "zz",
            &"+f".repeat(48),
            &"00".repeat(15),
            &"00".repeat(65),
            "é",
        ] {
            assert!(parse_nonce(text).is_err(), "{text}");
            assert!(parse_digest(text).is_err(), "{text}");
        }
    }
}
