//! Port accesses by register and by string.

extern crate std;

use super::{CODE, DATA, DEVICE, Event, HOLE, Rig};
use crate::emulate::{Done, REPEAT_LIMIT, Stop};
use crate::exit::{Direction, IoAccess, StringIo};
use std::vec;

const NEXT: u64 = CODE + 2;

impl Rig {
    fn port(&mut self, access: IoAccess) -> Result<Done, Stop> {
        self.emulator
            .port_access(&mut self.vmsa, &self.memory, &mut self.bus, &access, NEXT)
    }
}

fn plain(direction: Direction, width: u8) -> IoAccess {
    IoAccess {
        port: 0x1F0,
        width,
        direction,
        string: None,
    }
}

fn string(direction: Direction, width: u8, rep: bool) -> IoAccess {
    IoAccess {
        string: Some(StringIo {
            rep,
            address_size: 8,
            segment: 3,
        }),
        ..plain(direction, width)
    }
}

#[test]
fn input_writes_the_accumulator_as_wide_as_it_is() {
    for (width, expected) in [
        (1, 0xFFFF_FFFF_FFFF_FF11),
        (2, 0xFFFF_FFFF_FFFF_2211),
        (4, 0x4433_2211),
    ] {
        let mut rig = Rig::new();
        rig.vmsa.rax = u64::MAX;
        rig.bus.ports.extend([0x11, 0x22, 0x33, 0x44]);
        rig.vmsa.vintr_ctrl.set_int_shadow(true);
        assert_eq!(rig.port(plain(Direction::Read, width)), Ok(Done::Completed));
        assert_eq!((rig.vmsa.rax, rig.vmsa.rip), (expected, NEXT));
        assert_eq!(rig.bus.events, [Event::In(0x1F0, width.into())]);
        assert!(!rig.vmsa.vintr_ctrl.int_shadow());
    }
}

#[test]
fn output_gives_the_accumulator_and_changes_no_register() {
    let mut rig = Rig::new();
    rig.vmsa.rax = 0x1122_3344_5566_7788;
    rig.port(plain(Direction::Write, 2)).unwrap();
    assert_eq!(rig.vmsa.rax, 0x1122_3344_5566_7788);
    assert_eq!(rig.bus.events, [Event::Out(0x1F0, vec![0x88, 0x77])]);
}

#[test]
fn string_input_fills_memory_and_pauses_in_long_repetitions() {
    let mut rig = Rig::new();
    let count = REPEAT_LIMIT + 3;
    rig.bus.ports.extend((0..count).map(|i| i as u8));
    rig.vmsa.rdi = DATA;
    rig.vmsa.rcx = count as u64;
    let access = string(Direction::Read, 1, true);
    assert_eq!(rig.port(access), Ok(Done::Again));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE, 3));
    assert_eq!(rig.port(access), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (NEXT, 0));
    let bytes: [u8; REPEAT_LIMIT + 3] = rig.peek(DATA);
    assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == i as u8));
}

#[test]
fn string_output_reads_the_segment_the_exit_names_in_the_direction_of_df() {
    let mut rig = Rig::new();
    rig.vmsa.gs.base = DATA;
    rig.vmsa.rsi = 4;
    rig.vmsa.rflags |= 0x400;
    rig.poke(DATA, &[1, 2, 3, 4, 5, 6]);
    let mut access = string(Direction::Write, 2, false);
    access.string.as_mut().unwrap().segment = 5;
    rig.port(access).unwrap();
    assert_eq!(rig.bus.events, [Event::Out(0x1F0, vec![5, 6])]);
    assert_eq!(rig.vmsa.rsi, 2);
}

#[test]
fn string_access_to_a_device_goes_to_the_device() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = DEVICE;
    rig.bus.ports.extend([0x5A]);
    rig.port(string(Direction::Read, 1, false)).unwrap();
    assert_eq!(rig.bus.cells[0], 0x5A);
}

#[test]
fn short_address_sizes_use_short_registers() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = 0xAAAA_0000_0000_0000 | DATA;
    rig.vmsa.rcx = 0xBBBB_0000_0000_0001;
    let mut access = string(Direction::Read, 1, true);
    access.string.as_mut().unwrap().address_size = 4;
    assert_eq!(rig.port(access), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rdi, rig.vmsa.rcx), (DATA + 1, 0));
}

#[test]
fn a_memory_fault_comes_before_the_port_is_touched() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = HOLE;
    rig.vmsa.rcx = 2;
    let before = rig.vmsa.clone();
    let stop = rig.port(string(Direction::Read, 1, true));
    assert!(matches!(stop, Err(Stop::Exception(exception)) if exception.vector == 14));
    assert_eq!(rig.bus.events, []);
    assert_eq!(rig.vmsa, before);
}

#[test]
fn no_count_no_access() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = HOLE;
    let done = rig.port(string(Direction::Read, 1, true));
    assert_eq!(done, Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.bus.events.len()), (NEXT, 0));
}

#[test]
fn impossible_accesses_are_refused() {
    let mut rig = Rig::new();
    for width in [0, 3, 5, 8, 255] {
        let stop = rig.port(plain(Direction::Read, width));
        assert_eq!(stop, Err(Stop::MalformedPortExit));
    }
    for (address_size, segment) in [(0, 3), (3, 3), (8, 6), (8, 255)] {
        let mut access = string(Direction::Write, 1, false);
        access.string = Some(StringIo {
            rep: false,
            address_size,
            segment,
        });
        assert_eq!(rig.port(access), Err(Stop::MalformedPortExit));
    }
}

#[test]
fn a_single_step_is_due_after_a_port_access() {
    let mut rig = Rig::new();
    rig.vmsa.rflags |= 0x100;
    let done = rig.port(plain(Direction::Write, 1));
    assert_eq!(done, Ok(Done::Trapped));
    assert_eq!(rig.vmsa.rip, NEXT);
}
