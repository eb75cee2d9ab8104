//! The machine's side, from hello to keys: one straight line, with nothing the host says believed on the way.

use alloc::vec;
use alloc::vec::Vec;

use super::envelope::{self, Recipient};
use super::message::{
    Document, HEADER_BYTES, Kind, Malformed, Nonce, REPORT_BYTES, RefusalCode, Starts, frame,
    read_header, report_data,
};
use crate::key::{DiskKey, KeyId};

/// The way to the holder, by way of the host.
pub trait Line {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The host does not take them.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Silent>;

    /// Fills all of `bytes` with what came in, once.
    ///
    /// # Errors
    /// So much did not come in the time the line gives it.
    fn receive(&mut self, bytes: &mut [u8]) -> Result<(), Silent>;
}

/// Nothing comes, or nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent;

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nobody is there.
    #[error(
        "K02: nobody answers for its key; is the key server running, and reached by --key-server?"
    )]
    Silent,
    /// Something else than a holder of keys.
    #[error("K03: what answers for its key is no key server, or one of another version")]
    Malformed,
    /// The holder declines. Anybody on the way can say so.
    #[error("K04: the key server gives nothing ({0}); its own log says more")]
    Refused(RefusalCode),
    /// Sealed for another machine or another question, or changed.
    #[error("K05: the answer for its key does not open: it was tampered with, or is an old one")]
    Forged,
    /// Another key than the image names.
    #[error(
        "K06: the key given for disk key {index} is not the one the image names; somebody put another in its place"
    )]
    Foreign {
        /// Which of those asked for.
        index: usize,
    },
    /// The secure processor signs nothing.
    #[error("K07: no attestation report to ask for its key with")]
    NoReport,
}

impl From<Silent> for ReleaseError {
    fn from(Silent: Silent) -> Self {
        Self::Silent
    }
}

impl From<Malformed> for ReleaseError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// What a machine asks for, and what it says of itself besides.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The keys, by their ids.
    pub ids: &'a [KeyId],
    /// What its store remembers: a holder that remembers, too, gives nothing to one that comes with an older.
    pub starts: Option<Starts>,
}

/// Asks for keys, and returns them in the order of their ids. `attest` returns a report with the given data bound to it; `entropy` is used
/// for nothing else.
///
/// # Errors
/// Why there is none of them: they come all or not at all.
pub fn ask(
    line: &mut impl Line,
    attest: impl FnOnce(&[u8; 64]) -> Option<[u8; REPORT_BYTES]>,
    entropy: &[u8; 32],
    Wanted { ids, starts }: Wanted<'_>,
) -> Result<Vec<DiskKey>, ReleaseError> {
    let recipient = Recipient::new(entropy);
    line.send(&frame(Kind::HELLO, &[]))?;
    let mut nonce = Nonce::default();
    receive(line, Kind::CHALLENGE, &mut nonce)?;

    let document = Document {
        nonce,
        public: *recipient.public(),
        starts,
        ids: ids.to_vec(),
    };
    let document = document.to_bytes();
    let report = attest(&report_data(&document)).ok_or(ReleaseError::NoReport)?;
    let evidence = [&report[..], &document].concat();
    line.send(&frame(Kind::EVIDENCE, &evidence))?;

    let mut envelope = vec![0; envelope::len_bytes(ids.len())];
    receive(line, Kind::ANSWER, &mut envelope)?;
    let keys = recipient.open(&envelope, &evidence);
    let keys = keys.map_err(|_| ReleaseError::Forged)?;
    // Whoever knows the evidence can seal for it: only the image says which keys are the right ones.
    let stranger = keys.iter().zip(ids).position(|(key, id)| key.id() != *id);
    match stranger {
        Some(index) => Err(ReleaseError::Foreign { index }),
        None => Ok(keys),
    }
}

