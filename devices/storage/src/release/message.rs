//! The messages: a header of eight bytes, then the content.
//!
//! | kind | from | content |
//! |---|---|---|
//! | 1 hello | machine | |
//! | 2 challenge | holder | nonce |
//! | 3 evidence | machine | report, document |
//! | 4 answer | holder | envelope |
//! | 5 refusal | holder | a code |

use alloc::vec::Vec;

use sha2::{Digest, Sha512};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::key::{KEY_BYTES, KeyId};

/// The most keys one machine asks for: one a disk.
pub const MAX_KEYS: usize = 14;
/// Bytes of an attestation report (SNP ABI, table 23).
pub const REPORT_BYTES: usize = 1184;
/// The longest content of a message.
pub const MAX_CONTENT_BYTES: usize = REPORT_BYTES + DOCUMENT_BYTES + MAX_KEYS * KEY_BYTES;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

const MAGIC: [u8; 4] = *b"SKEY";
const VERSION: u8 = 2;
/// What the digest in the report begins with. No other digest that the paravisor has signed begins so.
const LABEL: &[u8] = b"stockade key release 2\0";
/// Bytes of a document without its ids.
const DOCUMENT_BYTES: usize = 64 + size_of::<Starts>();

/// A start of a machine, by a number drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct StartId(pub [u8; 16]);

/// What a machine's sealed store remembers of starts: an older copy of it remembers older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Starts {
    /// The last one a holder has confirmed, or zeros.
    pub confirmed: StartId,
    /// This one; or an earlier one, if whether a holder has seen that was never learned.
    pub this: StartId,
}

impl Starts {
    /// What stands for a store that is not there.
    const NONE: Self = Self {
        confirmed: StartId([0; 16]),
        this: StartId([0; 16]),
    };

    /// Returns whether it is the store of whose starts this was the last one anybody saw, and not an older copy.
    #[must_use]
    pub fn follow(&self, seen: StartId) -> bool {
        [self.confirmed, self.this].contains(&seen)
    }
}

/// A holder's question, never the same twice.
pub type Nonce = [u8; 32];
/// The machine's public key, X25519.
pub type PublicKey = [u8; 32];

/// What a message is. The other side chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// The machine is there.
    pub const HELLO: Self = Self(1);
    /// The holder's nonce.
    pub const CHALLENGE: Self = Self(2);
    /// What the machine is.
    pub const EVIDENCE: Self = Self(3);
    /// The keys, sealed.
    pub const ANSWER: Self = Self(4);
    /// There are none, and why.
    pub const REFUSAL: Self = Self(5);
}

/// Why a holder gives nothing. The other side chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalCode(pub u16);

impl RefusalCode {
    /// The evidence is malformed, or the report is not genuine.
    pub const EVIDENCE: Self = Self(20);
    /// The certificates lead to no trusted root.
    pub const UNTRUSTED: Self = Self(21);
    /// The evidence is for another nonce.
    pub const NONCE: Self = Self(22);
    /// Another image, or one its host can look into.
    pub const GUEST: Self = Self(24);
    /// The holder has not the key.
    pub const NO_KEY: Self = Self(25);
    /// The holder went away; said by who carries the messages.
    pub const GONE: Self = Self(26);
    /// The holder has seen a start that the machine's store knows nothing of.
    pub const OLD_STORE: Self = Self(27);
}

impl core::fmt::Display for RefusalCode {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let words = match *self {
            Self::EVIDENCE => "it takes the evidence for forged",
            Self::UNTRUSTED => "it does not trust the chip's certificates",
            Self::NONCE => "it takes the evidence for an old one",
            Self::GUEST => "it expects another image",
            Self::NO_KEY => "it has not the key",
            Self::GONE => "it went away without an answer",
            Self::OLD_STORE => {
                "it has seen a start of the machine that its sealed store knows nothing of"
            }
            _ => "for a reason unknown here",
        };
        write!(formatter, "code {}, {words}", self.0)
    }
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message of the key release")]
pub struct Malformed;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    version: u8,
    kind: Kind,
    len_bytes: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(MAX_CONTENT_BYTES <= u16::MAX as usize);

/// Returns a message. Content that is too long makes one that nobody takes.
#[must_use]
pub fn frame(kind: Kind, content: &[u8]) -> Vec<u8> {
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        kind,
        len_bytes: u16::try_from(content.len()).unwrap_or(u16::MAX).into(),
    };
    [header.as_bytes(), content].concat()
}

/// Returns the message of a refusal.
#[must_use]
pub fn refusal(RefusalCode(code): RefusalCode) -> Vec<u8> {
    frame(Kind::REFUSAL, &code.to_le_bytes())
}

