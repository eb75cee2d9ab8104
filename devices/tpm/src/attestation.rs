//! What a guest asks to have attested, and where it finds the answer: two NV indexes, as `docs/attestation.md` has them.
//!
//! A guest writes a nonce to [`NONCE`]. Before it is told that this is done, the secure processor's report of the paravisor is put at
//! [`REPORT`], with a document behind it that the report is bound to: the nonce, and the names of the endorsement keys and of the
//! attestation key. Names are those of the keys as they were made, whatever the guest has put at their handles since. The report's index
//! is written at locality 4, which no software of a guest reaches.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use stockade_devices::tpm::command::{
    self, CommandCode, HEADER_BYTES, HashAlgorithm, Header, Locality, ResponseCode,
};

use crate::endorsement::{
    ATTESTATION_KEY, ECC_KEY, FLUSH_CONTEXT, Key, NV_DEFINED, PLATFORM, RSA_KEY, run, sized, words,
};
use crate::records::Records;
use crate::{Engine, TpmError};

/// Where the guest reads.
const REPORT: u32 = 0x0140_0001;
const REPORT_BYTES: u16 = 1536;
/// Where it writes.
const NONCE: u32 = 0x0140_0002;
const NONCE_BYTES: u16 = 64;
/// What a document begins with.
const MAGIC: &[u8; 16] = b"STOCKADE TPM 1\0\0";
/// The record with the names of the keys.
const NAMES: &str = "names";
/// The most that is read or written of an index at once, whatever the engine.
const STEP: usize = 512;

const NV_DEFINE: CommandCode = CommandCode(0x12A);
const NV_WRITE: CommandCode = CommandCode(0x137);
const NV_READ: CommandCode = CommandCode(0x14E);
const READ_PUBLIC: CommandCode = CommandCode(0x173);
const START_SESSION: CommandCode = CommandCode(0x176);
const POLICY_LOCALITY: CommandCode = CommandCode(0x16F);
const NO_HANDLE: u32 = 0x4000_0007;
const NO_ALGORITHM: u16 = 0x0010;
const POLICY_SESSION: u8 = 1;
/// `TPMA_LOCALITY` of locality 4.
const ONLY_FOUR: u8 = 1 << 4;

/// Attributes of indexes (TPM 2.0 Library, part 2, 13.4).
mod nv {
    pub(super) const OWNER_WRITE: u32 = 1 << 1;
    pub(super) const AUTH_WRITE: u32 = 1 << 2;
    pub(super) const POLICY_WRITE: u32 = 1 << 3;
    pub(super) const OWNER_READ: u32 = 1 << 17;
    pub(super) const AUTH_READ: u32 = 1 << 18;
    pub(super) const NO_DA: u32 = 1 << 25;
    pub(super) const PLATFORM_CREATE: u32 = 1 << 30;
}

/// Who has documents signed by the secure processor.
pub trait Attester {
    /// Returns the report that is bound to a document.
    fn report(&mut self, document: &[u8]) -> io::Result<Vec<u8>>;
}

/// Reports from a descriptor: the document is written, the report is read.
#[derive(Debug)]
pub struct ChannelAttester<S>(S);

impl<S: Read + Write> ChannelAttester<S> {
    /// Returns who asks `reports`.
    pub fn new(reports: S) -> Self {
        Self(reports)
    }
}

impl<S: Read + Write> Attester for ChannelAttester<S> {
    fn report(&mut self, document: &[u8]) -> io::Result<Vec<u8>> {
        if self.0.write(document)? != document.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut report = vec![0; 4096];
        let len = self.0.read(&mut report)?;
        report.truncate(len);
        Ok(report)
    }
}

/// Gives a new TPM the two indexes and the attestation key.
pub(crate) fn prepare(engine: &mut impl Engine) -> Result<(), TpmError> {
    let common = nv::AUTH_READ | nv::OWNER_READ | nv::NO_DA | nv::PLATFORM_CREATE;
    let report = common | nv::POLICY_WRITE;
    define(engine, REPORT, report, &locality_policy(), REPORT_BYTES)?;
    let nonce = common | nv::AUTH_WRITE | nv::OWNER_WRITE;
    define(engine, NONCE, nonce, &[], NONCE_BYTES)?;
    Key::attestation().persist(engine)
}

