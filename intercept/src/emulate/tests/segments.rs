//! Real, protected and compatibility mode: widths, limits, types and wrapping.

extern crate std;

use super::{CODE, CODE16, CODE32, DATA32, DEVICE, Event, Rig, STACK, assemble, flat};
use crate::emulate::{Done, Exception, Stop};
use crate::walk::control::CR0_PE;
use iced_x86::code_asm::*;
use std::vec;
use stockade_abi::vmsa::{Segment, SegmentAttributes};

const GP: Result<Done, Stop> = Err(Stop::Exception(Exception::GENERAL_PROTECTION));
const SS: Result<Done, Stop> = Err(Stop::Exception(Exception::STACK));

fn real_segment(selector: u16) -> Segment {
    Segment {
        selector,
        attributes: SegmentAttributes::from_bits(0x93),
        limit: 0xFFFF,
        base: u64::from(selector) << 4,
    }
}

fn real() -> Rig {
    let mut rig = Rig::unpaged(CODE16, 0);
    rig.vmsa.cs = real_segment(0x1000);
    rig.vmsa.cs.attributes = SegmentAttributes::from_bits(CODE16);
    rig.vmsa.rip = 0x100;
    rig.vmsa.ds = real_segment(0x2000);
    rig.vmsa.es = real_segment(0x3000);
    rig.vmsa.ss = real_segment(0x2800);
    rig.vmsa.rsp = 0x1000;
    rig
}

#[test]
fn real_mode_addresses_are_sixteen_bits_in_a_segment() {
    let mut rig = real();
    rig.vmsa.rax = 0xBEEF;
    rig.vmsa.rbx = 0xFFFF_F000;
    rig.vmsa.rsi = 0x1010;
    // MOV [BX+SI], AX: the offset wraps at 64 KiB.
    assert_eq!(rig.run(&[0x89, 0x00]), Ok(Done::Completed));
    assert_eq!(rig.peek::<2>(0x2_0010), [0xEF, 0xBE]);
    assert_eq!(rig.vmsa.rip, 0x102);
    // BP means SS; operand and address size prefixes widen.
    rig.vmsa.rbp = 0x20;
    rig.run(&[0x66, 0x89, 0x46, 0x00]).unwrap();
    assert_eq!(rig.peek::<4>(0x2_8020), [0xEF, 0xBE, 0, 0]);
    rig.vmsa.rcx = 0x30;
    rig.run(&[0x67, 0x89, 0x01]).unwrap();
    assert_eq!(rig.peek::<2>(0x2_0030), [0xEF, 0xBE]);
}

#[test]
fn real_mode_offsets_past_the_limit_fault() {
    let mut rig = real();
    rig.vmsa.rbx = 0xFFFF;
    assert_eq!(rig.run(&[0x89, 0x07]), GP);
    rig.vmsa.rbp = 0xFFFF;
    assert_eq!(rig.run(&[0x89, 0x46, 0x00]), SS);
    assert_eq!(rig.run(&[0x88, 0x07]), Ok(Done::Completed));
    rig.vmsa.rcx = 0x1_0000;
    assert_eq!(rig.run(&[0x67, 0x88, 0x01]), GP);
}

#[test]
fn the_instruction_pointer_wraps_at_the_width_of_the_code() {
    let mut rig = real();
    rig.vmsa.rip = 0xFFFE;
    rig.vmsa.rbx = 0;
    assert_eq!(rig.run(&[0x88, 0x07]), Ok(Done::Completed));
    assert_eq!(rig.vmsa.rip, 0);
    // An instruction that reaches past the limit is not fetched.
    rig.vmsa.rip = 0xFFFE;
    assert_eq!(rig.run(&[0x88, 0x47]), GP);

    let mut rig = Rig::unpaged(CODE32, CR0_PE);
    rig.vmsa.cs.base = 0x2_0002;
    rig.vmsa.rip = 0xFFFF_FFFE;
    rig.poke(0x2_0000, &[0x88, 0x03]);
    rig.vmsa.rbx = DEVICE;
    assert_eq!(rig.step(), Ok(Done::Completed));
    assert_eq!(rig.vmsa.rip, 0);
}

#[test]
fn real_mode_strings_use_short_registers() {
    let mut rig = real();
    rig.poke(0x2_FFFF, &[0x42]);
    rig.vmsa.rsi = 0xAAAA_FFFF;
    rig.vmsa.rdi = 0xBBBB_0010;
    rig.vmsa.rcx = 0xCCCC_0001;
    assert_eq!(rig.run(&[0xF3, 0xA4]), Ok(Done::Completed));
    assert_eq!(rig.peek::<1>(0x3_0010), [0x42]);
    assert_eq!(rig.vmsa.rsi, 0xAAAA_0000);
    assert_eq!(rig.vmsa.rdi, 0xBBBB_0011);
    assert_eq!(rig.vmsa.rcx, 0xCCCC_0000);
}

