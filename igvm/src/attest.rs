//! What a guest's TPM was attested by, judged: `docs/attestation.md` has the format.
//!
//! [`evidence`] is the file a guest reads from its TPM, [`chain`] the certificates down to the chip's key, [`public`] the keys' names.
//! [`verify`] holds all of it against what the verifier expects, and says in a [`Refusal`] what is wrong first; [`check_report`] does so for a
//! report alone, which a machine asks for its disks' keys with.

pub mod chain;
pub mod evidence;
pub mod public;

use std::fmt;

use stockade_abi::report::AttestationReport;
use zerocopy::FromBytes;

pub use chain::{Certificates, Root, RootChoice};
pub use evidence::Evidence;

/// Least bytes of a nonce that is one.
pub const LEAST_NONCE: usize = 16;
/// The policy allows its host to look into the guest, or an agent to take it elsewhere (SNP ABI 4.3, table 9).
const POLICY_DEBUG: u64 = 1 << 19;
const POLICY_MIGRATE_MA: u64 = 1 << 18;

/// Why evidence does not stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not what a guest reads from its TPM.
    #[error("the evidence is malformed: {0}")]
    Malformed(&'static str),
    /// The report is not signed by the chip's key, or not for this document.
    #[error("the report is not genuine: {0}")]
    Forged(String),
    /// The certificates do not lead to a root that is trusted.
    #[error("the certificates are not trusted: {0}")]
    Untrusted(String),
    /// It was made for another question.
    #[error("the evidence has another nonce: {0}; it is old, or another verifier's")]
    Nonce(String),
    /// Another TPM.
    #[error("the {0} is not one of the attested TPM: its name is {1}")]
    Key(&'static str, String),
    /// Another image, or one its host can look into.
    #[error("the guest is not the one expected: {0}")]
    Guest(String),
}

impl Refusal {
    /// Returns the process exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Malformed(_) | Self::Forged(_) => 20,
            Self::Untrusted(_) => 21,
            Self::Nonce(_) => 22,
            Self::Key(..) => 23,
            Self::Guest(_) => 24,
        }
    }
}

/// What a verifier expects.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// What it gave the guest to write.
    pub nonce: &'a [u8],
    /// An endorsement key, `TPM2B_PUBLIC`.
    pub ek: &'a [u8],
    /// The attestation key, `TPM2B_PUBLIC`.
    pub ak: &'a [u8],
    /// The launch digest of the image.
    pub measurement: [u8; 48],
    /// Which roots it trusts.
    pub root: RootChoice,
}

/// What was found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whose signature it all rests on.
    pub root: Root,
    /// The chip.
    pub chip_id: [u8; 64],
    /// Which endorsement key was asked about.
    pub ek: &'static str,
}

/// Judges evidence.
///
/// # Errors
/// What is wrong first: form, signature, certificates, nonce, keys, guest.
pub fn verify(
    bytes: &[u8],
    certificates: &Certificates,
    expected: &Expected<'_>,
) -> Result<Verdict, Refusal> {
    let evidence = Evidence::parse(bytes)?;
    let root = certificates.check(&evidence.report_bytes, expected.root)?;
    evidence.check_binding()?;
    check_nonce(&evidence, expected.nonce)?;
    let ek = check_keys(&evidence, expected)?;
    check_guest(&evidence.report, &[expected.measurement])?;
    Ok(Verdict {
        root,
        chip_id: evidence.report.chip_id,
        ek,
    })
}

/// A machine whose report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whose signature it all rests on.
    pub root: Root,
    /// The chip.
    pub chip_id: [u8; 64],
    /// The launch digest.
    pub measurement: [u8; 48],
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = match self.root {
            Root::Amd(product) => format!("AMD {product}"),
            Root::Model => "the SNP model, which proves nothing".to_owned(),
        };
        let (chip, digest) = (hex::encode(self.chip_id), hex::encode(self.measurement));
        write!(f, "launch digest {digest}, chip {chip}, attested by {root}")
    }
}

/// Judges a report by itself: signature, certificates, what it is bound to, and that the guest is one of those with these launch digests.
///
/// # Errors
/// What is wrong first.
pub fn check_report(
    bytes: &[u8],
    report_data: &[u8; 64],
    (certificates, root): (&Certificates, RootChoice),
    measurements: &[[u8; 48]],
) -> Result<Machine, Refusal> {
    let report = AttestationReport::read_from_bytes(bytes);
    let report = report.map_err(|_| Refusal::Malformed("it is no report"))?;
    let root = certificates.check(bytes, root)?;
    if report.report_data != *report_data {
        let text = "it is bound to another document than the one behind it";
        return Err(Refusal::Forged(text.to_owned()));
    }
    check_guest(&report, measurements)?;
    Ok(Machine {
        root,
        chip_id: report.chip_id,
        measurement: report.measurement,
    })
}

fn check_nonce(evidence: &Evidence, nonce: &[u8]) -> Result<(), Refusal> {
    let is_it = nonce.len() >= LEAST_NONCE && evidence.nonce.starts_with(nonce);
    if is_it {
        return Ok(());
    }
    Err(Refusal::Nonce(hex::encode(evidence.nonce)))
}

fn check_keys(evidence: &Evidence, expected: &Expected<'_>) -> Result<&'static str, Refusal> {
    let ek = public::name(expected.ek).ok_or(Refusal::Malformed("no public EK in TPM2B form"))?;
    let ak = public::name(expected.ak).ok_or(Refusal::Malformed("no public AK in TPM2B form"))?;
    let kind = if ek == evidence.rsa_ek {
        "RSA"
    } else if ek == evidence.ecc_ek {
        "ECC"
    } else {
        return Err(Refusal::Key("endorsement key", hex::encode(&ek)));
    };
    if ak != evidence.ak {
        return Err(Refusal::Key("attestation key", hex::encode(&ak)));
    }
    Ok(kind)
}

fn check_guest(report: &AttestationReport, measurements: &[[u8; 48]]) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::Guest(text));
    if !measurements.contains(&report.measurement) {
        return refuse(format!(
            "its launch digest is {}",
            hex::encode(report.measurement)
        ));
    }
    if report.vmpl != 0 {
        return refuse(format!("the report is of VMPL {}", report.vmpl));
    }
    if report.policy & POLICY_DEBUG != 0 {
        return refuse("its policy lets the host debug it".to_owned());
    }
    if report.policy & POLICY_MIGRATE_MA != 0 {
        return refuse("its policy lets an agent take it elsewhere".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn a_guest_is_one_of_those_expected_at_vmpl_0_and_nobody_looks_into_it() {
        let mut report = AttestationReport::new_zeroed();
        report.measurement = [2; 48];
        report.policy = 0x3_0000;
        let expected = [[1; 48], [2; 48]];
        assert_eq!(check_guest(&report, &expected), Ok(()));
        assert!(check_guest(&report, &expected[..1]).is_err());
        assert!(check_guest(&report, &[]).is_err());
        let refused = |change: fn(&mut AttestationReport)| {
            let mut changed = report.clone();
            change(&mut changed);
            check_guest(&changed, &expected).is_err()
        };
        assert!(refused(|report| report.vmpl = 2));
        assert!(refused(|report| report.policy |= POLICY_DEBUG));
        assert!(refused(|report| report.policy |= POLICY_MIGRATE_MA));
    }
}
