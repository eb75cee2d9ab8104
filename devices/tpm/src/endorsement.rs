//! What a TPM is given once, when it is new: its banks of PCRs, and its endorsement keys where software looks for them.
//!
//! The keys follow from the endorsement seed and the templates of the TCG EK Credential Profile 2.6 (annex B); whoever wants
//! others makes them by their templates. RSA 2048 and P-384 lie where `swtpm_setup` has them, P-256 where go-tpm-tools look for an ECC
//! key, after the TCG's TPM 2.0 Provisioning Guidance.

use stockade_devices::tpm::command::{
    self, CommandCode, HEADER_BYTES, HashAlgorithm, Locality, ResponseCode,
};

use crate::{Engine, TpmError};

/// Where the keys lie.
pub(crate) const RSA_KEY: u32 = 0x8101_0001;
pub(crate) const ECC_KEY: u32 = 0x8101_0016;
pub(crate) const ECC_P256_KEY: u32 = 0x8101_0002;
pub(crate) const ATTESTATION_KEY: u32 = 0x8100_0003;

const OWNER: u32 = 0x4000_0001;
const ENDORSEMENT: u32 = 0x4000_000B;
pub(crate) const PLATFORM: u32 = 0x4000_000C;

const PCR_ALLOCATE: CommandCode = CommandCode(0x12B);
const CREATE_PRIMARY: CommandCode = CommandCode(0x131);
const EVICT_CONTROL: CommandCode = CommandCode(0x120);
pub(crate) const FLUSH_CONTEXT: CommandCode = CommandCode(0x165);
/// What `EVICT_CONTROL` says when something lies there already.
pub(crate) const NV_DEFINED: ResponseCode = ResponseCode(0x14C);

const ALGORITHM_RSA: u16 = 0x0001;
const ALGORITHM_AES: u16 = 0x0006;
const ALGORITHM_NULL: u16 = 0x0010;
const ALGORITHM_ECC: u16 = 0x0023;
const MODE_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;
const SCHEME_ECDSA: u16 = 0x0018;

/// Fixed to TPM and parent, made here, restricted decryption, policy for administration.
const ATTRIBUTES: u32 = 0x0003_00B2;
/// And use by authorization value.
const ATTRIBUTES_HIGH: u32 = 0x0003_00F2;

/// Fixed to TPM and parent, made here, restricted signing, use by authorization value, no count of failed guesses.
const ATTRIBUTES_ATTESTATION: u32 = 0x0005_0472;

/// `PolicySecret` of the endorsement hierarchy, SHA-256 (annex B.2).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24,
    0xFD, 0x52, 0xD7, 0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA,
];
/// That, or what an NV index says; SHA-384 (annex B.6).
const POLICY_B_SHA384: [u8; 48] = [
    0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A,
    0x07, 0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA,
    0xCB, 0x47, 0xBA, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
];

/// The banks a new TPM has, of those libtpms can have.
const BANKS: [(HashAlgorithm, bool); 4] = [
    (HashAlgorithm::SHA1, false),
    (HashAlgorithm::SHA256, true),
    (HashAlgorithm::SHA384, true),
    (HashAlgorithm::SHA512, false),
];

/// A key to be found at a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    handle: u32,
    /// `TPMT_PUBLIC` (TPM 2.0 Library, part 2, 12.2.4).
    template: Vec<u8>,
}

impl Key {
    /// Template L-1: RSA 2048.
    pub(crate) fn rsa_2048() -> Self {
        let mut template = public(ALGORITHM_RSA, HashAlgorithm::SHA256, ATTRIBUTES);
        sized(&mut template, &POLICY_A_SHA256);
        words(
            &mut template,
            &[ALGORITHM_AES, 128, MODE_CFB, ALGORITHM_NULL],
        );
        // Bits, the usual exponent, and a modulus that is not known yet.
        words(&mut template, &[2048, 0, 0]);
        sized(&mut template, &[0; 256]);
        Self {
            handle: RSA_KEY,
            template,
        }
    }

    /// Template L-2: NIST P-256.
    pub(crate) fn ecc_p256() -> Self {
        let mut template = public(ALGORITHM_ECC, HashAlgorithm::SHA256, ATTRIBUTES);
        sized(&mut template, &POLICY_A_SHA256);
        words(
            &mut template,
            &[ALGORITHM_AES, 128, MODE_CFB, ALGORITHM_NULL],
        );
        words(&mut template, &[CURVE_P256, ALGORITHM_NULL]);
        // A point that is not known yet.
        sized(&mut template, &[0; 32]);
        sized(&mut template, &[0; 32]);
        Self {
            handle: ECC_P256_KEY,
            template,
        }
    }

