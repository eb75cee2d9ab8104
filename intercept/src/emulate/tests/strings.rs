//! String instructions: directions, repetition, interruption, faults in between.

extern crate std;

use super::{CODE, DATA, DEVICE, Event, HOLE, Rig};
use crate::emulate::{Done, REPEAT_LIMIT, Stop};
use std::vec::Vec;

const DF: u64 = 0x400;
const TF: u64 = 0x100;
const ZF: u64 = 0x40;

const REP: u8 = 0xF3;
const REPNE: u8 = 0xF2;

#[test]
fn each_width_moves_both_pointers_by_itself_in_both_directions() {
    for (code, width) in [
        (&[0xA4][..], 1),
        (&[0x66, 0xA5], 2),
        (&[0xA5], 4),
        (&[0x48, 0xA5], 8),
    ] {
        for direction in [0, DF] {
            let mut rig = Rig::new();
            rig.vmsa.rsi = DATA;
            rig.vmsa.rdi = DEVICE + 0x100;
            rig.vmsa.rflags = 2 | direction;
            rig.set(DATA, &0x1122_3344_5566_7788_u64.to_le_bytes());
            assert_eq!(rig.run(code), Ok(Done::Completed));
            let step = if direction == 0 {
                width
            } else {
                0_u64.wrapping_sub(width)
            };
            assert_eq!(rig.vmsa.rsi, DATA.wrapping_add(step));
            assert_eq!(rig.vmsa.rdi, (DEVICE + 0x100).wrapping_add(step));
            let expected = &0x1122_3344_5566_7788_u64.to_le_bytes()[..width as usize];
            let events = [Event::Write(DEVICE + 0x100, expected.to_vec())];
            assert_eq!(rig.bus.events, events);
        }
    }
}

#[test]
fn a_repeated_move_copies_a_buffer_from_device_to_memory_and_back() {
    let bytes: Vec<u8> = (0..96).collect();
    let mut rig = Rig::new();
    rig.set(DEVICE + 0x80, &bytes);
    rig.vmsa.rsi = DEVICE + 0x80;
    rig.vmsa.rdi = DATA;
    rig.vmsa.rcx = 96;
    assert_eq!(rig.run(&[REP, 0xA4]), Ok(Done::Completed));
    assert_eq!(rig.peek::<96>(DATA).as_slice(), bytes);
    assert_eq!((rig.vmsa.rcx, rig.vmsa.rdi), (0, DATA + 96));
    rig.vmsa.rsi = DATA;
    rig.vmsa.rdi = DEVICE + 0x800;
    rig.vmsa.rcx = 24;
    assert_eq!(rig.run(&[REP, 0xA5]), Ok(Done::Completed));
    assert_eq!(rig.get::<96>(DEVICE + 0x800).as_slice(), bytes);
}

#[test]
fn a_long_repetition_lets_interrupts_in() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = DEVICE;
    rig.vmsa.rax = 0x5A;
    rig.vmsa.rcx = 2 * REPEAT_LIMIT as u64 + 1;
    rig.vmsa.vintr_ctrl.set_int_shadow(true);
    assert_eq!(rig.run(&[REP, 0xAA]), Ok(Done::Again));
    assert_eq!(rig.vmsa.rip, CODE);
    assert_eq!(rig.vmsa.rcx, REPEAT_LIMIT as u64 + 1);
    assert_eq!(rig.vmsa.rdi, DEVICE + REPEAT_LIMIT as u64);
    assert!(!rig.vmsa.vintr_ctrl.int_shadow());
    assert_eq!(rig.step(), Ok(Done::Again));
    assert_eq!(rig.step(), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE + 2, 0));
    assert!(
        rig.bus.cells[..2 * REPEAT_LIMIT + 1]
            .iter()
            .all(|byte| *byte == 0x5A)
    );
    assert_eq!(rig.bus.cells[2 * REPEAT_LIMIT + 1], 0);
}

#[test]
fn a_count_of_zero_touches_nothing() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = HOLE;
    rig.vmsa.rdi = HOLE;
    assert_eq!(rig.run(&[REP, 0xA4]), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rsi), (CODE + 2, HOLE));
    assert_eq!(rig.bus.events, []);
}

#[test]
fn finished_elements_stay_finished_when_a_later_one_faults() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = DEVICE;
    rig.vmsa.rdi = HOLE - 8;
    rig.vmsa.rcx = 5;
    // REP MOVSD
    let stop = rig.run(&[REP, 0xA5]);
    let Err(Stop::Exception(exception)) = stop else {
        unreachable!("{stop:?}");
    };
    assert_eq!((exception.vector, exception.address), (14, Some(HOLE)));
    assert_eq!(exception.error_code, Some(2));
    assert_eq!((rig.vmsa.rcx, rig.vmsa.rdi), (3, HOLE));
    assert_eq!((rig.vmsa.rsi, rig.vmsa.rip), (DEVICE + 8, CODE));
    // The device was not read for the element that could not be stored.
    assert_eq!(rig.bus.events.len(), 2);
}

