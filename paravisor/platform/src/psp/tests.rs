//! The channel against a secure processor of our own making, carried by hosts of all kinds.

use core::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec::Vec;

use stockade_abi::ghcb::GhcbField;
use zerocopy::FromZeros;

use super::*;
use crate::ghcb::tests::FakeHost;
use crate::shared::tests::page;

const KEY: [u8; 32] = [0x5A; 32];
const DERIVED: [u8; 32] = [0xC3; 32];

/// Opens the request on `request` as the secure processor would and seals the answer onto `response`.
fn answer(request: SharedPage, response: SharedPage, sequence: u64, status: u32) {
    let mut page = [0; SHARED_PAGE_SIZE];
    request.read(0, &mut page);
    let kind = MessageType::KEY_REQUEST;
    let payload = message::open(&KEY, sequence, kind, &mut page).unwrap();
    assert_eq!(payload.len(), size_of::<KeyRequest>());
    let mut key = KeyResponse::new_zeroed();
    key.status = status;
    key.derived_key = DERIVED;
    let sealed = message::seal(
        &KEY,
        sequence + 1,
        MessageType::KEY_RESPONSE,
        key.as_bytes(),
    );
    response.write(0, sealed.unwrap().bytes());
}

fn pair() -> (SharedPage, SharedPage, Psp) {
    let (request, response) = (page(), page());
    let psp = Psp::new(Zeroizing::new(KEY), request, response);
    (request, response, psp)
}

fn ask(psp: &mut Psp, host: &FakeHost) -> Result<[u8; 32], PspError> {
    psp.derived_key(&host.ghcb(), &KeyRequest::default())
        .map(|key| *key)
}

#[test]
fn requests_are_numbered_one_three_five() {
    let (request, response, mut psp) = pair();
    let sequence = Cell::new(1);
    let host = FakeHost::with(move |_| {
        answer(request, response, sequence.get(), status::SUCCESS);
        sequence.set(sequence.get() + 2);
    });
    for _ in 0..3 {
        assert_eq!(ask(&mut psp, &host), Ok(DERIVED));
    }
    assert_eq!(host.page().read_u64(0x10), request.address());
    assert_eq!(host.page().read_u64(0x18), response.address());
}

/// Two messages under one number would give the key stream away.
#[test]
fn after_any_failure_nothing_more_is_sent() {
    let failures: [fn(&SharedPage); 3] = [
        |_| {},
        |page| page.write_u64(GhcbField::SW_EXIT_INFO2.offset(), 0x16),
        |page| page.write_u64(GhcbField::SW_EXIT_INFO1.offset(), 2),
    ];
    for failure in failures {
        let (_, _, mut psp) = pair();
        let host = FakeHost::with(failure);
        let error = ask(&mut psp, &host).unwrap_err();
        assert!(error.is_final());
        assert_eq!(ask(&mut psp, &host), Err(PspError::Closed));
        assert_eq!(host.events().len(), 1);
    }
}

#[test]
fn a_replayed_answer_is_refused() {
    let (request, response, mut psp) = pair();
    let first = Rc::new(RefCell::new(Vec::new()));
    let host = FakeHost::with(move |_| {
        let mut recorded = first.borrow_mut();
        if recorded.is_empty() {
            answer(request, response, 1, status::SUCCESS);
            recorded.resize(SHARED_PAGE_SIZE, 0);
            response.read(0, &mut recorded);
        } else {
            response.write(0, &recorded);
        }
    });
    assert_eq!(ask(&mut psp, &host), Ok(DERIVED));
    let error = ask(&mut psp, &host).unwrap_err();
    assert_eq!(error, PspError::Message(MessageError::Header));
}

#[test]
fn a_busy_host_gets_the_same_message_again() {
    let (request, response, mut psp) = pair();
    let seen: Rc<RefCell<Vec<[u8; 128]>>> = Rc::default();
    let messages = seen.clone();
    let host = FakeHost::with(move |ghcb| {
        let mut message = [0; 128];
        request.read(0, &mut message);
        messages.borrow_mut().push(message);
        if messages.borrow().len() < 3 {
            ghcb.write_u64(GhcbField::SW_EXIT_INFO2.offset(), 2 << 32);
        } else {
            answer(request, response, 1, status::SUCCESS);
        }
    });
    assert_eq!(ask(&mut psp, &host), Ok(DERIVED));
    assert!(seen.borrow().windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_declined_request_leaves_the_channel_open() {
    let (request, response, mut psp) = pair();
    let sequence = Cell::new(1);
    let host = FakeHost::with(move |_| {
        answer(request, response, sequence.get(), 0x16);
        sequence.set(sequence.get() + 2);
    });
    assert_eq!(ask(&mut psp, &host), Err(PspError::Declined(0x16)));
    assert_eq!(ask(&mut psp, &host), Err(PspError::Declined(0x16)));
}

#[test]
fn a_wiped_key_is_no_key() {
    let host = FakeHost::new();
    let mut psp = Psp::new(Zeroizing::new([0; 32]), page(), page());
    assert_eq!(ask(&mut psp, &host), Err(PspError::Closed));
    assert!(host.events().is_empty());
}

#[test]
fn debug_output_shows_no_key() {
    let (_, _, psp) = pair();
    assert!(!std::format!("{psp:?}").contains("90, 90"));
}
