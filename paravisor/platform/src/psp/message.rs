//! Messages to the secure processor and back: sealed with AES-256-GCM under a sequence number (SNP ABI, section 7, table 99).
//!
//! Pure: bytes in, bytes out. The header from byte 30h on is authenticated, the payload encrypted. What is opened was made
//! by the holder of the key for exactly this number; the header is checked all the same, field by field.

use alloc::vec;
use alloc::vec::Vec;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use stockade_abi::guest_message::{
    AAD_OFFSET, ALGO_AES_256_GCM, HEADER_SIZE, HEADER_VERSION, MESSAGE_VERSION, MessageHeader,
    MessageType, PAYLOAD_MAX_SIZE, TAG_SIZE,
};
use stockade_abi::secrets::VMPCK_SIZE;
use zerocopy::{FromBytes, IntoBytes};

use crate::shared::SHARED_PAGE_SIZE;

/// Which key of the secrets page protects the messages of VMPL0.
const VMPCK_ID: u8 = 0;

#[expect(clippy::cast_possible_truncation, reason = "60h fits")]
const HEADER_SIZE_FIELD: u16 = HEADER_SIZE as u16;

/// Why a page is not the message expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The payload does not fit a message.
    #[error("the message has an impossible length")]
    Length,
    /// The header is that of another message.
    #[error("the message is none to the request")]
    Header,
    /// The message was not made by the secure processor, or not for this request.
    #[error("the message is not authentic")]
    Authentication,
}

/// A sealed message: what the host may see.
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Returns the message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Seals `payload` as message number `sequence`.
pub fn seal(
    key: &[u8; VMPCK_SIZE],
    sequence: u64,
    kind: MessageType,
    payload: &[u8],
) -> Result<Sealed, MessageError> {
    let message_size = u16::try_from(payload.len()).map_err(|_| MessageError::Length)?;
    if payload.len() > PAYLOAD_MAX_SIZE {
        return Err(MessageError::Length);
    }
    let mut header = MessageHeader::zeroed();
    header.sequence = sequence;
    header.algo = ALGO_AES_256_GCM;
    header.header_version = HEADER_VERSION;
    header.header_size = HEADER_SIZE_FIELD;
    header.message_type = kind;
    header.message_version = MESSAGE_VERSION;
    header.message_size = message_size;
    header.message_vmpck = VMPCK_ID;
    let mut message = vec![0; HEADER_SIZE + payload.len()];
    let (head, body) = message.split_at_mut(HEADER_SIZE);
    body.copy_from_slice(payload);
    let tag = Aes256Gcm::new(key.into())
        .encrypt_inout_detached(
            &nonce(sequence),
            &header.as_bytes()[AAD_OFFSET..],
            body.into(),
        )
        .map_err(|_| MessageError::Length)?;
    header.auth_tag[..TAG_SIZE].copy_from_slice(&tag);
    head.copy_from_slice(header.as_bytes());
    Ok(Sealed(message))
}

/// Opens message number `sequence` of `kind` in a private copy of a page, and returns its payload.
pub fn open<'a>(
    key: &[u8; VMPCK_SIZE],
    sequence: u64,
    kind: MessageType,
    page: &'a mut [u8; SHARED_PAGE_SIZE],
) -> Result<&'a [u8], MessageError> {
    let (head, rest) = page.split_at_mut(HEADER_SIZE);
    let header = MessageHeader::read_from_bytes(head).map_err(|_| MessageError::Length)?;
    let is_expected = header.sequence == sequence
        && header.algo == ALGO_AES_256_GCM
        && header.header_version == HEADER_VERSION
        && header.header_size == HEADER_SIZE_FIELD
        && header.message_type == kind
        && header.message_version == MESSAGE_VERSION
        && header.message_vmpck == VMPCK_ID;
    if !is_expected {
        return Err(MessageError::Header);
    }
    let payload = rest
        .get_mut(..usize::from(header.message_size))
        .ok_or(MessageError::Length)?;
    let tag = Tag::try_from(&header.auth_tag[..TAG_SIZE]).map_err(|_| MessageError::Length)?;
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(
            &nonce(sequence),
            &header.as_bytes()[AAD_OFFSET..],
            (&mut *payload).into(),
            &tag,
        )
        .map_err(|_| MessageError::Authentication)?;
    Ok(payload)
}