    /// Template H-3: NIST P-384.
    pub(crate) fn ecc_p384() -> Self {
        let mut template = public(ALGORITHM_ECC, HashAlgorithm::SHA384, ATTRIBUTES_HIGH);
        sized(&mut template, &POLICY_B_SHA384);
        words(
            &mut template,
            &[ALGORITHM_AES, 256, MODE_CFB, ALGORITHM_NULL],
        );
        words(&mut template, &[CURVE_P384, ALGORITHM_NULL, 0, 0]);
        Self {
            handle: ECC_KEY,
            template,
        }
    }

    /// The attestation key: NIST P-256, which signs what the TPM itself says and nothing else.
    pub(crate) fn attestation() -> Self {
        let mut template = public(ALGORITHM_ECC, HashAlgorithm::SHA256, ATTRIBUTES_ATTESTATION);
        sized(&mut template, &[]);
        words(
            &mut template,
            &[ALGORITHM_NULL, SCHEME_ECDSA, HashAlgorithm::SHA256.0],
        );
        words(&mut template, &[CURVE_P256, ALGORITHM_NULL, 0, 0]);
        Self {
            handle: ATTESTATION_KEY,
            template,
        }
    }

    /// Makes the key and leaves it at its handle.
    pub(crate) fn persist(&self, engine: &mut impl Engine) -> Result<(), TpmError> {
        // No authorization value, no data.
        let mut parameters = Vec::from([0, 4, 0, 0, 0, 0]);
        sized(&mut parameters, &self.template);
        // No outside information, no PCRs.
        parameters.extend_from_slice(&[0; 6]);
        let create = command::authorized(CREATE_PRIMARY, &[ENDORSEMENT], &parameters);
        let response = run(engine, &create, &[])?;
        let object = response[HEADER_BYTES..]
            .first_chunk()
            .map(|handle| u32::from_be_bytes(*handle))
            .ok_or(TpmError::Manufacture(CREATE_PRIMARY, ResponseCode::FAILURE))?;
        let evict =
            command::authorized(EVICT_CONTROL, &[OWNER, object], &self.handle.to_be_bytes());
        run(engine, &evict, &[NV_DEFINED])?;
        run(
            engine,
            &command::plain(FLUSH_CONTEXT, &object.to_be_bytes()),
            &[],
        )?;
        Ok(())
    }
}

/// Chooses the banks, from the next start on.
pub(crate) fn allocate_banks(engine: &mut impl Engine) -> Result<(), TpmError> {
    let mut parameters = Vec::from(4_u32.to_be_bytes());
    for (algorithm, is_allocated) in BANKS {
        words(&mut parameters, &[algorithm.0]);
        parameters.push(3);
        parameters.extend_from_slice(&[if is_allocated { 0xFF } else { 0 }; 3]);
    }
    let allocate = command::authorized(PCR_ALLOCATE, &[PLATFORM], &parameters);
    run(engine, &allocate, &[]).map(|_| ())
}

/// Executes what must succeed, or end in one of `other_ends`.
pub(crate) fn run(
    engine: &mut impl Engine,
    command: &[u8],
    other_ends: &[ResponseCode],
) -> Result<Vec<u8>, TpmError> {
    let response = engine.execute(Locality::ZERO, command)?;
    let code = command::response_code(&response);
    if code == ResponseCode::SUCCESS || other_ends.contains(&code) {
        return Ok(response);
    }
    let asked = command::Header::read(command).map_or(0, |header| header.code);
    Err(TpmError::Manufacture(CommandCode(asked), code))
}

/// Returns the beginning of a template.
fn public(algorithm: u16, name: HashAlgorithm, attributes: u32) -> Vec<u8> {
    let mut template = Vec::new();
    words(&mut template, &[algorithm, name.0]);
    template.extend_from_slice(&attributes.to_be_bytes());
    template
}

pub(crate) fn words(bytes: &mut Vec<u8>, words: &[u16]) {
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

/// Appends bytes behind their number; templates are short.
pub(crate) fn sized(bytes: &mut Vec<u8>, content: &[u8]) {
    words(bytes, &[u16::try_from(content.len()).unwrap_or(u16::MAX)]);
    bytes.extend_from_slice(content);
}
