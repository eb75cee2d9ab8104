//! The simulator's words: numbers are big-endian, every answer ends in a zero word.

use std::io::{self, Read};

use stockade_devices::tpm::command::Locality;

/// The answer to what has none of its own.
pub(super) const DONE: [u8; 4] = [0; 4];
/// The answer to what failed.
pub(super) const FAILED: [u8; 4] = [0, 0, 0, 1];
/// Version 1; a platform port, and physical presence.
pub(super) const HANDSHAKE: [u8; 12] = [0, 0, 0, 1, 0, 0, 0, 1 | 8, 0, 0, 0, 0];
/// More than any command: who announces more speaks another protocol.
const MAX_BYTES: usize = 1 << 16;

const POWER_ON: u32 = 1;
const POWER_OFF: u32 = 2;
const PRESENCE_ON: u32 = 3;
const PRESENCE_OFF: u32 = 4;
const HASH_START: u32 = 5;
const HASH_DATA: u32 = 6;
const HASH_END: u32 = 7;
const SEND_COMMAND: u32 = 8;
const CANCEL_ON: u32 = 9;
const CANCEL_OFF: u32 = 10;
const NV_ON: u32 = 11;
const NV_OFF: u32 = 12;
const KEY_CACHE_ON: u32 = 13;
const KEY_CACHE_OFF: u32 = 14;
const HANDSHAKE_REQUEST: u32 = 15;
const RESET: u32 = 17;
const RESTART: u32 = 18;
const SESSION_END: u32 = 20;
const STOP: u32 = 21;

/// Which of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Commands,
    Platform,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Execute {
        locality: Option<Locality>,
        command: Vec<u8>,
    },
    Handshake,
    PowerOn,
    PowerOff,
    Reset,
    Cancel(bool),
    HashStart,
    HashData(Vec<u8>),
    HashEnd,
    /// Something this TPM has no use for.
    Nothing,
    EndOfSession,
    Stop,
}

/// Reads the next request of a client.
pub(super) fn read_request(input: &mut impl Read, port: Port) -> io::Result<Request> {
    let word = match read_word(input) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Request::EndOfSession);
        }
        word => word?,
    };
    Ok(match (port, word) {
        (_, SESSION_END) => Request::EndOfSession,
        (_, STOP) => Request::Stop,
        (Port::Commands, SEND_COMMAND) => {
            let mut locality = [0; 1];
            input.read_exact(&mut locality)?;
            Request::Execute {
                locality: Locality::try_new(locality[0]),
                command: read_bytes(input)?,
            }
        }
        (Port::Commands, HANDSHAKE_REQUEST) => {
            read_word(input)?;
            Request::Handshake
        }
        (Port::Commands, HASH_START) => Request::HashStart,
        (Port::Commands, HASH_DATA) => Request::HashData(read_bytes(input)?),
        (Port::Commands, HASH_END) => Request::HashEnd,
        (Port::Platform, POWER_ON) => Request::PowerOn,
        (Port::Platform, POWER_OFF) => Request::PowerOff,
        (Port::Platform, RESET | RESTART) => Request::Reset,
        (Port::Platform, CANCEL_ON) => Request::Cancel(true),
        (Port::Platform, CANCEL_OFF) => Request::Cancel(false),
        (
            Port::Platform,
            PRESENCE_ON | PRESENCE_OFF | NV_ON | NV_OFF | KEY_CACHE_ON | KEY_CACHE_OFF,
        ) => Request::Nothing,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    })
}

/// Returns the answer to a command.
pub(super) fn execute_answer(response: &[u8]) -> Vec<u8> {
    let len = u32::try_from(response.len()).unwrap_or(0);
    let mut answer = Vec::from(len.to_be_bytes());
    answer.extend_from_slice(response);
    answer.extend_from_slice(&DONE);
    answer
}

fn read_word(input: &mut impl Read) -> io::Result<u32> {
    let mut word = [0; 4];
    input.read_exact(&mut word)?;
    Ok(u32::from_be_bytes(word))
}

fn read_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = usize::try_from(read_word(input)?).unwrap_or(usize::MAX);
    if len > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_comes_with_locality_and_length() {
        let mut input = &[0, 0, 0, 8, 3, 0, 0, 0, 2, 0x80, 1, 0, 0, 0, 20][..];
        let command = read_request(&mut input, Port::Commands).unwrap();
        assert_eq!(
            command,
            Request::Execute {
                locality: Locality::try_new(3),
                command: vec![0x80, 1]
            }
        );
        let end = read_request(&mut input, Port::Commands).unwrap();
        assert_eq!(end, Request::EndOfSession);
        // A client that hangs up has ended its session, too.
        let end = read_request(&mut input, Port::Commands).unwrap();
        assert_eq!(end, Request::EndOfSession);
    }

    #[test]
    fn each_port_has_its_own_words() {
        assert!(read_request(&mut &[0, 0, 0, 1][..], Port::Commands).is_err());
        assert!(read_request(&mut &[0, 0, 0, 8][..], Port::Platform).is_err());
        let on = read_request(&mut &[0, 0, 0, 1][..], Port::Platform).unwrap();
        assert_eq!(on, Request::PowerOn);
    }

    #[test]
    fn absurd_length_is_refused_before_memory_is_taken() {
        let mut input = &[0, 0, 0, 8, 0, 0xFF, 0xFF, 0xFF, 0xFF][..];
        assert!(read_request(&mut input, Port::Commands).is_err());
    }
}
