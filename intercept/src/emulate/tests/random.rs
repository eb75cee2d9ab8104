//! Any bytes in any mode: no panic, and an exception leaves the registers alone.

extern crate std;

use super::{CODE, CODE16, CODE32, CODE64, DATA, DEVICE, HOLE, RAM, Rig, STACK, flat};
use crate::emulate::{Done, Stop};
use proptest::prelude::*;
use std::vec;
use stockade_bus::Gpa;
use stockade_bus::GuestMemory;

const OPERANDS: [u64; 8] = [
    DATA,
    DEVICE,
    HOLE - 4,
    DEVICE + 0xFF8,
    DATA + 0xFFC,
    1 << 47,
    u64::MAX - 2,
    0,
];

/// Registers that often point somewhere, and bytes that often are an instruction with a memory operand.
fn run(bytes: [u8; 15], registers: [u64; 8], mode: u8, flags: u64) {
    let mut rig = match mode % 4 {
        0 | 1 => Rig::new(),
        2 => Rig::unpaged(CODE32, 1),
        _ => Rig::unpaged(CODE16, 0),
    };
    if mode % 4 == 1 {
        rig.vmsa.cs = flat([CODE64, CODE32, CODE16][usize::from(mode / 4 % 3)]);
    }
    rig.vmsa.cpl = if mode & 0x80 != 0 { 3 } else { 0 };
    let pick = |value: u64| match value >> 60 {
        0..=7 => OPERANDS[usize::try_from(value % 8).unwrap()],
        8..=11 => value & 0xFFFF,
        _ => value,
    };
    let vmsa = &mut *rig.vmsa;
    vmsa.rax = pick(registers[0]);
    vmsa.rbx = pick(registers[1]);
    vmsa.rcx = registers[2] % 1000;
    vmsa.rdx = pick(registers[3]);
    vmsa.rsi = pick(registers[4]);
    vmsa.rdi = pick(registers[5]);
    vmsa.rbp = pick(registers[6]);
    vmsa.rsp = if registers[7] & 1 == 0 {
        STACK
    } else {
        pick(registers[7])
    };
    vmsa.rflags = 2 | (flags & 0x4_0CD5);
    rig.poke(CODE, &bytes);
    let before = rig.vmsa.clone();
    let mut memory = vec![0; RAM - 0x8000];
    rig.memory.read(Gpa(0x8000), &mut memory).unwrap();
    let result = rig.step();
    let is_repeated = bytes.iter().any(|byte| matches!(byte, 0xF2 | 0xF3));
    match result {
        Ok(Done::Completed) => {}
        Ok(Done::Again) => assert_eq!(rig.vmsa.rip, before.rip),
        Ok(Done::Trapped) => unreachable!("TF was clear"),
        Err(Stop::Memory(_)) => unreachable!("nothing was withdrawn"),
        Err(_) => {
            assert!(
                is_repeated || rig.vmsa == before,
                "{bytes:02x?} left a trace"
            );
            let mut after = vec![0; RAM - 0x8000];
            rig.memory.read(Gpa(0x8000), &mut after).unwrap();
            assert!(is_repeated || memory == after, "{bytes:02x?} wrote");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn any_bytes_complete_or_leave_no_trace(
        bytes: [u8; 15],
        registers: [u64; 8],
        mode: u8,
        flags: u64,
    ) {
        run(bytes, registers, mode, flags);
    }

    #[test]
    fn any_common_instruction_completes_or_leaves_no_trace(
        prefix in prop::sample::select(vec![0x90, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x64, 0x48, 0x4C]),
        two_byte: bool,
        opcode: u8,
        rest: [u8; 11],
        registers: [u64; 8],
        mode: u8,
        flags: u64,
    ) {
        let mut bytes = [0x90; 15];
        let mut at = 0;
        let mut put = |byte| {
            bytes[at] = byte;
            at += 1;
        };
        if prefix != 0x90 {
            put(prefix);
        }
        if two_byte {
            put(0x0F);
        }
        put(opcode);
        for byte in rest {
            put(byte);
        }
        run(bytes, registers, mode, flags);
    }
}