/// Waits for a message of this kind and length, or for a refusal.
fn receive(line: &mut impl Line, kind: Kind, content: &mut [u8]) -> Result<(), ReleaseError> {
    let mut header = [0; HEADER_BYTES];
    line.receive(&mut header)?;
    let found = read_header(&header)?;
    if found == (Kind::REFUSAL, size_of::<u16>()) {
        let mut code = [0; size_of::<u16>()];
        line.receive(&mut code)?;
        return Err(ReleaseError::Refused(RefusalCode(u16::from_le_bytes(code))));
    }
    if found != (kind, content.len()) {
        return Err(ReleaseError::Malformed);
    }
    Ok(line.receive(content)?)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::super::message::{Evidence, StartId, refusal};
    use super::*;

    const REPORT: [u8; REPORT_BYTES] = [0x77; REPORT_BYTES];

    /// A holder that answers at once, or a host that answers in its place.
    struct Fake<F> {
        /// What comes in.
        inbox: Vec<u8>,
        sent: Vec<Vec<u8>>,
        answer: F,
    }

    impl<F: FnMut(&[u8]) -> Vec<u8>> Line for Fake<F> {
        fn send(&mut self, bytes: &[u8]) -> Result<(), Silent> {
            self.sent.push(bytes.to_vec());
            let answer = (self.answer)(bytes);
            self.inbox.extend(answer);
            Ok(())
        }

        fn receive(&mut self, bytes: &mut [u8]) -> Result<(), Silent> {
            if self.inbox.len() < bytes.len() {
                return Err(Silent);
            }
            let rest = self.inbox.split_off(bytes.len());
            bytes.copy_from_slice(&self.inbox);
            self.inbox = rest;
            Ok(())
        }
    }

    fn fake<F: FnMut(&[u8]) -> Vec<u8>>(answer: F) -> Fake<F> {
        Fake {
            inbox: Vec::new(),
            sent: Vec::new(),
            answer,
        }
    }

    fn wanted(ids: &[KeyId]) -> Wanted<'_> {
        Wanted { ids, starts: None }
    }

    fn key(number: u8) -> DiskKey {
        DiskKey::new([number; 32])
    }

    /// Answers as a holder does that judges nothing.
    fn holder(keys: &[DiskKey], message: &[u8]) -> Vec<u8> {
        let (header, content) = message.split_first_chunk().unwrap();
        match read_header(header).unwrap().0 {
            Kind::HELLO => frame(Kind::CHALLENGE, &[5; 32]),
            _ => {
                let public = Evidence::parse(content).unwrap().document.public;
                let sealed = envelope::seal(keys, &public, content, &mut rand::rng());
                frame(Kind::ANSWER, &sealed.unwrap())
            }
        }
    }

    /// Returns the error; the keys must be the right ones if there are any.
    fn outcome(answer: impl FnMut(&[u8]) -> Vec<u8>) -> Result<(), ReleaseError> {
        let ids = [key(1).id(), key(2).id()];
        let keys = ask(&mut fake(answer), |_| Some(REPORT), &[9; 32], wanted(&ids))?;
        assert!(keys.iter().map(DiskKey::id).eq(ids));
        Ok(())
    }

    #[test]
    fn keys_come_in_the_order_they_were_asked_for() {
        let keys = [key(1), key(2)];
        assert_eq!(outcome(|message| holder(&keys, message)), Ok(()));
    }

    #[test]
    fn the_report_is_bound_to_nonce_public_key_starts_and_ids() {
        let mut line = fake(|message: &[u8]| holder(&[key(1)], message));
        let mut bound = [0; 64];
        let attest = |data: &[u8; 64]| {
            bound = *data;
            Some(REPORT)
        };
        let ids = [key(1).id()];
        let starts = Some(Starts {
            confirmed: StartId([6; 16]),
            this: StartId([7; 16]),
        });
        let wanted = Wanted { ids: &ids, starts };
        ask(&mut line, attest, &[9; 32], wanted).unwrap();
        let evidence = Evidence::parse(&line.sent[1][HEADER_BYTES..]).unwrap();
        assert_eq!(evidence.report_data, bound);
        assert_eq!(evidence.document.nonce, [5; 32]);
        assert_eq!(evidence.document.public, *Recipient::new(&[9; 32]).public());
        assert_eq!(evidence.document.ids, ids);
        assert_eq!(evidence.document.starts, starts);
    }

    /// The host knows the evidence, so it can seal a key of its own.
    #[test]
    fn a_key_the_image_does_not_name_is_refused() {
        let foreign = ReleaseError::Foreign { index: 1 };
        let keys = [key(1), key(3)];
        assert_eq!(outcome(|message| holder(&keys, message)), Err(foreign));
        let swapped = [key(2), key(1)];
        let first = ReleaseError::Foreign { index: 0 };
        assert_eq!(outcome(|message| holder(&swapped, message)), Err(first));
    }

    #[test]
    fn an_answer_of_an_earlier_run_does_not_open() {
        let keys = [key(1), key(2)];
        let mut old = Vec::new();
        outcome(|message| {
            old = holder(&keys, message);
            old.clone()
        })
        .unwrap();
        let ids = [key(1).id(), key(2).id()];
        let mut line = fake(|message: &[u8]| match message.len() {
            HEADER_BYTES => frame(Kind::CHALLENGE, &[5; 32]),
            _ => old.clone(),
        });
        let asked = ask(&mut line, |_| Some(REPORT), &[8; 32], wanted(&ids));
        assert_eq!(asked.err(), Some(ReleaseError::Forged));
    }

    #[test]
    fn a_refusal_says_why_at_any_time() {
        let no_key = ReleaseError::Refused(RefusalCode::NO_KEY);
        assert_eq!(outcome(|_| refusal(RefusalCode::NO_KEY)), Err(no_key));
        let late = outcome(|message| match message.len() {
            HEADER_BYTES => frame(Kind::CHALLENGE, &[5; 32]),
            _ => refusal(RefusalCode::GUEST),
        });
        assert_eq!(late, Err(ReleaseError::Refused(RefusalCode::GUEST)));
    }

    #[test]
    fn silence_nonsense_and_answers_of_another_length_are_told_apart() {
        assert_eq!(outcome(|_| Vec::new()), Err(ReleaseError::Silent));
        assert_eq!(outcome(|_| vec![0; 100]), Err(ReleaseError::Malformed));
        let short = [key(1)];
        let shorter = outcome(|message| holder(&short, message));
        assert_eq!(shorter, Err(ReleaseError::Malformed));
    }

    #[test]
    fn without_a_report_nothing_is_asked() {
        let mut line = fake(|message: &[u8]| holder(&[key(1)], message));
        let asked = ask(&mut line, |_| None, &[9; 32], wanted(&[key(1).id()]));
        assert_eq!(asked.err(), Some(ReleaseError::NoReport));
        assert_eq!(line.sent.len(), 1);
    }

    proptest! {
        /// Whatever is changed in what comes in, there are the right keys or none.
        #[test]
        fn changed_answers_give_no_keys(at in 0_usize..200, bit in 0_u8..8) {
            let keys = [key(1), key(2)];
            let _ = outcome(|message| {
                let mut answer = holder(&keys, message);
                if let Some(byte) = answer.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                answer
            });
        }

        #[test]
        fn any_bytes_give_no_keys(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(outcome(|_| bytes.clone()).is_err());
        }
    }
}
