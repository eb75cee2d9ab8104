//! The profile's tables whole (PC Client PTP 1.05, 6.5.3): every state and event, in every locality and by every width, and every register
//! that takes nothing.

use super::*;

const WIDTHS: [usize; 4] = [1, 2, 4, 8];
const ABANDONED: State = State::Execution(Fate::Abandoned);
const ABANDONED_FOR: State = State::Execution(Fate::AbandonedFor);
/// Registers by which something is asked for.
const ASKING: [usize; 4] = [at::LOC_CTRL, at::CTRL_REQ, at::CTRL_CANCEL, at::CTRL_START];

/// What can happen to the interface, by the locality that has it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ready,
    Idle,
    Byte,
    Start,
    Done,
}

const EVENTS: [Event; 5] = [
    Event::Ready,
    Event::Idle,
    Event::Byte,
    Event::Start,
    Event::Done,
];

/// The profile's table of states, with what comes of a command nobody waits for any more.
fn next(state: State, event: Event) -> State {
    match (state, event) {
        (State::Idle, Event::Ready) => State::Ready,
        (State::Idle, _) => State::Idle,
        (State::Ready, Event::Byte) => State::Reception,
        // Nothing was written that could be a command.
        (State::Ready, Event::Start) => State::Completion,
        (State::Ready, Event::Idle) => State::Idle,
        (State::Ready, _) => State::Ready,
        (State::Reception, Event::Ready) => State::Ready,
        (State::Reception, Event::Idle) => State::Idle,
        (State::Reception, Event::Start) => RUNNING,
        (State::Reception, _) => State::Reception,
        (RUNNING, Event::Done) => State::Completion,
        (RUNNING, _) => RUNNING,
        (State::Completion, Event::Ready) => State::Ready,
        (State::Completion, Event::Idle) => State::Idle,
        (State::Completion, Event::Byte) => State::Reception,
        (State::Completion, _) => State::Completion,
        (ABANDONED, Event::Ready) => ABANDONED_FOR,
        (ABANDONED, Event::Done) => State::Idle,
        (ABANDONED, _) => ABANDONED,
        (ABANDONED_FOR, Event::Idle) => ABANDONED,
        (ABANDONED_FOR, Event::Done) => State::Ready,
        (ABANDONED_FOR, _) => ABANDONED_FOR,
    }
}

/// Writes the first `width` bytes of a register, and those behind it.
fn write_wide(crb: &mut Crb, locality: u8, register: usize, value: u32, width: usize) {
    let bytes = u64::from(value).to_le_bytes();
    crb.mmio_write(page(locality) + register as u64, &bytes[..width])
        .unwrap();
}

fn happen(crb: &mut Crb, locality: u8, event: Event, width: usize) {
    match event {
        Event::Ready => write_wide(crb, locality, at::CTRL_REQ, READY, width),
        Event::Idle => write_wide(crb, locality, at::CTRL_REQ, IDLE, width),
        Event::Byte => write_wide(crb, locality, at::DATA_BUFFER, 0x80, width),
        Event::Start => write_wide(crb, locality, at::CTRL_START, 1, width),
        Event::Done => {
            if crb.port.is_busy {
                crb.port.outcome = Some(Ok(response()));
            }
            crb.poll();
        }
    }
}

/// Returns an interface in `state` that `owner` has; one nobody waits for was another's.
fn crb_of(owner: u8, state: State) -> Crb {
    let mut crb = crb();
    if let State::Execution(Fate::Abandoned | Fate::AbandonedFor) = state {
        let other = (owner + 1) % 5;
        write(&mut crb, other, at::LOC_CTRL, REQUEST);
        write(&mut crb, other, at::CTRL_REQ, READY);
        fill(&mut crb, other, &startup_clear());
        write(&mut crb, other, at::CTRL_START, 1);
        write(&mut crb, other, at::LOC_CTRL, RELINQUISH);
    }
    write(&mut crb, owner, at::LOC_CTRL, REQUEST);
    match state {
        State::Idle | ABANDONED => {}
        State::Ready | ABANDONED_FOR => write(&mut crb, owner, at::CTRL_REQ, READY),
        State::Reception | RUNNING | State::Completion => {
            write(&mut crb, owner, at::CTRL_REQ, READY);
            fill(&mut crb, owner, &startup_clear());
        }
    }
    if matches!(state, RUNNING | State::Completion) {
        write(&mut crb, owner, at::CTRL_START, 1);
    }
    if state == State::Completion {
        happen(&mut crb, owner, Event::Done, 4);
    }
    assert_eq!(crb.state, state);
    crb
}

