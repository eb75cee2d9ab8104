//! The profile's transitions one by one, then anything at all.

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::tpm::command::{shutdown_clear, startup_clear};

mod conformance;

/// An engine that does as it is told, when it is told.
#[derive(Debug, Default)]
struct Fake {
    begun: Vec<(u8, Vec<u8>)>,
    is_busy: bool,
    cancels: usize,
    outcome: Option<Result<Vec<u8>, ()>>,
    is_established: bool,
    resets: Vec<u8>,
}

impl TpmPort for Fake {
    fn begin(&mut self, locality: Locality, command: &[u8]) {
        assert!(!self.is_busy, "two commands at a time");
        self.is_busy = true;
        self.begun.push((locality.number(), command.to_vec()));
    }

    fn cancel(&mut self) {
        self.cancels += 1;
    }

    fn poll(&mut self, response: &mut [u8; MAX_BYTES]) -> Progress {
        assert!(self.is_busy, "nothing to look for");
        match self.outcome.take() {
            None => Progress::Running,
            Some(Ok(bytes)) => {
                self.is_busy = false;
                let len = bytes.len().min(MAX_BYTES);
                response[..len].copy_from_slice(&bytes[..len]);
                Progress::Done(bytes.len())
            }
            Some(Err(())) => {
                self.is_busy = false;
                Progress::Failed
            }
        }
    }

    fn is_established(&self) -> bool {
        self.is_established
    }

    fn reset_established(&mut self, locality: Locality) {
        self.resets.push(locality.number());
    }
}

type Crb = TpmCrb<Fake>;

const REQUEST: u32 = 1;
const RELINQUISH: u32 = 2;
const SEIZE: u32 = 4;
const READY: u32 = 1;
const IDLE: u32 = 2;

fn crb() -> Crb {
    TpmCrb::new(Fake::default(), Reach::All)
}

fn page(locality: u8) -> u64 {
    u64::from(locality) * PAGE_BYTES
}

fn read(crb: &mut Crb, locality: u8, register: usize) -> u32 {
    let mut word = [0; 4];
    crb.mmio_read(page(locality) + register as u64, &mut word)
        .unwrap();
    u32::from_le_bytes(word)
}

fn write(crb: &mut Crb, locality: u8, register: usize, value: u32) {
    crb.mmio_write(page(locality) + register as u64, &value.to_le_bytes())
        .unwrap();
}

fn fill(crb: &mut Crb, locality: u8, bytes: &[u8]) {
    for (at, byte) in (0x80_u64..).zip(bytes) {
        crb.mmio_write(page(locality) + at, &[*byte]).unwrap();
    }
}

fn buffer(crb: &mut Crb, locality: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crb.mmio_read(page(locality) + 0x80, &mut bytes).unwrap();
    bytes
}

/// Returns an interface that locality 0 has, and that is in `state`.
fn crb_in(state: State) -> Crb {
    let mut crb = crb();
    write(&mut crb, 0, at::LOC_CTRL, REQUEST);
    if state == State::Idle {
        return crb;
    }
    write(&mut crb, 0, at::CTRL_REQ, READY);
    if state == State::Ready {
        return crb;
    }
    fill(&mut crb, 0, &startup_clear());
    if state == State::Reception {
        return crb;
    }
    write(&mut crb, 0, at::CTRL_START, 1);
    if state != State::Completion {
        return crb;
    }
    crb.port.outcome = Some(Ok(response()));
    crb.poll();
    crb
}

/// Success, and two bytes.
fn response() -> Vec<u8> {
    vec![0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0xAB, 0xCD]
}

const RUNNING: State = State::Execution(Fate::Wanted);
const STATES: [State; 5] = [
    State::Idle,
    State::Ready,
    State::Reception,
    RUNNING,
    State::Completion,
];

#[test]
fn states_are_reached_by_the_registers() {
    for state in STATES {
        assert_eq!(crb_in(state).state, state);
    }
}

#[test]
fn power_on_is_idle_and_nobody_s() {
    let mut crb = crb();
    assert_eq!(read(&mut crb, 0, at::LOC_STATE), 0x81);
    assert_eq!(read(&mut crb, 0, at::LOC_STS), 0);
    assert_eq!(read(&mut crb, 0, at::CTRL_STS), 2);
    assert_eq!(read(&mut crb, 0, at::CTRL_REQ), 0);
    assert_eq!(read(&mut crb, 0, at::CTRL_START), 0);
}

