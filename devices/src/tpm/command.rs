//! Commands and responses as far as somebody besides the engine must understand them (TPM 2.0 Library, part 1, 18 and part 3).
//!
//! A machine only looks at headers, and writes the few commands it needs before a guest runs: it starts the TPM up, extends PCRs by
//! what it has measured and closes what is the platform's.

use alloc::vec::Vec;

/// Bytes of the header of a command or response: tag, size, code.
pub const HEADER_BYTES: usize = 10;
/// The greatest command or response: what the window of a command-response buffer holds (PC Client PTP 1.05, table 24).
pub const MAX_BYTES: usize = 0xF80;

const TAG_NO_SESSIONS: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;
/// The hierarchy of the machine itself.
const PLATFORM: u32 = 0x4000_000C;
/// The password session that authorizes by an empty password.
const SESSION_PASSWORD: u32 = 0x4000_0009;

/// One of the places commands come from; platform firmware and the operating system use 0, the hardware at a dynamic launch 3 and 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality(u8);

impl Locality {
    /// Where all software that does not know better works.
    pub const ZERO: Self = Self(0);
    /// The hardware that begins a dynamic launch.
    pub const FOUR: Self = Self(4);
    /// How many there are.
    pub const COUNT: u8 = 5;

    /// Returns the locality of this number, if there is one.
    #[must_use]
    pub const fn try_new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Returns its number, 0 to 4.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What a command is to do (TPM 2.0 Library, part 2, 6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandCode(pub u32);

impl CommandCode {
    /// Begins a life of the TPM.
    pub const STARTUP: Self = Self(0x144);
    /// Hashes data and extends a PCR by the digests.
    pub const PCR_EVENT: Self = Self(0x13C);
    /// Gives a hierarchy another authorization value.
    pub const HIERARCHY_CHANGE_AUTH: Self = Self(0x129);
    /// Tests what the TPM relies on.
    pub const SELF_TEST: Self = Self(0x143);
    /// Prepares for power-off.
    pub const SHUTDOWN: Self = Self(0x145);
}

/// What became of a command (TPM 2.0 Library, part 2, 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseCode(pub u32);

impl ResponseCode {
    /// It was carried out.
    pub const SUCCESS: Self = Self(0);
    /// There was no `Startup` before it; or one too many.
    pub const INITIALIZE: Self = Self(0x100);
    /// The engine cannot go on.
    pub const FAILURE: Self = Self(0x101);
    /// It does not have the size its header says.
    pub const COMMAND_SIZE: Self = Self(0x142);
    /// An algorithm came to no result.
    pub const NO_RESULT: Self = Self(0x154);
    /// It cannot be carried out now, and may be tried again.
    pub const RETRY: Self = Self(0x922);
    /// It was cancelled.
    pub const CANCELED: Self = Self(0x909);
}

/// A digest algorithm (TCG Algorithm Registry, table 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashAlgorithm(pub u16);

impl HashAlgorithm {
    /// SHA-1.
    pub const SHA1: Self = Self(0x0004);
    /// SHA-256.
    pub const SHA256: Self = Self(0x000B);
    /// SHA-384.
    pub const SHA384: Self = Self(0x000C);
    /// SHA-512.
    pub const SHA512: Self = Self(0x000D);
}

/// What a command or a response begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether sessions follow.
    pub tag: u16,
    /// Bytes of the whole.
    pub size: u32,
    /// A [`CommandCode`] or a [`ResponseCode`].
    pub code: u32,
}

impl Header {
    /// Returns the header at the start of `bytes`; `None` if there is not so much.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [t0, t1, s0, s1, s2, s3, c0, c1, c2, c3] = *bytes.first_chunk()?;
        Some(Self {
            tag: u16::from_be_bytes([t0, t1]),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            code: u32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..2].copy_from_slice(&self.tag.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.size.to_be_bytes());
        bytes[6..].copy_from_slice(&self.code.to_be_bytes());
        bytes
    }
}

/// Returns the response of a command that failed.
#[must_use]
pub fn failed(code: ResponseCode) -> [u8; HEADER_BYTES] {
    let header = Header {
        tag: TAG_NO_SESSIONS,
        size: 10,
        code: code.0,
    };
    header.bytes()
}

/// Returns what a response says; a response that has no header, or not the size it says, is a [`ResponseCode::FAILURE`].
#[must_use]
pub fn response_code(response: &[u8]) -> ResponseCode {
    match Header::read(response) {
        Some(header) if usize::try_from(header.size) == Ok(response.len()) => {
            ResponseCode(header.code)
        }
        _ => ResponseCode::FAILURE,
    }
}

/// Returns `TPM2_Startup` with all PCRs at their start (part 3, 9.3).
#[must_use]
pub fn startup_clear() -> Vec<u8> {
    plain(CommandCode::STARTUP, &[0, 0])
}

/// Returns `TPM2_SelfTest` of what was not tested yet (part 3, 10.2).
#[must_use]
pub fn self_test() -> Vec<u8> {
    plain(CommandCode::SELF_TEST, &[0])
}

/// Returns `TPM2_Shutdown` with nothing kept for a resume (part 3, 9.4).
#[must_use]
pub fn shutdown_clear() -> Vec<u8> {
    plain(CommandCode::SHUTDOWN, &[0, 0])
}

/// Returns `TPM2_PCR_Event`, which extends a PCR by a digest of `data` in every bank there is (part 3, 22.3).
#[must_use]
pub fn pcr_event(pcr: u8, data: &[u8]) -> Vec<u8> {
    let parameters = [&size(data.len()), data].concat();
    authorized(CommandCode::PCR_EVENT, &[pcr.into()], &parameters)
}

/// Returns `TPM2_HierarchyChangeAuth` of the platform's hierarchy, from no authorization value to `value` (part 3, 24.8).
#[must_use]
pub fn close_platform(value: &[u8; 32]) -> Vec<u8> {
    let parameters = [&size(value.len()), value.as_slice()].concat();
    authorized(CommandCode::HIERARCHY_CHANGE_AUTH, &[PLATFORM], &parameters)
}

/// Returns a command without sessions.
#[must_use]
pub fn plain(code: CommandCode, body: &[u8]) -> Vec<u8> {
    with_header(TAG_NO_SESSIONS, code, body)
}

/// Returns a command whose first handle is authorized by an empty password.
#[must_use]
pub fn authorized(code: CommandCode, handles: &[u32], parameters: &[u8]) -> Vec<u8> {
    by_session(code, handles, SESSION_PASSWORD, parameters)
}

/// Returns a command whose first handle is authorized by a session without secrets, which ends with it: a password's, or a policy's.
#[must_use]
pub fn by_session(code: CommandCode, handles: &[u32], session: u32, parameters: &[u8]) -> Vec<u8> {
    let mut body: Vec<u8> = handles
        .iter()
        .flat_map(|handle| handle.to_be_bytes())
        .collect();
    // Session, no nonce, no attributes, no password: nine bytes.
    body.extend_from_slice(&9_u32.to_be_bytes());
    body.extend_from_slice(&session.to_be_bytes());
    body.extend_from_slice(&[0; 5]);
    body.extend_from_slice(parameters);
    with_header(TAG_SESSIONS, code, &body)
}

/// The TPM refuses events of more than 1024 bytes, so those of a size that has no place here, too.
fn size(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn with_header(tag: u16, code: CommandCode, body: &[u8]) -> Vec<u8> {
    let size = HEADER_BYTES + body.len();
    let header = Header {
        tag,
        size: u32::try_from(size).unwrap_or(u32::MAX),
        code: code.0,
    };
    let mut command = Vec::with_capacity(size);
    command.extend_from_slice(&header.bytes());
    command.extend_from_slice(body);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_is_twelve_bytes() {
        let command = startup_clear();
        assert_eq!(command, [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0]);
    }

    #[test]
    fn event_has_one_password_session_and_its_data_behind_their_size() {
        let command = pcr_event(8, b"data");
        let header = Header::read(&command).unwrap();
        assert_eq!(
            (header.tag, header.size, header.code),
            (0x8002, 10 + 4 + 13 + 2 + 4, 0x13C)
        );
        assert_eq!(command[10..14], [0, 0, 0, 8]);
        assert_eq!(command[27..], *b"\0\x04data");
    }

    #[test]
    fn platform_is_closed_by_its_own_empty_value() {
        let command = close_platform(&[7; 32]);
        assert_eq!(command[6..14], [0, 0, 1, 0x29, 0x40, 0, 0, 0x0C]);
        assert_eq!(command[14..27], [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        assert_eq!(
            (&command[27..29], &command[29..]),
            (&[0, 32][..], &[7; 32][..])
        );
    }

    #[test]
    fn response_of_another_size_than_it_says_is_a_failure() {
        let response = failed(ResponseCode::CANCELED);
        assert_eq!(response_code(&response), ResponseCode::CANCELED);
        assert_eq!(response_code(&response[..9]), ResponseCode::FAILURE);
        assert_eq!(
            response_code(&[&response[..], &[0]].concat()),
            ResponseCode::FAILURE
        );
        assert_eq!(response_code(&[]), ResponseCode::FAILURE);
    }

    #[test]
    fn there_are_five_localities() {
        assert_eq!(Locality::try_new(4), Some(Locality::FOUR));
        assert_eq!(Locality::try_new(5), None);
    }
}
