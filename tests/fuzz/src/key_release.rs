//! What comes in place of a holder's messages when a machine asks for its disks' keys, and what comes to a holder in place of a question.

use std::sync::LazyLock;

use rand::SeedableRng;
use rand::rngs::StdRng;
use stockade_storage::release::envelope::{Recipient, seal};
use stockade_storage::release::message::{
    Document, HEADER_BYTES, Kind, MAX_CONTENT_BYTES, frame, read_header,
};
use stockade_storage::release::{Evidence, Line, Nonce, REPORT_BYTES, Silent, Wanted, ask};
use stockade_storage::{DiskKey, KeyId};

use crate::Input;

const ENTROPY: [u8; 32] = [3; 32];
const REPORT: [u8; REPORT_BYTES] = [7; REPORT_BYTES];
const NONCE: Nonce = [5; 32];

fn keys() -> [DiskKey; 2] {
    [DiskKey::new([1; 32]), DiskKey::new([2; 32])]
}

fn ids() -> [KeyId; 2] {
    keys().map(|key| key.id())
}

fn evidence() -> Vec<u8> {
    let document = Document {
        nonce: NONCE,
        public: *Recipient::new(&ENTROPY).public(),
        starts: None,
        ids: ids().to_vec(),
    };
    [&REPORT[..], &document.to_bytes()].concat()
}

/// Challenge and answer of a holder that gives the keys, and of one that gives other ones.
static HOLDERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let others = [DiskKey::new([1; 32]), DiskKey::new([3; 32])];
    [keys(), others].map(|keys| {
        let public = *Recipient::new(&ENTROPY).public();
        let sealed = seal(&keys, &public, &evidence(), &mut StdRng::seed_from_u64(0));
        let answer = frame(Kind::ANSWER, &sealed.unwrap_or_default());
        [frame(Kind::CHALLENGE, &NONCE), answer].concat()
    })
});

/// Brings what it has, whatever was asked.
struct Host<'a>(&'a [u8]);

impl Line for Host<'_> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Silent> {
        assert!(bytes.len() <= HEADER_BYTES + MAX_CONTENT_BYTES);
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<(), Silent> {
        let (now, later) = self.0.split_at_checked(bytes.len()).ok_or(Silent)?;
        bytes.copy_from_slice(now);
        self.0 = later;
        Ok(())
    }
}

/// Asks a host that brings the input, or a holder's messages changed by it: there are the keys the image names, or none. Takes the input for
/// a question, too.
pub fn run(data: &[u8]) {
    if let Ok(evidence) = Evidence::parse(data) {
        let again = [evidence.report, evidence.document.to_bytes()].concat();
        assert_eq!(again, data);
    }
    if let Some(Ok((_, len))) = data.first_chunk().map(read_header) {
        assert!(len <= MAX_CONTENT_BYTES);
    }
    let mut input = Input::new(data);
    let holder = input.u8();
    let Some(honest) = HOLDERS.get(usize::from(holder)) else {
        outcome(input.rest());
        return;
    };
    let mut messages = honest.clone();
    while !input.is_empty() {
        let at = usize::from(input.u16()) % messages.len();
        messages[at] ^= input.u8();
    }
    let is_given = outcome(&messages);
    assert_eq!(is_given, holder == 0 && messages == *honest);
}

/// Returns whether the keys were given.
fn outcome(messages: &[u8]) -> bool {
    let wanted = Wanted {
        ids: &ids(),
        starts: None,
    };
    let asked = ask(&mut Host(messages), |_| Some(REPORT), &ENTROPY, wanted);
    let Ok(given) = asked else {
        return false;
    };
    assert!(given.iter().map(DiskKey::id).eq(ids()));
    true
}

/// Both holders, a refusal, a question.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let refusal = frame(Kind::REFUSAL, &[25, 0]);
    vec![
        vec![0],
        vec![1],
        vec![0, 50, 0, 1],
        [&[2][..], &refusal].concat(),
        [&[2][..], &HOLDERS[0]].concat(),
        evidence(),
    ]
}