/// Reads a header: which message, and how many bytes of content follow.
///
/// # Errors
/// It is none, or of a content longer than any.
pub fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<(Kind, usize), Malformed> {
    let header = Header::read_from_bytes(bytes).map_err(|_| Malformed)?;
    let len = usize::from(header.len_bytes.get());
    if header.magic != MAGIC || header.version != VERSION || len > MAX_CONTENT_BYTES {
        return Err(Malformed);
    }
    Ok((header.kind, len))
}

/// What the machine has the secure processor sign, but for the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The holder's.
    pub nonce: Nonce,
    /// For whom the keys are to be sealed.
    pub public: PublicKey,
    /// What the machine's store remembers, if it has one that is open.
    pub starts: Option<Starts>,
    /// The keys the machine's image names, in its order.
    pub ids: Vec<KeyId>,
}

impl Document {
    /// Returns its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.nonce, self.public].concat();
        bytes.extend(self.starts.unwrap_or(Starts::NONE).as_bytes());
        self.ids.iter().for_each(|id| bytes.extend(id.0));
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (nonce, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
        let (public, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (starts, ids) = Starts::read_from_prefix(rest).map_err(|_| Malformed)?;
        let (ids, rest) = ids.as_chunks::<KEY_BYTES>();
        if ids.is_empty() || ids.len() > MAX_KEYS || !rest.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            nonce: *nonce,
            public: *public,
            starts: (starts != Starts::NONE).then_some(starts),
            ids: ids.iter().copied().map(KeyId).collect(),
        })
    }
}

/// Returns what the report of a document is bound to.
#[must_use]
pub fn report_data(document: &[u8]) -> [u8; 64] {
    Sha512::new()
        .chain_update(LABEL)
        .chain_update(document)
        .finalize()
        .into()
}

/// What a machine says of itself, taken apart and not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The attestation report.
    pub report: Vec<u8>,
    /// What it is to be bound to.
    pub report_data: [u8; 64],
    /// That in its parts.
    pub document: Document,
}

impl Evidence {
    /// Takes the content of a message apart.
    ///
    /// # Errors
    /// It is too short, names no key or too many, or has bytes left over.
    pub fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let (report, document) = content.split_at_checked(REPORT_BYTES).ok_or(Malformed)?;
        Ok(Self {
            report: report.to_vec(),
            report_data: report_data(document),
            document: Document::parse(document)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn document(ids: usize) -> Document {
        Document {
            nonce: [1; 32],
            public: [2; 32],
            starts: ids.is_multiple_of(2).then_some(Starts {
                confirmed: StartId([0; 16]),
                this: StartId([4; 16]),
            }),
            ids: (0..ids).map(|id| KeyId([id as u8; 32])).collect(),
        }
    }

    #[test]
    fn evidence_is_a_report_and_a_document_of_one_to_fourteen_keys() {
        let evidence = |ids| [vec![9; REPORT_BYTES], document(ids).to_bytes()].concat();
        for ids in [1, 2, MAX_KEYS] {
            let parsed = Evidence::parse(&evidence(ids)).unwrap();
            assert_eq!(parsed.document, document(ids));
            assert_eq!(parsed.report, [9; REPORT_BYTES]);
        }
        for ids in [0, MAX_KEYS + 1] {
            assert_eq!(Evidence::parse(&evidence(ids)), Err(Malformed));
        }
        let whole = evidence(1);
        for len in 0..whole.len() {
            assert_eq!(Evidence::parse(&whole[..len]), Err(Malformed), "{len}");
        }
    }

    #[test]
    fn the_longest_evidence_is_a_message_and_nothing_longer() {
        let longest = frame(Kind::EVIDENCE, &[0; MAX_CONTENT_BYTES]);
        let header = longest.first_chunk().unwrap();
        assert_eq!(read_header(header), Ok((Kind::EVIDENCE, MAX_CONTENT_BYTES)));
        let longer = frame(Kind::EVIDENCE, &[0; MAX_CONTENT_BYTES + 1]);
        assert_eq!(read_header(longer.first_chunk().unwrap()), Err(Malformed));
    }

    /// A module of the paravisor has its documents signed, too; its label is another.
    #[test]
    fn no_document_of_another_purpose_has_the_same_digest() {
        let own = document(1).to_bytes();
        assert_eq!(report_data(&own), report_data(&document(1).to_bytes()));
        assert_ne!(report_data(&own), report_data(&document(2).to_bytes()));
        assert_ne!(report_data(&own)[..], Sha512::digest(&own)[..]);
    }

    proptest! {
        /// Every bit of a header counts, and what is read is what was written.
        #[test]
        fn headers_are_read_as_written_or_refused(bytes: [u8; HEADER_BYTES]) {
            if let Ok((kind, len)) = read_header(&bytes) {
                prop_assert_eq!(&frame(kind, &vec![0; len])[..HEADER_BYTES], &bytes);
            }
        }

        #[test]
        fn any_evidence_is_refused_or_the_same_again(content in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(evidence) = Evidence::parse(&content) {
                prop_assert_eq!([evidence.report, evidence.document.to_bytes()].concat(), content);
            }
        }
    }
}