#[test]
fn real_mode_stack_wraps_at_64_kib() {
    let mut rig = real();
    rig.vmsa.rsp = 0xAAAA_0000;
    rig.vmsa.rbx = 0x10;
    rig.poke(0x2_0010, &[0x34, 0x12]);
    // PUSH word [BX]
    assert_eq!(rig.run(&[0xFF, 0x37]), Ok(Done::Completed));
    assert_eq!(rig.vmsa.rsp, 0xAAAA_FFFE);
    assert_eq!(rig.peek::<2>(0x2_8000 + 0xFFFE), [0x34, 0x12]);
}

#[test]
fn protected_mode_checks_segment_types() {
    let run = |attributes: u16, code: &[u8]| {
        let mut rig = Rig::unpaged(CODE32, CR0_PE);
        rig.vmsa.ds = flat(attributes);
        rig.vmsa.rbx = DEVICE;
        rig.run(code)
    };
    let (load, store) = ([0x8B, 0x03], [0x89, 0x03]);
    let read_only = 0xC91;
    let execute_only = 0xC99;
    assert_eq!(run(DATA32, &store), Ok(Done::Completed));
    assert_eq!(run(read_only, &load), Ok(Done::Completed));
    assert_eq!(run(read_only, &store), GP);
    assert_eq!(run(CODE32, &load), Ok(Done::Completed));
    assert_eq!(run(CODE32, &store), GP);
    assert_eq!(run(execute_only, &load), GP);
    assert_eq!(run(0, &load), GP, "a null segment");
    // Real mode has the same registers but checks no types.
    let mut rig = Rig::unpaged(CODE16, 0);
    rig.vmsa.ds = flat(CODE16);
    assert_eq!(rig.run(&[0x89, 0x07]), Ok(Done::Completed));
}

#[test]
fn expand_down_segments_begin_above_their_limit() {
    let run = |offset: u64| {
        let mut rig = Rig::unpaged(CODE32, CR0_PE);
        rig.vmsa.ds = Segment {
            limit: 0xFFF,
            ..flat(0xC97)
        };
        rig.vmsa.rbx = offset;
        rig.run(&[0x89, 0x03])
    };
    assert_eq!(run(0xFFF), GP);
    assert_eq!(run(0x1000), Ok(Done::Completed));
    assert_eq!(run(0xFFFF_FFFD), GP);
    assert_eq!(run(0xFFFF_FFFC), Ok(Done::Completed));
}

#[test]
fn segment_bases_wrap_at_four_gigabytes() {
    let mut rig = Rig::unpaged(CODE32, CR0_PE);
    rig.vmsa.ds.base = 0xFFFF_F000;
    rig.vmsa.rbx = DEVICE + 0x1010;
    rig.vmsa.rax = 1;
    rig.run(&[0x88, 0x03]).unwrap();
    assert_eq!(rig.bus.events, [Event::Write(DEVICE + 0x10, vec![1])]);
}

#[test]
fn compatibility_mode_has_32_bit_code_and_long_mode_tables() {
    let mut rig = Rig::new();
    rig.vmsa.cs = flat(CODE32);
    rig.vmsa.rbx = 0xFFFF_FFFF_0000_0000 | DEVICE;
    rig.vmsa.rax = 0x55;
    let code = assemble(32, CODE, |a| a.mov(dword_ptr(ebx), eax));
    assert_eq!(rig.run(&code), Ok(Done::Completed));
    assert_eq!(rig.get64(DEVICE), 0x55);
    // 40 is INC EAX here, not a prefix.
    rig.run(&[0xFF, 0x03]).unwrap();
    assert_eq!(rig.get64(DEVICE), 0x56);
    rig.vmsa.ds = flat(0);
    assert_eq!(rig.run(&code), GP);
}

#[test]
fn flat_protected_mode_calls_push_four_bytes() {
    let mut rig = Rig::unpaged(CODE32, CR0_PE);
    rig.vmsa.rbx = DEVICE;
    rig.set(DEVICE, &0x2_0000_u32.to_le_bytes());
    // CALL [EBX]
    assert_eq!(rig.run(&[0xFF, 0x13]), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rsp), (0x2_0000, STACK - 4));
    assert_eq!(rig.peek::<4>(STACK - 4), [0x02, 0x00, 0x01, 0x00]);
    rig.vmsa.cs.limit = 0x1_FFFF;
    rig.vmsa.rip = CODE;
    assert_eq!(rig.step(), GP, "the target is past the limit");
    assert_eq!(rig.vmsa.rsp, STACK - 4);
}

#[test]
fn in_64_bit_mode_bases_and_limits_do_not_count() {
    let mut rig = Rig::new();
    rig.vmsa.ds = Segment::default();
    rig.vmsa.ds.base = 0x1234_5678;
    rig.vmsa.ss = Segment::default();
    rig.vmsa.rbx = DEVICE;
    rig.vmsa.rbp = DEVICE + 8;
    rig.asm(|a| a.mov(byte_ptr(rbx), 1)).unwrap();
    // A DS or ES prefix is ignored.
    rig.run(&[0x26, 0xC6, 0x03, 0x02]).unwrap();
    rig.asm(|a| a.mov(byte_ptr(rbp), 3)).unwrap();
    assert_eq!((rig.bus.cells[0], rig.bus.cells[8]), (2, 3));
}
