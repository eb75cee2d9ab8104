//! The attestation report (SNP ABI 7.3), signed by the chip's VCEK.

use super::chip::{Chip, GuestKeys, KeyName, tcb};
use super::launch::{ABI_MAJOR, ABI_MINOR, Launched};
use p384::ecdsa::{Signature, signature::Signer};
use stockade_abi::report::{
    AttestationReport, ReportFlags, SCALAR_SIZE, SIGNATURE_ALGO_ECDSA_P384_SHA384, SIGNED_SIZE,
};
use zerocopy::IntoBytes;

/// Layout of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// Version 2.
    V2,
    /// Version 3: with the processor's family, model and stepping.
    #[default]
    V3,
}

/// What the asker says.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Bound to the report.
    pub report_data: [u8; 64],
    /// VMPL attested.
    pub vmpl: u32,
}

/// Firmware build number, beside the ABI version.
const BUILD: u8 = 8;
/// SIGNING_KEY of the flags: VCEK.
const SIGNED_BY_VCEK: u8 = 0;

/// Writes and signs a report. `family_model_stepping` is CPUID 1, EAX.
#[must_use]
pub fn attest(
    chip: &Chip,
    guest: &Launched,
    keys: &GuestKeys,
    asked: &Asked,
    version: Version,
    family_model_stepping: u32,
) -> AttestationReport {
    let mut report = AttestationReport::zeroed();
    fill_guest(&mut report, guest, keys, asked);
    fill_platform(&mut report, chip);
    report.version = 2;
    if version == Version::V3 {
        report.version = 3;
        let [low, mid, high, _] = family_model_stepping.to_le_bytes();
        report.cpuid_family =
            (mid & 0xF) + (high >> 4 | (family_model_stepping >> 24).to_le_bytes()[0] << 4);
        report.cpuid_model = (high & 0xF) << 4 | low >> 4;
        report.cpuid_stepping = low & 0xF;
    }
    sign(chip, &mut report);
    report
}

fn fill_guest(report: &mut AttestationReport, guest: &Launched, keys: &GuestKeys, asked: &Asked) {
    report.guest_svn = guest.identity.guest_svn;
    report.policy = guest.policy;
    report.family_id = guest.identity.family_id;
    report.image_id = guest.identity.image_id;
    report.vmpl = asked.vmpl;
    report.report_data = asked.report_data;
    report.measurement = guest.measurement;
    report.host_data = guest.host_data;
    report.id_key_digest = guest.identity.id_key_digest;
    report.author_key_digest = guest.identity.author_key_digest.unwrap_or([0; 48]);
    report.report_id = keys.report_id;
    report.report_id_ma = [0xFF; 32];
    report.flags = ReportFlags::new()
        .with_author_key_en(guest.identity.author_key_digest.is_some())
        .with_signing_key(SIGNED_BY_VCEK);
}

fn fill_platform(report: &mut AttestationReport, chip: &Chip) {
    report.signature_algo = SIGNATURE_ALGO_ECDSA_P384_SHA384;
    report.chip_id = chip.id();
    report.current_tcb = tcb();
    report.reported_tcb = tcb();
    report.committed_tcb = tcb();
    report.launch_tcb = tcb();
    (report.current_build, report.committed_build) = (BUILD, BUILD);
    (report.current_minor, report.committed_minor) = (ABI_MINOR, ABI_MINOR);
    (report.current_major, report.committed_major) = (ABI_MAJOR, ABI_MAJOR);
}

/// ECDSA P-384 with SHA-384 over all before the signature; R and S least significant byte first.
fn sign(chip: &Chip, report: &mut AttestationReport) {
    let key = chip.signing_key(KeyName::Vcek);
    let signature: Signature = key.sign(&report.as_bytes()[..SIGNED_SIZE]);
    let (r, s) = signature.split_bytes();
    for (field, scalar) in [(&mut report.signature.r, r), (&mut report.signature.s, s)] {
        for (byte, digit) in field[..SCALAR_SIZE].iter_mut().zip(scalar.iter().rev()) {
            *byte = *digit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psp::certificates;
    use crate::psp::launch::{Launch, PageType};
    use p384::ecdsa::signature::Verifier;
    use sev::certs::snp::{Certificate, Verifiable};
    use sev::parser::ByteParser;

    fn report(version: Version) -> (Chip, AttestationReport) {
        let mut chip = Chip::new(42);
        let keys = chip.launch_keys();
        let mut launch = Launch::start(0x3_0000).unwrap();
        launch.update(PageType::Normal, 0x1000, &[1; 4096]).unwrap();
        let guest = launch.finish(None, [9; 32]).unwrap();
        let asked = Asked {
            report_data: [5; 64],
            vmpl: 2,
        };
        let report = attest(&chip, &guest, &keys, &asked, version, 0x00A0_0F11);
        (chip, report)
    }

    /// The crate `sev` is what verifiers use: it reads our report as AMD's firmware would have written it.
    #[test]
    fn independent_reader_finds_every_field() {
        let (chip, ours) = report(Version::V3);
        let read = sev::firmware::guest::AttestationReport::from_bytes(ours.as_bytes()).unwrap();
        assert_eq!((read.version, read.vmpl, read.sig_algo), (3, 2, 1));
        assert_eq!(read.policy.0, 0x3_0000);
        assert_eq!(read.report_data, [5; 64]);
        assert_eq!(read.host_data, [9; 32]);
        assert_eq!(read.measurement, ours.measurement);
        assert_eq!(read.chip_id, chip.id());
        assert_eq!(
            (read.reported_tcb.bootloader, read.reported_tcb.snp),
            (4, 24)
        );
        assert_eq!(read.reported_tcb.microcode, 219);
        assert_eq!(
            (read.current.major, read.current.minor, read.current.build),
            (1, 55, 8)
        );
        assert_eq!(
            (read.cpuid_fam_id, read.cpuid_mod_id, read.cpuid_step),
            (Some(0x19), Some(1), Some(1))
        );
    }

    #[test]
    fn independent_verifier_accepts_report_and_certificate() {
        for version in [Version::V2, Version::V3] {
            let (chip, ours) = report(version);
            let chain = certificates::chain(&chip).unwrap();
            let vcek = Certificate::from_der(&chain.vcek).unwrap();
            let read =
                sev::firmware::guest::AttestationReport::from_bytes(ours.as_bytes()).unwrap();
            (&vcek, &read).verify().unwrap();
        }
    }

    #[test]
    fn one_changed_bit_breaks_the_signature() {
        let (chip, mut ours) = report(Version::V2);
        ours.measurement[0] ^= 1;
        let chain = certificates::chain(&chip).unwrap();
        let vcek = Certificate::from_der(&chain.vcek).unwrap();
        let read = sev::firmware::guest::AttestationReport::from_bytes(ours.as_bytes()).unwrap();
        assert!((&vcek, &read).verify().is_err());
    }

    #[test]
    fn signature_is_little_endian_and_verifies_with_the_chip_key() {
        let (chip, ours) = report(Version::V2);
        let scalar = |field: &[u8; 72]| {
            let mut bytes: [u8; 48] = field[..48].try_into().unwrap();
            bytes.reverse();
            bytes
        };
        let signature =
            Signature::from_scalars(scalar(&ours.signature.r), scalar(&ours.signature.s)).unwrap();
        let key = *chip.signing_key(KeyName::Vcek).verifying_key();
        key.verify(&ours.as_bytes()[..SIGNED_SIZE], &signature)
            .unwrap();
        assert_eq!(ours.signature.r[48..], [0; 24]);
    }
}
