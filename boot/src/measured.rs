//! Measured boot: what the paravisor measures before the guest, into which PCR, and the log that tells a verifier.
//!
//! Of a kernel that no firmware starts, that is everything. Firmware measures what it starts, into a log of its own; what comes before it,
//! itself included, is measured here.
//!
//! The launch digest of the secure processor covers the paravisor and the manifest, and the manifest has a digest of each file. The
//! TPM's PCRs say the same to software that knows TPMs: each event's data is a line of text with the SHA-384 digest that the
//! paravisor has compared, and each digest in the log is of that line, so the log can be checked without the files. The log is
//! of the crypto-agile kind (TCG PC Client Platform Firmware Profile 1.06, 10).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha256, Sha384};

use crate::manifest::{Manifest, PayloadKind, Start};

/// Algorithm identifiers of the log's banks, with the bytes of each digest.
const BANKS: [(u16, u16); 2] = [(0x000B, 32), (0x000C, 48)];
/// PCRs that firmware measures into, each of them closed by a separator before anything is started.
const FIRMWARE_PCRS: u32 = 8;

/// What an event is (TCG PFP 1.06, 10.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType(pub u32);

impl EventType {
    /// A part of the firmware.
    pub const POST_CODE: Self = Self(0x01);
    /// Informs, and extends nothing.
    pub const NO_ACTION: Self = Self(0x03);
    /// Ends what firmware does.
    pub const SEPARATOR: Self = Self(0x04);
    /// The version of what measures.
    pub const S_CRTM_VERSION: Self = Self(0x08);
    /// How the machine is set up.
    pub const PLATFORM_CONFIG_FLAGS: Self = Self(0x0A);
    /// What is started, and what that is given.
    pub const IPL: Self = Self(0x0D);
}

/// A measurement: a PCR is extended by a digest of the data, in each bank the TPM has. The log has those of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Which PCR.
    pub pcr: u32,
    /// What was measured.
    pub kind: EventType,
    /// The event's data, of which the digests are: at most the 1024 bytes a TPM hashes at once.
    pub data: Vec<u8>,
}

impl Measurement {
    fn text(pcr: u32, kind: EventType, text: String) -> Self {
        Self {
            pcr,
            kind,
            data: text.into_bytes(),
        }
    }

    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.data).into()
    }

    fn sha384(&self) -> [u8; 48] {
        Sha384::digest(&self.data).into()
    }
}

/// Returns what is measured of a guest that is started as its manifest says, in order.
#[must_use]
pub fn measurements(manifest: &Manifest) -> Vec<Measurement> {
    let mut all = vec![version()];
    match manifest.start() {
        Start::Kernel => {
            all.push(Measurement::text(
                1,
                EventType::PLATFORM_CONFIG_FLAGS,
                line("manifest", &manifest.digest()),
            ));
            all.extend((0..FIRMWARE_PCRS).map(separator));
            all.extend(files(manifest));
        }
        // Firmware's own log begins with nothing extended, and separators are its own.
        Start::Firmware => all.extend(files(manifest).filter(|file| file.pcr == 0)),
    }
    all
}

fn version() -> Measurement {
    let version = concat!("Stockade ", env!("CARGO_PKG_VERSION"), "\0");
    Measurement {
        pcr: 0,
        kind: EventType::S_CRTM_VERSION,
        data: version.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    }
}

fn separator(pcr: u32) -> Measurement {
    Measurement {
        pcr,
        kind: EventType::SEPARATOR,
        data: [0; 4].to_vec(),
    }
}

fn files(manifest: &Manifest) -> impl Iterator<Item = Measurement> {
    let mut pcr = 0;
    manifest.payloads().map(move |payload| {
        pcr = pcr_of(payload.kind, pcr);
        let kind = match payload.kind {
            PayloadKind::FIRMWARE => EventType::POST_CODE,
            _ => EventType::IPL,
        };
        Measurement::text(pcr, kind, line(payload.kind.name(), &payload.sha384))
    })
}