/// Returns the initialization vector: the number in the first eight of twelve bytes.
fn nonce(sequence: u64) -> Nonce<<Aes256Gcm as aes_gcm::aead::AeadCore>::NonceSize> {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; VMPCK_SIZE] = [7; VMPCK_SIZE];

    fn page_of(sealed: &Sealed) -> [u8; SHARED_PAGE_SIZE] {
        let mut page = [0; SHARED_PAGE_SIZE];
        page[..sealed.bytes().len()].copy_from_slice(sealed.bytes());
        page
    }

    #[test]
    fn what_is_sealed_opens_to_the_same() {
        let sealed = seal(&KEY, 5, MessageType::KEY_RESPONSE, b"payload").unwrap();
        assert_eq!(sealed.bytes().len(), 0x60 + 7);
        assert_ne!(&sealed.bytes()[0x60..], b"payload");
        let mut page = page_of(&sealed);
        let payload = open(&KEY, 5, MessageType::KEY_RESPONSE, &mut page);
        assert_eq!(payload, Ok(b"payload".as_slice()));
    }

    /// NIST's GCM specification, test case 14: the zero key, the zero vector and a block of zeros.
    #[test]
    fn sequence_zero_under_the_zero_key_is_the_published_vector() {
        let sealed = seal(&[0; 32], 0, MessageType(0), &[0; 16]).unwrap();
        let expected = [
            0xCE, 0xA7, 0x40, 0x3D, 0x4D, 0x60, 0x6B, 0x6E, 0x07, 0x4E, 0xC5, 0xD3, 0xBA, 0xF3,
            0x9D, 0x18,
        ];
        assert_eq!(sealed.bytes()[0x60..], expected);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let sealed = seal(&KEY, 9, MessageType::KEY_RESPONSE, &[1; 40]).unwrap();
        let len = sealed.bytes().len();
        // The unused half of the tag field and the reserved word before the authenticated part carry nothing.
        let carried = (0..len).filter(|i| !(16..32).contains(i) && !(0x28..0x30).contains(i));
        for position in carried {
            let mut page = page_of(&sealed);
            page[position] ^= 0x10;
            let outcome = open(&KEY, 9, MessageType::KEY_RESPONSE, &mut page);
            assert!(outcome.is_err(), "byte {position:#x}");
        }
    }

    #[test]
    fn another_number_kind_or_key_does_not_open() {
        let sealed = seal(&KEY, 9, MessageType::KEY_RESPONSE, &[1; 40]).unwrap();
        let open = |key, sequence, kind| {
            let mut page = page_of(&sealed);
            open(key, sequence, kind, &mut page).map(|_| ())
        };
        let kind = MessageType::KEY_RESPONSE;
        assert_eq!(open(&KEY, 9, kind), Ok(()));
        assert_eq!(open(&KEY, 7, kind), Err(MessageError::Header));
        let report = MessageType::REPORT_RESPONSE;
        assert_eq!(open(&KEY, 9, report), Err(MessageError::Header));
        assert_eq!(open(&[8; 32], 9, kind), Err(MessageError::Authentication));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert!(seal(&KEY, 1, MessageType(5), &[0; PAYLOAD_MAX_SIZE]).is_ok());
        let outcome = seal(&KEY, 1, MessageType(5), &[0; PAYLOAD_MAX_SIZE + 1]);
        assert_eq!(outcome.err(), Some(MessageError::Length));
        let mut page = page_of(&seal(&KEY, 1, MessageType(5), &[]).unwrap());
        page[0x36..0x38].copy_from_slice(&u16::MAX.to_le_bytes());
        let outcome = open(&KEY, 1, MessageType(5), &mut page);
        assert_eq!(outcome, Err(MessageError::Length));
    }
}