/// Keeps the names of the keys as they have just been made: a report says these, not what lies at the handles later.
pub(crate) fn keep_names(
    engine: &mut impl Engine,
    records: &mut dyn Records,
) -> Result<(), TpmError> {
    let mut names = Vec::new();
    for handle in [RSA_KEY, ECC_KEY, ATTESTATION_KEY] {
        sized(&mut names, &name(engine, handle)?.unwrap_or_default());
    }
    // A key that was made before keeps the name it had then.
    if let Some(kept) = records.get(NAMES)? {
        names = merged(&kept, &names);
    }
    Ok(records.put(NAMES, &names)?)
}

/// Returns whether a guest has just written a nonce.
pub(crate) fn is_asked(command: &[u8], response: &[u8]) -> bool {
    let is_write = Header::read(command).is_some_and(|header| header.code == NV_WRITE.0);
    let index = command.get(HEADER_BYTES + 4..HEADER_BYTES + 8);
    is_write
        && index == Some(&NONCE.to_be_bytes())
        && command::response_code(response) == ResponseCode::SUCCESS
}

/// Puts a report with the nonce where the guest finds it.
pub(crate) fn answer(
    engine: &mut impl Engine,
    records: &mut dyn Records,
    attester: &mut dyn Attester,
) -> Result<(), TpmError> {
    let nonce = read_nonce(engine)?;
    let names = records.get(NAMES)?.unwrap_or_default();
    let document = [MAGIC.as_slice(), &nonce, &names].concat();
    let mut found = attester.report(&document).map_err(TpmError::Report)?;
    found.extend_from_slice(&document);
    found.resize(REPORT_BYTES.into(), 0);
    for (step, bytes) in found.chunks(STEP).enumerate() {
        write_report(engine, step * STEP, bytes)?;
    }
    Ok(())
}

fn define(
    engine: &mut impl Engine,
    index: u32,
    attributes: u32,
    policy: &[u8],
    len: u16,
) -> Result<(), TpmError> {
    let mut public = Vec::from(index.to_be_bytes());
    words(&mut public, &[HashAlgorithm::SHA256.0]);
    public.extend_from_slice(&attributes.to_be_bytes());
    sized(&mut public, policy);
    words(&mut public, &[len]);
    // No authorization value.
    let mut parameters = vec![0, 0];
    sized(&mut parameters, &public);
    let define = command::authorized(NV_DEFINE, &[PLATFORM], &parameters);
    run(engine, &define, &[NV_DEFINED]).map(|_| ())
}

/// Returns the policy that is fulfilled at locality 4 (TPM 2.0 Library, part 3, 23.8).
fn locality_policy() -> [u8; 32] {
    Sha256::new()
        .chain_update([0; 32])
        .chain_update(POLICY_LOCALITY.0.to_be_bytes())
        .chain_update([ONLY_FOUR])
        .finalize()
        .into()
}

/// Returns the name of a key; `None` if there is none (TPM 2.0 Library, part 3, 12.4).
fn name(engine: &mut impl Engine, handle: u32) -> Result<Option<Vec<u8>>, TpmError> {
    let read = command::plain(READ_PUBLIC, &handle.to_be_bytes());
    let response = engine.execute(Locality::ZERO, &read)?;
    if command::response_code(&response) != ResponseCode::SUCCESS {
        return Ok(None);
    }
    let sized = |bytes: &[u8]| take_sized(bytes).map(|(it, rest)| (it.to_vec(), rest.to_vec()));
    let after_public = sized(&response[HEADER_BYTES..]).map(|(_, rest)| rest);
    Ok(after_public
        .and_then(|rest| sized(&rest))
        .map(|(name, _)| name))
}

/// Takes the first of the names that is there of each key.
fn merged(kept: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut kept, mut new, mut names) = (kept, new, Vec::new());
    while let Some((found, rest)) = take_sized(new) {
        new = rest;
        let before = take_sized(kept);
        kept = before.map_or(&[], |(_, rest)| rest);
        match before {
            Some((name, _)) if !name.is_empty() => sized(&mut names, name),
            _ => sized(&mut names, found),
        }
    }
    names
}

/// Takes bytes behind their number.
fn take_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