/// Where firmware and boot loaders measure the same: parts of firmware to 0, code to 4, command lines to 8, other files to 9. The words
/// of a part of firmware, which `before` was, go with it.
fn pcr_of(kind: PayloadKind, before: u32) -> u32 {
    match kind {
        PayloadKind::PARAVISOR_MODULE | PayloadKind::FIRMWARE => 0,
        PayloadKind::MODULE_COMMAND_LINE if before == 0 => 0,
        PayloadKind::KERNEL => 4,
        PayloadKind::COMMAND_LINE | PayloadKind::MODULE_COMMAND_LINE => 8,
        _ => 9,
    }
}

fn line(what: &str, digest: &[u8]) -> String {
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{what} sha384:{digits}")
}

/// Returns the log of `measurements` (TCG PFP 1.06, 10.2 and 10.4.5).
#[must_use]
pub fn log(measurements: &[Measurement]) -> Vec<u8> {
    let mut log = Vec::new();
    let identity = identity();
    // The first event has the old form: one digest, of SHA-1's length.
    word(&mut log, 0);
    word(&mut log, EventType::NO_ACTION.0);
    log.extend_from_slice(&[0; 20]);
    sized(&mut log, &identity);
    for measurement in measurements {
        word(&mut log, measurement.pcr);
        word(&mut log, measurement.kind.0);
        word(&mut log, 2);
        log.extend_from_slice(&BANKS[0].0.to_le_bytes());
        log.extend_from_slice(&measurement.sha256());
        log.extend_from_slice(&BANKS[1].0.to_le_bytes());
        log.extend_from_slice(&measurement.sha384());
        sized(&mut log, &measurement.data);
    }
    log
}

/// What the log is (TCG PFP 1.06, 10.4.5.1).
fn identity() -> Vec<u8> {
    let mut identity = Vec::from(*b"Spec ID Event03\0");
    // A client; version 2.0, errata 106; 64-bit numbers.
    word(&mut identity, 0);
    identity.extend_from_slice(&[0, 2, 106, 2]);
    word(&mut identity, 2);
    for (algorithm, len) in BANKS {
        identity.extend_from_slice(&algorithm.to_le_bytes());
        identity.extend_from_slice(&len.to_le_bytes());
    }
    // Nothing of the vendor's.
    identity.push(0);
    identity
}

