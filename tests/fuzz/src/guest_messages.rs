//! What a host brings back as the secure processor's answer.

use stockade_abi::guest_message::{KeyRequest, MessageType};
use stockade_platform::SharedPage;
use stockade_platform::psp::{Psp, PspError, message};
use zeroize::Zeroizing;

use crate::Input;
use crate::ghcb_answers::FuzzedHost;
use crate::pages::leak_page;

thread_local! {
    static PAGES: [SharedPage; 3] = [leak_page(), leak_page(), leak_page()];
}

const KEY: [u8; 32] = [0x5A; 32];

/// Asks the secure processor through a host that answers with the input. After a failure nothing more is sent.
pub fn run(data: &[u8]) {
    let [page, request, response] = PAGES.with(|pages| *pages);
    let mut input = Input::new(data);
    open(&mut input);
    let ghcb_bytes = input.bytes(16);
    let host = FuzzedHost::new(page, ghcb_bytes);
    let ghcb = host.ghcb();
    let mut psp = Psp::new(Zeroizing::new(KEY), request, response);
    let answers = [
        psp.report(&ghcb, &[7; 64]).map(drop),
        psp.derived_key(&ghcb, &KeyRequest::default()).map(drop),
        psp.tsc_info(&ghcb).map(drop),
    ];
    // The response page was cleared before the message left, and this host cannot seal one.
    assert!(answers.iter().all(Result::is_err));
    assert_eq!(answers[1], Err(PspError::Closed));
    let exits = host.exits();
    let _ = psp.tsc_info(&ghcb);
    assert_eq!(host.exits(), exits);
}

/// Opens pages of any content, and messages that are authentic but hold anything.
fn open(input: &mut Input<'_>) {
    let (sequence, kind) = (u64::from(input.u8() & 3), MessageType(input.u8() & 7));
    let mut page = [0; 4096];
    let payload = input.bytes(512);
    if let Ok(sealed) = message::seal(&KEY, sequence, kind, payload) {
        page[..sealed.bytes().len()].copy_from_slice(sealed.bytes());
    }
    let flips = input.u8() & 3;
    for _ in 0..flips {
        let at = usize::from(input.u16()) % 0x100;
        page[at] ^= input.u8();
    }
    let opened = message::open(&KEY, 2, MessageType(6), &mut page);
    if let Ok(opened) = opened {
        // Flips may have cancelled out, or hit what nothing depends on; the content is the sender's.
        assert_eq!((sequence, kind), (2, MessageType(6)));
        assert_eq!(opened, payload);
    }
}

/// The message that is expected, whole and changed; hosts that are busy and that refuse.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let message = |flips: &[u8]| {
        let mut seed = vec![2, 6];
        seed.extend([0x11; 512]);
        seed.extend(flips);
        seed
    };
    vec![
        [message(&[0]), vec![0; 16]].concat(),
        [message(&[1, 0x70, 0, 1]), vec![0; 16]].concat(),
        [message(&[0]), vec![2, 0x8F, 0xA0, 2, 0, 0, 0, 1, 0, 0, 0]].concat(),
    ]
}