#[test]
fn every_state_answers_every_event_as_the_profile_says() {
    // Rows are states in their order; columns: cmdReady, goIdle, a byte written, start, the engine is done.
    type Row = [State; 5];
    let (idle, ready, reception, done) = (
        State::Idle,
        State::Ready,
        State::Reception,
        State::Completion,
    );
    let table: [(State, Row); 5] = [
        (idle, [ready, idle, idle, idle, idle]),
        (ready, [ready, idle, reception, done, ready]),
        (reception, [ready, idle, reception, RUNNING, reception]),
        (RUNNING, [RUNNING, RUNNING, RUNNING, RUNNING, done]),
        (done, [ready, idle, reception, done, done]),
    ];
    let events: [&dyn Fn(&mut Crb); 5] = [
        &|crb| write(crb, 0, at::CTRL_REQ, READY),
        &|crb| write(crb, 0, at::CTRL_REQ, IDLE),
        &|crb| fill(crb, 0, &[0x80]),
        &|crb| write(crb, 0, at::CTRL_START, 1),
        &|crb| {
            crb.port.outcome = Some(Ok(response()));
            crb.poll();
        },
    ];
    for (state, row) in table {
        for (column, event) in events.iter().enumerate() {
            let mut crb = crb_in(state);
            event(&mut crb);
            assert_eq!(crb.state, row[column], "{state:?} column {column}");
        }
    }
}

#[test]
fn command_reaches_the_engine_once_and_its_response_the_driver() {
    let mut crb = crb_in(RUNNING);
    assert_eq!(crb.port.begun, [(0, startup_clear())]);
    assert_eq!(read(&mut crb, 0, at::CTRL_START), 1);
    crb.port.outcome = Some(Ok(response()));
    assert_eq!(read(&mut crb, 0, at::CTRL_START), 0);
    assert_eq!(buffer(&mut crb, 0, 12), response());
    assert_eq!(crb.port.begun.len(), 1);
}

/// As Linux does: ready once, then command after command.
#[test]
fn next_command_may_be_written_over_the_response() {
    let mut crb = crb_in(State::Completion);
    fill(&mut crb, 0, &shutdown_clear());
    assert_eq!(
        buffer(&mut crb, 0, 14),
        [&shutdown_clear()[..], &[0, 0]].concat()
    );
    write(&mut crb, 0, at::CTRL_START, 1);
    assert_eq!(crb.port.begun[1], (0, shutdown_clear()));
}

#[test]
fn nothing_of_command_or_response_is_left_for_the_next() {
    let mut crb = crb_in(State::Reception);
    fill(&mut crb, 0, &[&startup_clear()[..], &[0xEE; 100]].concat());
    write(&mut crb, 0, at::CTRL_START, 1);
    crb.port.outcome = Some(Ok(response()));
    let read = buffer(&mut crb, 0, 200);
    assert_eq!(read[..12], response());
    assert_eq!(read[12..], [0; 188]);
    write(&mut crb, 0, at::CTRL_REQ, READY);
    assert_eq!(buffer(&mut crb, 0, 200), [0; 200]);
}

#[test]
fn buffer_takes_and_gives_any_width() {
    for width in [1, 2, 4, 8, 16] {
        let mut crb = crb_in(State::Ready);
        let bytes: Vec<u8> = (0..64).collect();
        for (at, part) in (0x80..).step_by(width).zip(bytes.chunks(width)) {
            crb.mmio_write(at, part).unwrap();
        }
        let mut back = vec![0; 64];
        for (at, part) in (0x80..).step_by(width).zip(back.chunks_mut(width)) {
            crb.mmio_read(at, part).unwrap();
        }
        assert_eq!(back, bytes, "width {width}");
    }
}

#[test]
fn registers_read_the_same_at_any_width_and_alignment() {
    let mut crb = crb_in(State::Reception);
    let mut all = [0; 0x80];
    crb.mmio_read(0, &mut all).unwrap();
    for width in 1..=16 {
        for at in 0..=all.len() - width {
            let mut part = vec![0; width];
            crb.mmio_read(at as u64, &mut part).unwrap();
            assert_eq!(part, all[at..at + width], "{width} bytes at {at:#x}");
        }
    }
}

#[test]
fn registers_are_written_at_any_width() {
    for width in [1, 2, 4, 8] {
        let mut crb = crb();
        let mut word = [0; 8];
        word[0] = 1;
        crb.mmio_write(at::LOC_CTRL as u64, &word[..width]).unwrap();
        crb.mmio_write(at::CTRL_REQ as u64, &word[..width]).unwrap();
        assert_eq!(crb.state, State::Ready, "width {width}");
    }
    // Cancel and start by one access of eight bytes: cancelled before it began.
    let mut crb = crb_in(State::Reception);
    crb.mmio_write(at::CTRL_CANCEL as u64, &[1, 0, 0, 0, 1, 0, 0, 0])
        .unwrap();
    assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::CANCELED));
    assert!(crb.port.begun.is_empty());
}