const ALL_STATES: [State; 7] = [
    State::Idle,
    State::Ready,
    State::Reception,
    RUNNING,
    State::Completion,
    ABANDONED,
    ABANDONED_FOR,
];

#[test]
fn every_state_answers_every_event_in_every_locality_by_every_width() {
    let mut tried = 0;
    for owner in 0..5 {
        for (state, event) in ALL_STATES.iter().flat_map(|s| EVENTS.map(|e| (*s, e))) {
            for width in WIDTHS {
                let mut crb = crb_of(owner, state);
                happen(&mut crb, owner, event, width);
                let place = (owner, state, event, width);
                assert_eq!(crb.state, next(state, event), "{place:?}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 5 * 7 * 5 * 4);
}

/// What a driver sees of a state: tpmIdle, START, and whether its request for readiness waits.
#[test]
fn every_state_shows_itself_in_the_registers_of_every_locality() {
    for (owner, reader) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
        for state in ALL_STATES {
            let mut crb = crb_of(owner, state);
            let shown = [at::CTRL_REQ, at::CTRL_STS, at::CTRL_START]
                .map(|register| read(&mut crb, reader, register));
            let expected = match state {
                State::Idle | ABANDONED => [0, 2, 0],
                State::Ready | State::Reception | State::Completion => [0, 0, 0],
                RUNNING => [0, 0, 1],
                ABANDONED_FOR => [1, 0, 0],
            };
            assert_eq!(shown, expected, "{owner} {reader} {state:?}");
        }
    }
}

#[test]
fn events_of_localities_without_the_tpm_change_no_state() {
    for (owner, other) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
        for (state, event) in ALL_STATES.iter().flat_map(|s| EVENTS.map(|e| (*s, e))) {
            if other == owner || matches!(event, Event::Done) {
                continue;
            }
            for width in WIDTHS {
                let mut crb = crb_of(owner, state);
                happen(&mut crb, other, event, width);
                assert_eq!(crb.state, state, "{owner} {other} {event:?} {width}");
            }
        }
    }
}

/// Giving up and being robbed end what was begun; asking, and robbing those above, do not.
#[test]
fn every_state_answers_every_event_of_localities() {
    for (owner, other) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
        for state in ALL_STATES {
            for asked in [REQUEST, RELINQUISH, SEIZE] {
                let mut crb = crb_of(owner, state);
                let cancels = crb.port.cancels;
                write(&mut crb, other, at::LOC_CTRL, asked);
                let gives_up = asked == RELINQUISH && other == owner;
                let is_robbed = asked == SEIZE && other > owner;
                let expected = match state {
                    _ if !gives_up && !is_robbed => state,
                    State::Execution(_) => ABANDONED,
                    _ => State::Idle,
                };
                let place = (owner, other, state, asked);
                assert_eq!(crb.state, expected, "{place:?}");
                let is_cancelled = state == RUNNING && expected == ABANDONED;
                assert!(crb.port.cancels > cancels || !is_cancelled, "{place:?}");
                let now = match (gives_up, is_robbed) {
                    (true, _) => 0x81,
                    (_, true) => 0x83 | u32::from(other) << 2,
                    _ => 0x83 | u32::from(owner) << 2,
                };
                assert_eq!(read(&mut crb, 0, at::LOC_STATE), now, "{place:?}");
            }
        }
    }
}

/// Size, address, identity, status and all reserved places: written whole, by byte or in between, nothing anywhere is another.
#[test]
fn registers_that_ask_for_nothing_take_nothing() {
    for state in ALL_STATES {
        let mut crb = crb_of(0, state);
        let mut before = [0; 0x80];
        crb.mmio_read(0, &mut before).unwrap();
        let places = (0..0x80).step_by(4).filter(|at| !ASKING.contains(at));
        for (place, width) in places.flat_map(|at| [1, 2, 4].map(|width| (at, width))) {
            crb.mmio_write(place as u64, &[0xFF; 4][..width]).unwrap();
            let mut after = [0; 0x80];
            crb.mmio_read(0, &mut after).unwrap();
            assert_eq!((after, crb.state), (before, state), "{place:#x} {width}");
        }
    }
}

#[test]
fn places_of_registers_that_are_not_there_read_as_nothing() {
    let mut crb = crb_of(0, State::Reception);
    let places = [0x04..0x0C, 0x18..0x30, 0x38..0x40, 0x50..0x58, 0x70..0x80];
    for place in places.into_iter().flatten() {
        let mut byte = [0xAA];
        crb.mmio_read(place, &mut byte).unwrap();
        assert_eq!(byte, [0], "{place:#x}");
    }
}

#[test]
fn bits_that_mean_nothing_ask_for_nothing() {
    for state in ALL_STATES {
        for (register, bits) in [
            (at::LOC_CTRL, !0xF),
            (at::CTRL_REQ, !3),
            (at::CTRL_START, !1),
            (at::CTRL_REQ, 0),
            (at::CTRL_START, 0),
            (at::LOC_CTRL, 0),
        ] {
            let mut crb = crb_of(0, state);
            write(&mut crb, 0, register, bits);
            assert_eq!(crb.state, state, "{register:#x} {bits:#x}");
            assert_eq!(read(&mut crb, 0, at::LOC_STS), 1);
            assert!(crb.port.resets.is_empty());
        }
    }
}

/// As Linux does around each command: set and cleared while idle it is forgotten, set before a command it is in its way.
#[test]
fn cancel_that_was_cleared_is_forgotten_and_one_that_was_not_refuses_the_next() {
    for width in WIDTHS {
        let mut crb = crb_of(0, State::Reception);
        write_wide(&mut crb, 0, at::CTRL_CANCEL, 1, width.min(4));
        write_wide(&mut crb, 0, at::CTRL_CANCEL, 0, width.min(4));
        write(&mut crb, 0, at::CTRL_START, 1);
        assert_eq!(crb.state, RUNNING);
        happen(&mut crb, 0, Event::Done, width);
        write_wide(&mut crb, 0, at::CTRL_CANCEL, 1, width.min(4));
        fill(&mut crb, 0, &startup_clear());
        write(&mut crb, 0, at::CTRL_START, 1);
        assert_eq!(buffer(&mut crb, 0, 10), failed(ResponseCode::CANCELED));
        assert_eq!(crb.port.begun.len(), 1);
    }
}

/// From registers into the buffer, and up to the page's last byte: no access is special by where it lies.
#[test]
fn accesses_over_the_edges_are_those_of_their_bytes() {
    for width in 1..=16_usize {
        for start in (0x80 - width..0x80).chain(0x1000 - width..0x1000 - width + 1) {
            let mut crb = crb_of(0, State::Reception);
            let data: Vec<u8> = (1..).take(width).collect();
            let is_harmless = !ASKING.iter().any(|at| (start..start + width).contains(at));
            assert!(is_harmless);
            crb.mmio_write(start as u64, &data).unwrap();
            let mut whole = vec![0; width];
            crb.mmio_read(start as u64, &mut whole).unwrap();
            let mut single = vec![0; width];
            for (at, byte) in (start as u64..).zip(single.chunks_mut(1)) {
                crb.mmio_read(at, byte).unwrap();
            }
            assert_eq!(whole, single, "{width} at {start:#x}");
            for (at, (byte, written)) in (start..).zip(single.iter().zip(&data)) {
                let expected = if at < 0x80 { 0 } else { *written };
                assert_eq!(*byte, expected, "{width} at {start:#x}, {at:#x}");
            }
        }
    }
}
