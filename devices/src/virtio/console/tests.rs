use std::vec;
use std::vec::Vec;

use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};

use super::*;
use crate::virtio::driver::Driver;
use crate::virtio::queue::Segment;

const FEATURES: Features = Features::VERSION_1.union(SIZE);
const DATA: u64 = 0x8000;
const TERMINAL: ConsoleSize = ConsoleSize {
    columns: 80,
    rows: 25,
};

fn segment(gpa: u64, len: u32) -> Segment {
    Segment { gpa: Gpa(gpa), len }
}

/// The receive queue's driver, the transmit queue's, and the console.
fn rig(memory: &FakeMemory) -> (Driver<'_>, Driver<'_>, Console) {
    let receive = Driver::new(memory, 0x1000, 16, FEATURES);
    let transmit = Driver::new(memory, 0x2000, 16, FEATURES);
    let mut console = Console::new(TERMINAL);
    console.negotiate(FEATURES).unwrap();
    console.activate(&[Some(receive.config), Some(transmit.config)], memory);
    (receive, transmit, console)
}

#[test]
fn output_is_taken_in_pieces_of_any_size() {
    for step in 1..12 {
        let memory = FakeMemory::new(0x1_0000);
        let (_, mut transmit, mut console) = rig(&memory);
        memory.write(Gpa(DATA), b"stockade").unwrap();
        let parts = [segment(DATA, 3), segment(DATA + 3, 2)];
        transmit.add(&parts, &[], None).unwrap();
        transmit.add(&[segment(DATA + 5, 3)], &[], None).unwrap();
        let mut seen: Vec<u8> = Vec::new();
        loop {
            let mut buffer = vec![0; step];
            match console.take_output(&memory, &mut buffer) {
                0 => break,
                taken => seen.extend(&buffer[..taken]),
            }
        }
        assert_eq!(seen, b"stockade");
        assert_eq!(console.take_interrupts(&memory).queues, 0b10);
        let used: Vec<_> = core::iter::from_fn(|| transmit.take_used()).collect();
        assert_eq!(used.len(), 2);
    }
}

#[test]
fn input_fills_buffers_in_order_and_the_rest_waits() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut receive, _, mut console) = rig(&memory);
    receive.add(&[], &[segment(DATA, 4)], None).unwrap();
    receive.add(&[], &[segment(DATA + 4, 2)], None).unwrap();
    assert_eq!(console.push_input(&memory, b"abcdefgh"), 6);
    let mut bytes = [0; 6];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdef");
    assert_eq!(receive.take_used().unwrap().1, 4);
    assert_eq!(receive.take_used().unwrap().1, 2);
    assert_eq!(console.push_input(&memory, b"gh"), 0);
    assert!(!console.needs_reset());
}

#[test]
fn a_receive_buffer_without_room_breaks_the_rules() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut receive, _, mut console) = rig(&memory);
    receive.add(&[segment(DATA, 4)], &[], None).unwrap();
    assert_eq!(console.push_input(&memory, b"x"), 0);
    assert_eq!(console.violation(), Some(Violation::ShortRequest));
}

#[test]
fn a_chain_without_characters_is_given_back() {
    let memory = FakeMemory::new(0x1_0000);
    let (_, mut transmit, mut console) = rig(&memory);
    transmit.add(&[], &[segment(DATA, 4)], None).unwrap();
    assert_eq!(console.take_output(&memory, &mut [0; 4]), 0);
    assert_eq!(transmit.take_used().map(|(_, written)| written), Some(0));
}

#[test]
fn a_new_size_is_told() {
    let memory = FakeMemory::new(0x1_0000);
    let (_, _, mut console) = rig(&memory);
    let mut config = [0; 8];
    console.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 1, 0, 0, 0]);
    console.resize(TERMINAL);
    assert!(console.take_interrupts(&memory).is_empty());
    let generation = console.config_generation();
    console.resize(ConsoleSize {
        columns: 300,
        rows: 50,
    });
    assert!(console.take_interrupts(&memory).config);
    assert_ne!(console.config_generation(), generation);
    console.read_config(0, &mut config[..4]);
    assert_eq!(config[..4], [44, 1, 50, 0]);
}

#[test]
fn a_restored_console_goes_on_in_the_middle_of_a_chain() {
    let memory = FakeMemory::new(0x1_0000);
    let (_, mut transmit, mut console) = rig(&memory);
    memory.write(Gpa(DATA), b"stockade").unwrap();
    transmit.add(&[segment(DATA, 8)], &[], None).unwrap();
    assert_eq!(console.take_output(&memory, &mut [0; 3]), 3);
    let state = console.save();
    let mut other = Console::new(ConsoleSize {
        columns: 1,
        rows: 1,
    });
    other.restore(&state, &memory).unwrap();
    assert_eq!(other.save(), state);
    let mut rest = [0; 8];
    assert_eq!(other.take_output(&memory, &mut rest), 5);
    assert_eq!(&rest[..5], b"ckade");
    assert!(transmit.take_used().is_some());

    let mut refuse = |change: &dyn Fn(&mut ConsoleState)| {
        let mut state = state.clone();
        change(&mut state);
        assert!(other.restore(&state, &memory).is_err());
    };
    refuse(&|state| state.version = 2);
    refuse(&|state| state.open = None);
    refuse(&|state| state.open.as_mut().unwrap().1 = 8);
    refuse(&|state| state.open.as_mut().unwrap().0.head.descriptors = 2);
    refuse(&|state| state.open.as_mut().unwrap().0.readable = 2);
    refuse(&|state| state.queues[1] = None);
}