fn word(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

/// Events are short: lines, and one identity.
fn sized(bytes: &mut Vec<u8>, content: &[u8]) {
    word(bytes, u32::try_from(content.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::layout::{C_BIT, STAGING_BASE};
    use crate::manifest::{GuestFlags, Payload};

    fn manifest() -> Manifest {
        let payload = |kind, at: u64, fill| Payload::new(kind, STAGING_BASE + at, 100, [fill; 48]);
        let payloads = [
            payload(PayloadKind::KERNEL, 0, 1),
            payload(PayloadKind::INITRD, 0x1000, 2),
            payload(PayloadKind::COMMAND_LINE, 0x2000, 3),
        ];
        Manifest::new(C_BIT, 1, GuestFlags::TPM, &payloads).unwrap()
    }

    /// Reads a log as a verifier does, with nothing but the log; returns the PCRs of the SHA-256 bank.
    fn replay(log: &[u8]) -> BTreeMap<u32, [u8; 32]> {
        let word = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
        let size = |at: usize| usize::try_from(word(at)).unwrap();
        let mut pcrs = BTreeMap::new();
        let mut at = 32 + size(28);
        while at < log.len() {
            let pcr = pcrs.entry(word(at)).or_insert([0; 32]);
            assert_eq!(word(at + 8), 2);
            assert_eq!(log[at + 12..at + 14], [0x0B, 0]);
            let digest = &log[at + 14..at + 46];
            assert_eq!(log[at + 46..at + 48], [0x0C, 0]);
            let data = &log[at + 100..at + 100 + size(at + 96)];
            assert_eq!(digest, &Sha256::digest(data)[..]);
            assert_eq!(&log[at + 48..at + 96], &Sha384::digest(data)[..]);
            *pcr = Sha256::new_with_prefix(*pcr)
                .chain_update(digest)
                .finalize()
                .into();
            at += 100 + data.len();
        }
        assert_eq!(at, log.len());
        pcrs
    }

    #[test]
    fn log_replays_to_what_was_extended() {
        let measurements = measurements(&manifest());
        let mut extended = BTreeMap::new();
        for measurement in &measurements {
            let pcr = extended.entry(measurement.pcr).or_insert([0; 32]);
            let hash = Sha256::new_with_prefix(*pcr).chain_update(measurement.sha256());
            *pcr = hash.finalize().into();
        }
        assert_eq!(replay(&log(&measurements)), extended);
        assert!(extended.keys().copied().eq(0..10));
    }

    #[test]
    fn firmware_is_measured_into_the_first_pcr_alone_and_closes_none() {
        let payload =
            |kind, at: u64, len, fill| Payload::new(kind, STAGING_BASE + at, len, [fill; 48]);
        let pcrs = |fill| {
            let payloads = [
                payload(PayloadKind::FIRMWARE, 0, 0x37_C000, fill),
                payload(PayloadKind::VARIABLES, 0x40_0000, 0x8_4000, 9),
            ];
            let manifest = Manifest::new(C_BIT, 1, GuestFlags::TPM, &payloads).unwrap();
            replay(&log(&measurements(&manifest)))
        };
        let (one, other) = (pcrs(1), pcrs(2));
        assert!(one.keys().eq(&[0]));
        assert_ne!(one, other);
    }

    #[test]
    fn log_begins_with_its_identity() {
        let log = log(&[]);
        assert_eq!(log[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(log[8..28], [0; 20]);
        assert_eq!(log[28..32], 37_u32.to_le_bytes());
        assert_eq!(&log[32..48], b"Spec ID Event03\0");
        assert_eq!(log[56..60], 2_u32.to_le_bytes());
        assert_eq!(log.len(), 32 + 37);
    }

    #[test]
    fn every_file_changes_its_pcr_and_no_other_but_the_manifest_s() {
        let pcrs = |manifest: &Manifest| replay(&log(&measurements(manifest)));
        let before = pcrs(&manifest());
        for (kind, pcr) in [
            (PayloadKind::KERNEL, 4),
            (PayloadKind::COMMAND_LINE, 8),
            (PayloadKind::INITRD, 9),
        ] {
            let payloads: Vec<Payload> = manifest()
                .payloads()
                .map(|payload| {
                    let mut payload = *payload;
                    if payload.kind == kind {
                        payload.sha384[47] ^= 1;
                    }
                    payload
                })
                .collect();
            let changed = Manifest::new(C_BIT, 1, GuestFlags::TPM, &payloads).unwrap();
            let after = pcrs(&changed);
            let differ: Vec<u32> = (0..10).filter(|pcr| before[pcr] != after[pcr]).collect();
            assert_eq!(differ, [1, pcr], "{kind}");
        }
    }

    #[test]
    fn longest_log_fits_its_area_and_each_event_a_tpm() {
        let payloads: Vec<Payload> = (0..24_u64)
            .map(|index| {
                let kind = match index {
                    0 => PayloadKind::KERNEL,
                    _ => PayloadKind::MODULE,
                };
                Payload::new(kind, STAGING_BASE + index * 0x1000, 1, [0; 48])
            })
            .collect();
        let manifest = Manifest::new(C_BIT, 1, GuestFlags::TPM, &payloads).unwrap();
        let measurements = measurements(&manifest);
        let longest = measurements.iter().map(|it| it.data.len()).max();
        // What TPM2_PCR_Event takes.
        assert!(longest.unwrap() <= 1024);
        let len = log(&measurements).len() as u64;
        assert!(len < crate::layout::guest::TPM_LOG_SIZE, "{len}");
    }
}