fn read_nonce(engine: &mut impl Engine) -> Result<Vec<u8>, TpmError> {
    let mut parameters = Vec::new();
    words(&mut parameters, &[NONCE_BYTES, 0]);
    let read = command::authorized(NV_READ, &[NONCE, NONCE], &parameters);
    let response = run(engine, &read, &[])?;
    // The size of the parameters, then the bytes behind their number.
    let nonce = response.get(HEADER_BYTES + 4..).and_then(take_sized);
    let nonce = nonce.filter(|(nonce, _)| nonce.len() == usize::from(NONCE_BYTES));
    let (nonce, _) = nonce.ok_or(TpmError::Manufacture(NV_READ, ResponseCode::FAILURE))?;
    Ok(nonce.to_vec())
}

/// Writes at locality 4, which the index's policy asks for.
fn write_report(engine: &mut impl Engine, at: usize, bytes: &[u8]) -> Result<(), TpmError> {
    let mut parameters = Vec::new();
    for handle in [NO_HANDLE, NO_HANDLE] {
        parameters.extend_from_slice(&handle.to_be_bytes());
    }
    sized(&mut parameters, &[0; 16]);
    sized(&mut parameters, &[]);
    parameters.push(POLICY_SESSION);
    words(&mut parameters, &[NO_ALGORITHM, HashAlgorithm::SHA256.0]);
    let started = run(engine, &command::plain(START_SESSION, &parameters), &[])?;
    let session = started.get(HEADER_BYTES..).and_then(|it| it.first_chunk());
    let session = session.ok_or(TpmError::Manufacture(START_SESSION, ResponseCode::FAILURE))?;
    let locality = [session.as_slice(), &[ONLY_FOUR]].concat();
    run(engine, &command::plain(POLICY_LOCALITY, &locality), &[])?;
    let mut parameters = Vec::new();
    sized(&mut parameters, bytes);
    words(&mut parameters, &[u16::try_from(at).unwrap_or(u16::MAX)]);
    let session = u32::from_be_bytes(*session);
    let write = command::by_session(NV_WRITE, &[REPORT, REPORT], session, &parameters);
    let response = engine.execute(Locality::FOUR, &write)?;
    match command::response_code(&response) {
        ResponseCode::SUCCESS => Ok(()),
        code => {
            // It ends with the command only when that is done.
            let flush = command::plain(FLUSH_CONTEXT, &session.to_be_bytes());
            engine.execute(Locality::ZERO, &flush)?;
            Err(TpmError::Manufacture(NV_WRITE, code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_what_tpm2_policylocality_makes_of_locality_4() {
        let digest = locality_policy();
        let mut other = Sha256::new();
        other.update([[0; 32].as_slice(), &[0, 0, 1, 0x6F, 0x10]].concat());
        assert_eq!(digest, <[u8; 32]>::from(other.finalize()));
    }

    #[test]
    fn only_a_nonce_that_was_written_asks() {
        let write = |index: u32| command::authorized(NV_WRITE, &[index, index], &[0, 0, 0, 0]);
        let done = command::failed(ResponseCode::SUCCESS);
        assert!(is_asked(&write(NONCE), &done));
        assert!(!is_asked(&write(REPORT), &done));
        let failed = command::failed(ResponseCode::FAILURE);
        assert!(!is_asked(&write(NONCE), &failed));
        let read = command::authorized(NV_READ, &[NONCE, NONCE], &[0, 0, 0, 0]);
        assert!(!is_asked(&read, &done));
        assert!(!is_asked(&write(NONCE)[..12], &done));
    }

    /// Whoever owns the TPM may put another key at a handle: the report goes on to name the one that was made.
    #[test]
    fn a_name_once_kept_stays() {
        let names = |list: [&[u8]; 3]| {
            let mut names = Vec::new();
            list.iter().for_each(|name| sized(&mut names, name));
            names
        };
        let kept = names([b"", b"ecc", b"ak"]);
        let found = names([b"rsa", b"other", b"forged"]);
        assert_eq!(merged(&kept, &found), names([b"rsa", b"ecc", b"ak"]));
        assert_eq!(merged(&[], &found), found);
    }

    #[test]
    fn nonsense_has_no_sized_bytes() {
        assert_eq!(take_sized(&[0]), None);
        assert_eq!(take_sized(&[0, 2, 1]), None);
        assert_eq!(take_sized(&[0, 1, 7, 8]), Some((&[7][..], &[8][..])));
    }
}
