//! What a machine and the program that is its TPM say to each other, a message at a time.
//!
//! A request is four bytes and what the operation needs: operation, locality, flags (little-endian). A response is a status byte and
//! what the operation returns. One request is under way at a time; while it is, the single byte [`CANCEL`] asks for its end. A
//! cancellation that comes too late is ignored, since the response is on its way.

use super::command::Locality;

/// Bytes before what the operation needs.
pub const REQUEST_HEADER_BYTES: usize = 4;
/// The greatest message either way.
pub const MAX_MESSAGE_BYTES: usize = 8192;
/// The message that asks for the end of the request that is under way.
pub const CANCEL: [u8; 1] = [0xFF];

/// Flag of [`Request::PowerOn`]: what the engine is shipped with includes an RSA endorsement key, which takes long to make.
pub const MAKE_RSA_ENDORSEMENT_KEY: u16 = 1 << 0;
/// Flag of [`Request::PowerOn`]: go on where [`Request::PowerOff`] saved.
pub const RESUME: u16 = 1 << 1;
/// Flag of [`Request::PowerOff`]: save everything, sessions and PCRs, too.
pub const SAVE: u16 = 1 << 0;
/// Flag of [`Request::Established`]: reset it.
pub const RESET_ESTABLISHED: u16 = 1 << 0;

const EXECUTE: u8 = 1;
const POWER_ON: u8 = 2;
const HASH_START: u8 = 3;
const HASH_DATA: u8 = 4;
const HASH_END: u8 = 5;
const ESTABLISHED: u8 = 6;
const POWER_OFF: u8 = 7;

/// What the machine asks of its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Execute a command; the response's payload is the TPM's response.
    Execute {
        /// Where the command comes from.
        locality: Locality,
        /// The command.
        command: &'a [u8],
    },
    /// Power on, or reset if power is on. The TPM is manufactured if it has never been.
    PowerOn {
        /// [`MAKE_RSA_ENDORSEMENT_KEY`], [`RESUME`].
        flags: u16,
    },
    /// Begin to measure a dynamic launch.
    HashStart,
    /// Measure more of it.
    HashData(&'a [u8]),
    /// End it.
    HashEnd,
    /// Ask whether there was a dynamic launch; the response's payload is one byte, 1 if so.
    Established {
        /// Where the question comes from; only 3 and 4 can reset.
        locality: Locality,
        /// [`RESET_ESTABLISHED`].
        flags: u16,
    },
    /// Power off.
    PowerOff {
        /// [`SAVE`].
        flags: u16,
    },
}

impl<'a> Request<'a> {
    /// Returns what a message asks for; `None` if nothing known.
    #[must_use]
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<REQUEST_HEADER_BYTES>()?;
        let [operation, locality, low, high] = *header;
        let flags = u16::from_le_bytes([low, high]);
        let locality = Locality::try_new(locality)?;
        Some(match operation {
            EXECUTE => Self::Execute {
                locality,
                command: rest,
            },
            POWER_ON => Self::PowerOn { flags },
            HASH_START => Self::HashStart,
            HASH_DATA => Self::HashData(rest),
            HASH_END => Self::HashEnd,
            ESTABLISHED => Self::Established { locality, flags },
            POWER_OFF => Self::PowerOff { flags },
            _ => return None,
        })
    }

    /// Writes the message to `buffer` and returns it; `None` if it does not fit.
    #[must_use]
    pub fn write<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let (operation, locality, flags, rest): (u8, Locality, u16, &[u8]) = match *self {
            Self::Execute { locality, command } => (EXECUTE, locality, 0, command),
            Self::PowerOn { flags } => (POWER_ON, Locality::ZERO, flags, &[]),
            Self::HashStart => (HASH_START, Locality::FOUR, 0, &[]),
            Self::HashData(data) => (HASH_DATA, Locality::FOUR, 0, data),
            Self::HashEnd => (HASH_END, Locality::FOUR, 0, &[]),
            Self::Established { locality, flags } => (ESTABLISHED, locality, flags, &[]),
            Self::PowerOff { flags } => (POWER_OFF, Locality::ZERO, flags, &[]),
        };
        let message = buffer.get_mut(..REQUEST_HEADER_BYTES + rest.len())?;
        let (header, body) = message.split_at_mut(REQUEST_HEADER_BYTES);
        let [low, high] = flags.to_le_bytes();
        header.copy_from_slice(&[operation, locality.number(), low, high]);
        body.copy_from_slice(rest);
        Some(message)
    }
}

/// What became of a request: the first byte of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// It was done.
    pub const DONE: Self = Self(0);
    /// The message is no request, or comes at the wrong time.
    pub const REFUSED: Self = Self(1);
    /// The engine has failed; nothing but a power-on is of use.
    pub const FAILED: Self = Self(2);
}

/// Returns what a response says: the payload of one that is [`Status::DONE`].
pub fn read_response(message: &[u8]) -> Result<&[u8], Status> {
    match message {
        [0, payload @ ..] => Ok(payload),
        [status, ..] => Err(Status(*status)),
        [] => Err(Status::FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        let two = Locality::try_new(2).unwrap();
        let requests = [
            Request::Execute {
                locality: two,
                command: &[1, 2, 3],
            },
            Request::PowerOn { flags: RESUME },
            Request::HashStart,
            Request::HashData(&[9; 100]),
            Request::HashEnd,
            Request::Established {
                locality: Locality::FOUR,
                flags: RESET_ESTABLISHED,
            },
            Request::PowerOff { flags: SAVE },
        ];
        for request in requests {
            let mut buffer = [0; 128];
            let message = request.write(&mut buffer).unwrap();
            assert_eq!(Request::read(message), Some(request));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for message in [
            &[][..],
            &CANCEL,
            &[1, 0, 0],
            &[0, 0, 0, 0],
            &[8, 0, 0, 0],
            &[1, 5, 0, 0],
        ] {
            assert_eq!(Request::read(message), None);
        }
        assert_eq!(Request::HashData(&[0; 100]).write(&mut [0; 64]), None);
    }

    #[test]
    fn response_without_payload_is_told_from_a_failure() {
        assert_eq!(read_response(&[0]), Ok(&[][..]));
        assert_eq!(read_response(&[1, 7]), Err(Status::REFUSED));
        assert_eq!(read_response(&[]), Err(Status::FAILED));
    }
}