#[test]
fn upper_bytes_alone_do_nothing() {
    let mut crb = crb_in(State::Reception);
    for register in [at::LOC_CTRL, at::CTRL_REQ, at::CTRL_CANCEL, at::CTRL_START] {
        crb.mmio_write(register as u64 + 1, &[0xFF; 3]).unwrap();
    }
    assert_eq!(crb.state, State::Reception);
    assert_eq!(read(&mut crb, 0, at::LOC_STS), 1);
}

#[test]
fn sizes_and_addresses_are_the_interface_s_whatever_is_written() {
    for locality in 0..5 {
        let mut crb = crb();
        write(&mut crb, locality, at::LOC_CTRL, REQUEST);
        for register in [0x58, 0x5C, 0x60, 0x64, 0x68, 0x6C, 0x30, 0x34] {
            write(&mut crb, locality, register, 0x1234_5678);
        }
        let low = 0xFED4_0080 + u32::from(locality) * 0x1000;
        let expected = [0xF80, low, 0, 0xF80, low, 0];
        let found = [0x58, 0x5C, 0x60, 0x64, 0x68, 0x6C].map(|at| read(&mut crb, locality, at));
        assert_eq!(found, expected);
        assert_eq!(read(&mut crb, locality, 0x30), 0x000A_5911);
        assert_eq!(read(&mut crb, locality, 0x34), 0x0001_1014);
    }
}

#[test]
fn lengths_that_cannot_be_are_answered_without_the_engine() {
    for size in [0, 9, 3969, 4096, u32::MAX] {
        let mut crb = crb_in(State::Ready);
        let mut command = startup_clear();
        command[2..6].copy_from_slice(&size.to_be_bytes());
        fill(&mut crb, 0, &command);
        write(&mut crb, 0, at::CTRL_START, 1);
        assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::COMMAND_SIZE));
        assert!(crb.port.begun.is_empty());
    }
    let mut crb = crb_in(State::Ready);
    let mut command = startup_clear();
    command[2..6].copy_from_slice(&3968_u32.to_be_bytes());
    fill(&mut crb, 0, &command);
    write(&mut crb, 0, at::CTRL_START, 1);
    assert_eq!(crb.port.begun[0].1.len(), 3968);
}

#[test]
fn responses_that_cannot_be_become_failures() {
    let long = [&[0x80, 1, 0, 0, 0x10, 0, 0, 0, 0, 0][..], &[0; 4086]].concat();
    for bytes in [
        vec![],
        vec![0x80; 5],
        response()[..11].to_vec(),
        vec![0xFF; 20],
        long,
    ] {
        let mut crb = crb_in(RUNNING);
        crb.port.outcome = Some(Ok(bytes));
        crb.poll();
        assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::FAILURE));
        // The next may be better.
        assert_eq!(read(&mut crb, 0, at::CTRL_STS), 0);
    }
}

#[test]
fn engine_that_is_gone_is_a_fatal_error_until_reset() {
    let mut crb = crb_in(RUNNING);
    crb.port.outcome = Some(Err(()));
    assert_eq!(read(&mut crb, 0, at::CTRL_STS), 1);
    assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::FAILURE));
    write(&mut crb, 0, at::CTRL_REQ, READY);
    fill(&mut crb, 0, &startup_clear());
    write(&mut crb, 0, at::CTRL_START, 1);
    assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::FAILURE));
    assert_eq!(crb.port.begun.len(), 1);
    crb.reset();
    assert_eq!(read(&mut crb, 0, at::CTRL_STS), 2);
}

#[test]
fn cancel_reaches_the_engine_only_while_it_is_at_a_command() {
    for state in STATES {
        let mut crb = crb_in(state);
        write(&mut crb, 0, at::CTRL_CANCEL, 1);
        assert_eq!(crb.port.cancels, usize::from(state == RUNNING));
        assert_eq!(read(&mut crb, 0, at::CTRL_CANCEL), 1);
        write(&mut crb, 0, at::CTRL_CANCEL, 0);
        assert_eq!(read(&mut crb, 0, at::CTRL_CANCEL), 0);
        assert_eq!(crb.port.cancels, usize::from(state == RUNNING));
    }
}