#[test]
fn loads_fill_the_accumulator() {
    let mut rig = Rig::new();
    rig.set(DEVICE, &[0x81, 0x82, 0x83, 0x84]);
    for (code, expected) in [
        (&[0xAC][..], 0xFFFF_FFFF_FFFF_FF81),
        (&[0x66, 0xAD], 0xFFFF_FFFF_FFFF_8281),
        (&[0xAD], 0x8483_8281),
    ] {
        rig.vmsa.rax = u64::MAX;
        rig.vmsa.rsi = DEVICE;
        rig.run(code).unwrap();
        assert_eq!(rig.vmsa.rax, expected);
    }
}

#[test]
fn scans_end_at_a_match_or_a_mismatch() {
    let scan = |prefix: u8, code: u8| {
        let mut rig = Rig::new();
        rig.set(DEVICE, &[1, 1, 1, 2, 2, 1]);
        rig.set(DATA, &[1, 1, 1, 3, 2, 1]);
        rig.vmsa.rax = if prefix == REP { 1 } else { 2 };
        rig.vmsa.rdi = DEVICE;
        rig.vmsa.rsi = DATA;
        rig.vmsa.rcx = 6;
        rig.run(&[prefix, code]).unwrap();
        (rig.vmsa.rcx, rig.vmsa.rdi - DEVICE, rig.vmsa.rflags & ZF)
    };
    assert_eq!(scan(REPNE, 0xAE), (2, 4, ZF));
    assert_eq!(scan(REP, 0xAE), (2, 4, 0));
    assert_eq!(scan(REP, 0xA6), (2, 4, 0));
    assert_eq!(scan(REPNE, 0xA6), (5, 1, ZF));
}

#[test]
fn compares_subtract_the_target_from_the_source() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = DATA;
    rig.vmsa.rdi = DEVICE;
    rig.set(DATA, &[3]);
    rig.set(DEVICE, &[5]);
    rig.run(&[0xA6]).unwrap();
    assert_eq!(rig.vmsa.rflags & 1, 1);
    assert_eq!((rig.vmsa.rsi, rig.vmsa.rdi), (DATA + 1, DEVICE + 1));
}

#[test]
fn either_repeat_prefix_repeats_a_store() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = DEVICE;
    rig.vmsa.rcx = 3;
    rig.run(&[REPNE, 0xAB]).unwrap();
    assert_eq!((rig.vmsa.rcx, rig.vmsa.rdi), (0, DEVICE + 12));
}

#[test]
fn address_size_picks_the_registers() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = 0xAAAA_AAAA_0000_0000 | DATA;
    rig.vmsa.rdi = 0xBBBB_BBBB_0000_0000 | DEVICE;
    rig.vmsa.rcx = 0xCCCC_CCCC_0000_0002;
    assert_eq!(rig.run(&[0x67, REP, 0xA4]), Ok(Done::Completed));
    assert_eq!(rig.vmsa.rsi, DATA + 2);
    assert_eq!(rig.vmsa.rdi, DEVICE + 2);
    assert_eq!(rig.vmsa.rcx, 0);
}

#[test]
fn only_the_source_segment_can_be_overridden() {
    let mut rig = Rig::new();
    rig.vmsa.fs.base = DEVICE;
    rig.vmsa.rsi = 0x20;
    rig.vmsa.rdi = DATA;
    rig.set(DEVICE + 0x20, &[0x77]);
    rig.run(&[0x64, 0xA4]).unwrap();
    assert_eq!(rig.peek::<1>(DATA), [0x77]);
}

#[test]
fn stepping_stops_after_each_element() {
    let mut rig = Rig::new();
    rig.vmsa.rdi = DEVICE;
    rig.vmsa.rcx = 2;
    rig.vmsa.rflags = 2 | TF;
    assert_eq!(rig.run(&[REP, 0xAA]), Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE, 1));
    assert_eq!(rig.vmsa.dr6 & 0x4000, 0x4000);
    assert_eq!(rig.step(), Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE + 2, 0));
}

#[test]
fn elements_across_pages_are_split() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = DATA;
    rig.vmsa.rdi = DEVICE + 0xFFE;
    rig.set(DATA, &[1, 2, 3, 4]);
    rig.run(&[0xA5]).unwrap();
    assert_eq!(rig.get::<4>(DEVICE + 0xFFE), [1, 2, 3, 4]);
    assert_eq!(rig.bus.events.len(), 2);
}
