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

/// The key of a security version; that of version 0 is [`DERIVED`].
fn derived(svn: u32) -> [u8; 32] {
    DERIVED.map(|byte| byte ^ svn.to_le_bytes()[0])
}

/// Opens the request on `request` as the secure processor would and seals the answer onto `response`.
fn answer(request: SharedPage, response: SharedPage, sequence: u64, status: u32) {
    let mut page = [0; SHARED_PAGE_SIZE];
    request.read(0, &mut page);
    let kind = MessageType::KEY_REQUEST;
    let payload = message::open(&KEY, sequence, kind, &mut page).unwrap();
    let asked = KeyRequest::read_from_bytes(payload).unwrap();
    let mut key = KeyResponse::new_zeroed();
    key.status = status;
    key.derived_key = derived(asked.guest_svn);
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
    ask_for(psp, host, 0)
}

fn ask_for(psp: &mut Psp, host: &FakeHost, svn: u32) -> Result<[u8; 32], PspError> {
    let mut request = KeyRequest::default();
    request.guest_svn = svn;
    psp.derived_key(&host.ghcb(), &request).map(|key| *key)
}

/// Where a message has its number.
const SEQUENCE: core::ops::Range<usize> = 0x20..0x28;

/// What a host was given, and whether it is busy.
#[derive(Clone, Default)]
struct Traffic {
    messages: Rc<RefCell<Vec<[u8; 128]>>>,
    is_busy: Rc<Cell<bool>>,
}

impl Traffic {
    /// Returns a host that keeps every message and passes it on unless it is busy.
    fn host(&self, request: SharedPage, response: SharedPage) -> FakeHost {
        let Self { messages, is_busy } = self.clone();
        FakeHost::with(move |ghcb| {
            let mut message = [0; 128];
            request.read(0, &mut message);
            messages.borrow_mut().push(message);
            if is_busy.get() {
                ghcb.write_u64(GhcbField::SW_EXIT_INFO2.offset(), 2 << 32);
            } else {
                let sequence = message[SEQUENCE].try_into().unwrap();
                let sequence = u64::from_le_bytes(sequence);
                answer(request, response, sequence, status::SUCCESS);
            }
        })
    }

    /// Returns the numbers of the messages, and makes sure that no two messages share one.
    fn numbers(&self) -> Vec<u8> {
        let messages = self.messages.borrow();
        for (first, second) in messages
            .iter()
            .flat_map(|a| messages.iter().map(move |b| (a, b)))
        {
            assert_eq!(first[SEQUENCE] == second[SEQUENCE], first == second);
        }
        messages
            .iter()
            .map(|message| message[SEQUENCE.start])
            .collect()
    }
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

/// A host that is busy for a while has not lied: attestation must not be over for it.
#[test]
fn a_busy_host_gets_the_same_message_again() {
    let (request, response, mut psp) = pair();
    let traffic = Traffic::default();
    let host = traffic.host(request, response);
    traffic.is_busy.set(true);
    for _ in 0..1001 {
        let error = ask(&mut psp, &host).unwrap_err();
        assert!(error == PspError::Busy && !error.is_final());
    }
    traffic.is_busy.set(false);
    assert_eq!(ask(&mut psp, &host), Ok(DERIVED));
    assert_eq!(ask(&mut psp, &host), Ok(DERIVED));
    assert_eq!(traffic.messages.borrow().len(), 1003);
    traffic.messages.borrow_mut().drain(..1000);
    assert_eq!(traffic.numbers(), [1, 1, 3]);
}

/// Two plaintexts sealed under one number would give both away, and the key that authenticates with them.
#[test]
fn what_is_asked_while_a_message_waits_gets_a_number_of_its_own() {
    let (request, response, mut psp) = pair();
    let traffic = Traffic::default();
    let host = traffic.host(request, response);
    traffic.is_busy.set(true);
    for svn in [1, 2, 3, 1] {
        assert_eq!(ask_for(&mut psp, &host, svn), Err(PspError::Busy));
    }
    assert_eq!(traffic.numbers(), [1; 4]);
    traffic.is_busy.set(false);
    assert_eq!(ask_for(&mut psp, &host, 2), Ok(derived(2)));
    assert_eq!(traffic.numbers(), [1, 1, 1, 1, 1, 3]);
    assert_eq!(ask_for(&mut psp, &host, 1), Ok(derived(1)));
    assert_eq!(traffic.numbers()[6..], [5]);
}

#[test]
fn a_host_that_is_busy_and_then_refuses_gets_nothing_more() {
    let (_, _, mut psp) = pair();
    let tries = Cell::new(0);
    let host = FakeHost::with(move |ghcb| {
        let status = [2 << 32, 0x16][tries.replace(1)];
        ghcb.write_u64(GhcbField::SW_EXIT_INFO2.offset(), status);
    });
    assert_eq!(ask(&mut psp, &host), Err(PspError::Busy));
    assert!(ask_for(&mut psp, &host, 1).unwrap_err().is_final());
    assert_eq!(ask(&mut psp, &host), Err(PspError::Closed));
    assert_eq!(host.events().len(), 2);
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