#[test]
fn buffer_is_closed_while_the_engine_is_at_it() {
    let mut crb = crb_in(RUNNING);
    fill(&mut crb, 0, &[0x55; 40]);
    assert_eq!(buffer(&mut crb, 0, 4), [0xFF; 4]);
    crb.port.outcome = Some(Ok(response()));
    assert_eq!(buffer(&mut crb, 0, 12), response());
}

#[test]
fn other_localities_can_neither_write_nor_read_the_buffer_nor_command() {
    for (owner, other) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
        if owner == other {
            continue;
        }
        let mut crb = crb();
        write(&mut crb, owner, at::LOC_CTRL, REQUEST);
        write(&mut crb, owner, at::CTRL_REQ, READY);
        fill(&mut crb, owner, &shutdown_clear());
        fill(&mut crb, other, &[0x55; 12]);
        write(&mut crb, other, at::CTRL_START, 1);
        write(&mut crb, other, at::CTRL_REQ, IDLE);
        write(&mut crb, other, at::CTRL_CANCEL, 1);
        assert_eq!(buffer(&mut crb, other, 12), [0xFF; 12]);
        assert_eq!(crb.state, State::Reception);
        write(&mut crb, owner, at::CTRL_START, 1);
        assert_eq!(crb.port.begun, [(owner, shutdown_clear())]);
    }
}

#[test]
fn locality_registers_tell_who_has_the_tpm() {
    for locality in 0..5 {
        let mut crb = crb();
        write(&mut crb, locality, at::LOC_CTRL, REQUEST);
        for reader in 0..5 {
            let state = 0x83 | u32::from(locality) << 2;
            assert_eq!(read(&mut crb, reader, at::LOC_STATE), state);
            assert_eq!(
                read(&mut crb, reader, at::LOC_STS),
                u32::from(reader == locality)
            );
        }
        write(&mut crb, locality, at::LOC_CTRL, RELINQUISH);
        assert_eq!(read(&mut crb, locality, at::LOC_STATE), 0x81);
    }
}

#[test]
fn seizing_takes_command_and_buffer_from_the_lower_locality() {
    for state in STATES {
        let mut crb = crb_in(state);
        write(&mut crb, 2, at::LOC_CTRL, SEIZE);
        assert_eq!(read(&mut crb, 0, at::LOC_STS), 2);
        assert_eq!(read(&mut crb, 2, at::LOC_STS), 1);
        assert_eq!(buffer(&mut crb, 0, 4), [0xFF; 4]);
        assert_eq!(crb.port.cancels, usize::from(state == RUNNING));
        if state != RUNNING {
            assert_eq!(crb.state, State::Idle);
            assert_eq!(buffer(&mut crb, 2, 12), [0; 12]);
        }
    }
}

#[test]
fn response_of_an_abandoned_command_is_nobody_s_and_the_next_waits_for_it() {
    for give_up in [RELINQUISH, 0] {
        let mut crb = crb_in(RUNNING);
        if give_up == RELINQUISH {
            write(&mut crb, 0, at::LOC_CTRL, RELINQUISH);
            write(&mut crb, 1, at::LOC_CTRL, REQUEST);
        } else {
            write(&mut crb, 1, at::LOC_CTRL, SEIZE);
        }
        assert_eq!(read(&mut crb, 1, at::CTRL_START), 0);
        write(&mut crb, 1, at::CTRL_REQ, READY);
        assert_eq!(read(&mut crb, 1, at::CTRL_REQ), 1);
        fill(&mut crb, 1, &shutdown_clear());
        write(&mut crb, 1, at::CTRL_START, 1);
        assert_eq!(crb.port.begun.len(), 1);
        crb.port.outcome = Some(Ok(response()));
        assert_eq!(read(&mut crb, 1, at::CTRL_REQ), 0);
        assert_eq!(crb.state, State::Ready);
        assert_eq!(buffer(&mut crb, 1, 12), [0; 12]);
    }
}

#[test]
fn reset_drops_everything_and_waits_for_the_engine() {
    for state in STATES {
        let mut crb = crb_in(state);
        write(&mut crb, 0, at::CTRL_CANCEL, 1);
        crb.reset();
        assert_eq!(read(&mut crb, 0, at::LOC_STATE), 0x81);
        assert_eq!(read(&mut crb, 0, at::CTRL_STS), 2);
        assert_eq!(read(&mut crb, 0, at::CTRL_CANCEL), 0);
        assert_eq!(crb.save().is_none(), state == RUNNING);
    }
}

#[test]
fn establishment_is_reset_from_localities_three_and_four_only() {
    let mut crb = crb();
    crb.port.is_established = true;
    assert_eq!(read(&mut crb, 0, at::LOC_STATE) & 1, 0);
    for locality in 0..5 {
        write(&mut crb, locality, at::LOC_CTRL, 8);
    }
    assert_eq!(crb.port.resets, [3, 4]);
}

#[test]
fn software_does_not_reach_locality_four() {
    let mut crb = TpmCrb::new(Fake::default(), Reach::Software);
    let outcome = crb.mmio_write(page(4) + at::LOC_CTRL as u64, &[1, 0, 0, 0]);
    assert_eq!(outcome, Err(AccessError::NoRegister));
    assert!(crb.mmio_read(page(4), &mut [0; 4]).is_err());
    assert!(crb.mmio_read(page(3), &mut [0; 4]).is_ok());
    assert!(crb.mmio_read(page(5), &mut [0; 4]).is_err());
}

/// An access, or something the engine does.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Finish(Vec<u8>),
    Fail,
    Reset,
    SaveAndRestore,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = (
        0..5_u64,
        prop_oneof![
            Just(0x08_u64),
            Just(0x40),
            Just(0x48),
            Just(0x4C),
            0..0x90_u64,
            0..0x1000_u64
        ],
    )
        .prop_map(|(locality, at)| locality * PAGE_BYTES + at);
    let value = prop_oneof![
        (0..16_u32).prop_map(|value| value.to_le_bytes().to_vec()),
        Just(startup_clear()),
        proptest::collection::vec(any::<u8>(), 1..16),
    ];
    prop_oneof![
        8 => (offset.clone(), value).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        4 => (offset, 1..=16_usize).prop_map(|(at, len)| Step::Read(at, len)),
        2 => Just(Step::Finish(response())),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Step::Finish),
        1 => Just(Step::Fail),
        1 => Just(Step::Reset),
        1 => Just(Step::SaveAndRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The fake engine fails the test when it gets two commands at a time, or is asked for a response it does not owe.
    #[test]
    fn any_traffic_keeps_the_engine_s_rules(steps in proptest::collection::vec(step(), 1..200)) {
        let mut crb = crb();
        for step in steps {
            match step {
                Step::Write(at, bytes) => {
                    crb.mmio_write(at, &bytes).unwrap();
                }
                Step::Read(at, len) => {
                    crb.mmio_read(at, &mut vec![0; len]).unwrap();
                }
                Step::Finish(bytes) if crb.port.is_busy => crb.port.outcome = Some(Ok(bytes)),
                Step::Fail if crb.port.is_busy => crb.port.outcome = Some(Err(())),
                Step::Finish(_) | Step::Fail => {}
                Step::Reset => crb.reset(),
                Step::SaveAndRestore => {
                    if let Some(saved) = crb.save() {
                        let port = core::mem::take(&mut crb.port);
                        let mut restored = TpmCrb::new(port, Reach::All);
                        restored.restore(&saved).unwrap();
                        prop_assert_eq!(restored.save(), Some(saved));
                        crb = restored;
                    }
                }
            }
            // The engine is at a command exactly when the interface says so.
            let is_running = matches!(crb.state, State::Execution(_));
            prop_assert_eq!(is_running, crb.port.is_busy);
            // What can be read belongs to the one who has the TPM.
            for locality in 0..5 {
                let granted = read(&mut crb, locality, at::LOC_STS) & 1 != 0;
                prop_assert!(granted || buffer(&mut crb, locality, 8) == [0xFF; 8]);
            }
        }
    }
}

#[test]
fn restored_interface_reads_as_the_saved_one() {
    for state in STATES {
        let mut crb = crb_in(state);
        let Some(saved) = crb.save() else {
            assert_eq!(state, RUNNING);
            continue;
        };
        let mut restored = self::crb();
        restored.restore(&saved).unwrap();
        for locality in 0..5 {
            let (mut before, mut after) = ([0; 0x1000], [0; 0x1000]);
            crb.mmio_read(page(locality), &mut before).unwrap();
            restored.mmio_read(page(locality), &mut after).unwrap();
            assert_eq!(before, after);
        }
    }
}

#[test]
fn impossible_states_are_refused() {
    let good = crb_in(State::Ready).save().unwrap();
    let refuses = |change: &dyn Fn(&mut TpmCrbState)| {
        let mut state = good.clone();
        change(&mut state);
        assert!(crb().restore(&state).is_err());
    };
    refuses(&|state| state.version = 2);
    refuses(&|state| state.state = 3);
    refuses(&|state| state.active = None);
    refuses(&|state| state.active = Some(5));
    refuses(&|state| state.buffer.push(0));
}
