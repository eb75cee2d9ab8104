//! Moves, conditional moves, stack and vector moves.

extern crate std;

use super::{CODE, DATA, DEVICE, Event, Rig, STACK, check};
use crate::emulate::flags::Flags;
use crate::emulate::{Done, Hint};
use iced_x86::code_asm::*;
use std::vec;
use std::vec::Vec;
use stockade_abi::exit::NpfInfo;
use stockade_bus::Gpa;

const VALUE: u64 = 0x8182_8384_8586_8788;

#[test]
fn loads_of_each_width_keep_or_clear_the_upper_bits_as_the_mode_says() {
    let load = |write: fn(&mut CodeAssembler) -> super::Assembled| {
        let (rig, _) = check(Flags::empty(), write, |rig, at| {
            rig.vmsa.rax = u64::MAX;
            rig.set(at, &VALUE.to_le_bytes());
        });
        rig.vmsa.rax
    };
    assert_eq!(load(|a| a.mov(rax, qword_ptr(rbx))), VALUE);
    assert_eq!(load(|a| a.mov(eax, dword_ptr(rbx))), 0x8586_8788);
    assert_eq!(load(|a| a.mov(ax, word_ptr(rbx))), 0xFFFF_FFFF_FFFF_8788);
    assert_eq!(load(|a| a.mov(al, byte_ptr(rbx))), 0xFFFF_FFFF_FFFF_FF88);
    assert_eq!(load(|a| a.mov(ah, byte_ptr(rbx))), 0xFFFF_FFFF_FFFF_88FF);
    assert_eq!(load(|a| a.movzx(eax, byte_ptr(rbx))), 0x88);
    assert_eq!(load(|a| a.movzx(rax, word_ptr(rbx))), 0x8788);
    assert_eq!(load(|a| a.movzx(ax, byte_ptr(rbx))), 0xFFFF_FFFF_FFFF_0088);
    assert_eq!(load(|a| a.movsx(eax, byte_ptr(rbx))), 0xFFFF_FF88);
    assert_eq!(load(|a| a.movsx(ax, byte_ptr(rbx))), 0xFFFF_FFFF_FFFF_FF88);
    assert_eq!(load(|a| a.movsx(rax, word_ptr(rbx))), 0xFFFF_FFFF_FFFF_8788);
    assert_eq!(
        load(|a| a.movsxd(rax, dword_ptr(rbx))),
        0xFFFF_FFFF_8586_8788
    );
    assert_eq!(load(|a| a.movbe(rax, qword_ptr(rbx))), VALUE.swap_bytes());
    assert_eq!(load(|a| a.movbe(eax, dword_ptr(rbx))), 0x8887_8685);
    assert_eq!(load(|a| a.movbe(ax, word_ptr(rbx))), 0xFFFF_FFFF_FFFF_8887);
}

#[test]
fn stores_of_each_width_change_so_many_bytes() {
    let store = |write: fn(&mut CodeAssembler) -> super::Assembled| {
        let (rig, at) = check(Flags::empty(), write, |rig, at| {
            rig.vmsa.rax = VALUE;
            rig.vmsa.r15 = 0x1122_3344_5566_7788;
            rig.vmsa.gs.selector = 0xABCD;
            rig.set(at, &[0xEE; 8]);
        });
        rig.get64(at)
    };
    assert_eq!(store(|a| a.mov(qword_ptr(rbx), rax)), VALUE);
    assert_eq!(store(|a| a.mov(dword_ptr(rbx), eax)), 0xEEEE_EEEE_8586_8788);
    assert_eq!(store(|a| a.mov(word_ptr(rbx), ax)), 0xEEEE_EEEE_EEEE_8788);
    assert_eq!(store(|a| a.mov(byte_ptr(rbx), al)), 0xEEEE_EEEE_EEEE_EE88);
    assert_eq!(store(|a| a.mov(byte_ptr(rbx), ah)), 0xEEEE_EEEE_EEEE_EE87);
    assert_eq!(store(|a| a.mov(byte_ptr(rbx), r15b)), 0xEEEE_EEEE_EEEE_EE88);
    assert_eq!(store(|a| a.mov(dword_ptr(rbx), -2)), 0xEEEE_EEEE_FFFF_FFFE);
    assert_eq!(store(|a| a.mov(qword_ptr(rbx), -2)), 0xFFFF_FFFF_FFFF_FFFE);
    assert_eq!(store(|a| a.mov(byte_ptr(rbx), 0x12)), 0xEEEE_EEEE_EEEE_EE12);
    assert_eq!(
        store(|a| a.movnti(dword_ptr(rbx), eax)),
        0xEEEE_EEEE_8586_8788
    );
    assert_eq!(store(|a| a.movnti(qword_ptr(rbx), rax)), VALUE);
    assert_eq!(store(|a| a.movbe(qword_ptr(rbx), rax)), VALUE.swap_bytes());
    assert_eq!(store(|a| a.mov(word_ptr(rbx), gs)), 0xEEEE_EEEE_EEEE_ABCD);
}

#[test]
fn accumulator_forms_with_an_absolute_address_work() {
    let mut rig = Rig::new();
    rig.set(DEVICE + 8, &VALUE.to_le_bytes());
    // MOV EAX, moffs64
    let mut code = vec![0xA1];
    code.extend((DEVICE + 8).to_le_bytes());
    rig.run(&code).unwrap();
    assert_eq!(rig.vmsa.rax, 0x8586_8788);
    // MOV moffs32, RAX with address-size prefix
    rig.vmsa.rax = 0x55;
    let mut code = vec![0x67, 0x48, 0xA3];
    code.extend(0x4000_0010_u32.to_le_bytes());
    rig.run(&code).unwrap();
    assert_eq!(rig.get64(DEVICE + 0x10), 0x55);
}

#[test]
fn addresses_are_base_index_scale_and_displacement() {
    let mut rig = Rig::new();
    rig.vmsa.rax = 7;
    rig.vmsa.r12 = DEVICE - 0x1000;
    rig.vmsa.r13 = 0x200;
    rig.asm(|a| a.mov(dword_ptr(r12 + r13 * 8 + 0x10), eax))
        .unwrap();
    rig.asm(|a| a.mov(dword_ptr(r12 + r13 * 8 - 0x10 + 0x20), eax))
        .unwrap();
    // 32-bit addresses wrap at four gigabytes; the upper halves of registers do not count.
    rig.vmsa.rcx = 0xFFFF_FFFF_F000_0000;
    rig.asm(|a| a.mov(dword_ptr(ecx + 0x5000_0014), eax))
        .unwrap();
    rig.vmsa.fs.base = DEVICE;
    rig.vmsa.rdx = 0x18;
    rig.asm(|a| a.mov(dword_ptr(rdx).fs(), eax)).unwrap();
    let rip_relative = |a: &mut CodeAssembler| a.mov(dword_ptr(DEVICE + 0x1C), eax);
    rig.asm(rip_relative).unwrap();
    let written: Vec<u64> = rig
        .bus
        .events
        .iter()
        .map(|event| match event {
            Event::Write(gpa, _) => *gpa,
            other => unreachable!("{other:?}"),
        })
        .collect();
    let expected = [0x10, 0x10, 0x14, 0x18, 0x1C].map(|offset| DEVICE + offset);
    assert_eq!(written, expected);
}

#[test]
fn a_device_sees_one_access_of_the_right_width() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE + 4;
    rig.asm(|a| a.mov(eax, dword_ptr(rbx))).unwrap();
    rig.asm(|a| a.or(dword_ptr(rbx), 1)).unwrap();
    rig.asm(|a| a.movups(xmmword_ptr(rbx), xmm0)).unwrap();
    rig.asm(|a| a.cmp(byte_ptr(rbx), 1)).unwrap();
    let at = DEVICE + 4;
    assert_eq!(
        rig.bus.events,
        [
            Event::Read(at, 4),
            Event::Read(at, 4),
            Event::Write(at, vec![1, 0, 0, 0]),
            Event::Write(at, vec![0; 16]),
            Event::Read(at, 1),
        ]
    );
}

#[test]
fn an_access_across_two_device_pages_is_split() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE + 0xFFD;
    rig.vmsa.rax = VALUE;
    rig.asm(|a| a.mov(qword_ptr(rbx), rax)).unwrap();
    rig.asm(|a| a.mov(rcx, qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rcx, VALUE);
    assert_eq!(
        rig.bus.events,
        [
            Event::Write(DEVICE + 0xFFD, vec![0x88, 0x87, 0x86]),
            Event::Write(DEVICE + 0x1000, vec![0x85, 0x84, 0x83, 0x82, 0x81]),
            Event::Read(DEVICE + 0xFFD, 3),
            Event::Read(DEVICE + 0x1000, 5),
        ]
    );
}

#[test]
fn conditional_moves_read_always_and_clear_the_upper_half_always() {
    for (flags, expected) in [(0, 0x1111_1111), (0x40, 0x8586_8788)] {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rax = 0xFFFF_FFFF_1111_1111;
        rig.vmsa.rflags = 2 | flags;
        rig.set(DEVICE, &VALUE.to_le_bytes());
        rig.asm(|a| a.cmove(eax, dword_ptr(rbx))).unwrap();
        assert_eq!(rig.vmsa.rax, expected);
        assert_eq!(rig.bus.events.len(), 1);
    }
}

/// All sixteen conditions for all combinations of the flags they read, from the definitions in the manual's table.
#[test]
fn every_condition_is_right_for_every_flag() {
    for condition in 0..16_u8 {
        for bits in 0..32_u64 {
            let has = |bit: u64| bits >> bit & 1 != 0;
            let (c, p, z, s, o) = (has(0), has(1), has(2), has(3), has(4));
            let base = match condition >> 1 {
                0 => o,
                1 => c,
                2 => z,
                3 => c || z,
                4 => s,
                5 => p,
                6 => s != o,
                _ => z || s != o,
            };
            let expected = base != (condition & 1 != 0);
            let mut rig = Rig::new();
            rig.vmsa.rbx = DEVICE;
            rig.vmsa.rflags = 2
                | u64::from(c)
                | u64::from(p) << 2
                | u64::from(z) << 6
                | u64::from(s) << 7
                | u64::from(o) << 11;
            // SETcc [RBX]
            rig.run(&[0x0F, 0x90 | condition, 0x03]).unwrap();
            assert_eq!(rig.bus.cells[0], u8::from(expected), "{condition} {bits}");
        }
    }
}

#[test]
fn push_and_pop_move_between_device_and_stack() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.set(DEVICE, &VALUE.to_le_bytes());
    rig.asm(|a| a.push(qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rsp, STACK - 8);
    assert_eq!(rig.get64(STACK - 8), VALUE);
    rig.vmsa.rbx = DEVICE + 0x10;
    rig.asm(|a| a.pop(qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rsp, STACK);
    assert_eq!(rig.get64(DEVICE + 0x10), VALUE);
    rig.asm(|a| a.push(word_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rsp, STACK - 2);
    assert_eq!(rig.get::<2>(STACK - 2), [0x88, 0x87]);
}

#[test]
fn pop_addresses_with_the_stack_pointer_it_leaves() {
    let mut rig = Rig::new();
    rig.set(STACK, &VALUE.to_le_bytes());
    rig.asm(|a| a.pop(qword_ptr(rsp + 0x10))).unwrap();
    assert_eq!(rig.get64(STACK + 0x18), VALUE);
    // PUSH addresses with the one it found.
    rig.vmsa.rsp = STACK;
    rig.set(STACK, &1_u64.to_le_bytes());
    rig.asm(|a| a.push(qword_ptr(rsp))).unwrap();
    assert_eq!(rig.get64(STACK - 8), 1);
}

#[test]
fn a_stack_on_a_device_works_too() {
    let mut rig = Rig::new();
    rig.vmsa.rsp = DEVICE + 0x100;
    rig.vmsa.rax = VALUE;
    rig.asm(|a| a.push(rax)).unwrap();
    rig.asm(|a| a.push(-1)).unwrap();
    rig.asm(|a| a.pop(rcx)).unwrap();
    rig.asm(|a| a.pop(rdx)).unwrap();
    assert_eq!((rig.vmsa.rcx, rig.vmsa.rdx), (u64::MAX, VALUE));
    assert_eq!(rig.vmsa.rsp, DEVICE + 0x100);
}

#[test]
fn calls_and_jumps_go_through_a_device() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.set(DEVICE, &0x1_2345_u64.to_le_bytes());
    rig.asm(|a| a.call(qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rip, 0x1_2345);
    assert_eq!(rig.get64(STACK - 8), CODE + 2);
    rig.vmsa.rip = CODE;
    rig.asm(|a| a.jmp(qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rip, 0x1_2345);
    assert_eq!(rig.vmsa.rsp, STACK - 8);
}

#[test]
fn vector_moves_of_sixteen_bytes_go_both_ways() {
    let bytes: [u8; 16] = core::array::from_fn(|i| i as u8 + 1);
    type Write = fn(&mut CodeAssembler) -> super::Assembled;
    let loads: [Write; 8] = [
        |a| a.movaps(xmm9, xmmword_ptr(rbx)),
        |a| a.movapd(xmm9, xmmword_ptr(rbx)),
        |a| a.movdqa(xmm9, xmmword_ptr(rbx)),
        |a| a.movups(xmm9, xmmword_ptr(rbx)),
        |a| a.movupd(xmm9, xmmword_ptr(rbx)),
        |a| a.movdqu(xmm9, xmmword_ptr(rbx)),
        |a| a.lddqu(xmm9, xmmword_ptr(rbx)),
        |a| a.movntdqa(xmm9, xmmword_ptr(rbx)),
    ];
    for load in loads {
        let (rig, _) = check(Flags::empty(), load, |rig, at| rig.set(at, &bytes));
        assert_eq!(rig.vmsa.xmm[9], bytes);
    }
    let stores: [Write; 9] = [
        |a| a.movaps(xmmword_ptr(rbx), xmm9),
        |a| a.movapd(xmmword_ptr(rbx), xmm9),
        |a| a.movdqa(xmmword_ptr(rbx), xmm9),
        |a| a.movups(xmmword_ptr(rbx), xmm9),
        |a| a.movupd(xmmword_ptr(rbx), xmm9),
        |a| a.movdqu(xmmword_ptr(rbx), xmm9),
        |a| a.movntps(xmmword_ptr(rbx), xmm9),
        |a| a.movntpd(xmmword_ptr(rbx), xmm9),
        |a| a.movntdq(xmmword_ptr(rbx), xmm9),
    ];
    for store in stores {
        let (rig, at) = check(Flags::empty(), store, |rig, _| rig.vmsa.xmm[9] = bytes);
        assert_eq!(rig.get::<16>(at), bytes);
    }
}

#[test]
fn vector_moves_of_parts_keep_or_clear_the_rest() {
    let load = |write: fn(&mut CodeAssembler) -> super::Assembled| {
        let (rig, _) = check(Flags::empty(), write, |rig, at| {
            rig.vmsa.xmm[1] = [0xEE; 16];
            rig.set(at, &VALUE.to_le_bytes());
        });
        u128::from_le_bytes(rig.vmsa.xmm[1])
    };
    let ones = 0xEEEE_EEEE_EEEE_EEEE_u128;
    let value = u128::from(VALUE);
    assert_eq!(load(|a| a.movd(xmm1, dword_ptr(rbx))), 0x8586_8788);
    assert_eq!(load(|a| a.movq(xmm1, qword_ptr(rbx))), value);
    assert_eq!(load(|a| a.movss(xmm1, dword_ptr(rbx))), 0x8586_8788);
    assert_eq!(load(|a| a.movsd_2(xmm1, qword_ptr(rbx))), value);
    assert_eq!(load(|a| a.movlps(xmm1, qword_ptr(rbx))), ones << 64 | value);
    assert_eq!(load(|a| a.movlpd(xmm1, qword_ptr(rbx))), ones << 64 | value);
    assert_eq!(load(|a| a.movhps(xmm1, qword_ptr(rbx))), value << 64 | ones);
    assert_eq!(load(|a| a.movhpd(xmm1, qword_ptr(rbx))), value << 64 | ones);
    let store = |write: fn(&mut CodeAssembler) -> super::Assembled| {
        let (rig, at) = check(Flags::empty(), write, |rig, at| {
            rig.vmsa.xmm[1] = core::array::from_fn(|i| i as u8);
            rig.set(at, &[0xEE; 16]);
        });
        rig.get64(at)
    };
    assert_eq!(
        store(|a| a.movd(dword_ptr(rbx), xmm1)),
        0xEEEE_EEEE_0302_0100
    );
    assert_eq!(
        store(|a| a.movss(dword_ptr(rbx), xmm1)),
        0xEEEE_EEEE_0302_0100
    );
    assert_eq!(
        store(|a| a.movq(qword_ptr(rbx), xmm1)),
        0x0706_0504_0302_0100
    );
    assert_eq!(
        store(|a| a.movsd_2(qword_ptr(rbx), xmm1)),
        0x0706_0504_0302_0100
    );
    assert_eq!(
        store(|a| a.movlps(qword_ptr(rbx), xmm1)),
        0x0706_0504_0302_0100
    );
    assert_eq!(
        store(|a| a.movhps(qword_ptr(rbx), xmm1)),
        0x0F0E_0D0C_0B0A_0908
    );
}

#[test]
fn a_hint_spares_the_walk_only_for_the_access_it_came_from() {
    let hint = |info, gpa| Hint::from_exit(info, Gpa(gpa));
    let data = NpfInfo::FINAL_GPA;
    let page = DEVICE + 0x2000;
    // The tables lead to DEVICE; the hint says the page after next, so that its use shows.
    let used = |hint: Option<Hint>, address: u64, code: &[u8]| {
        let mut rig = Rig::new();
        rig.vmsa.rbx = address;
        rig.poke(CODE, code);
        let done = rig
            .emulator
            .emulate(&mut rig.vmsa, &rig.memory, &mut rig.bus, hint);
        assert_eq!(done, Ok(Done::Completed));
        match rig.bus.events.first() {
            Some(Event::Read(gpa, _) | Event::Write(gpa, _)) => *gpa >= page,
            _ => false,
        }
    };
    let load = [0x8B, 0x03];
    let store = [0x89, 0x03];
    let push = [0xFF, 0x33];
    let at = DEVICE + 0x30;
    assert!(used(hint(data, page + 0x30), at, &load));
    assert!(used(hint(data | NpfInfo::WRITE, page + 0x30), at, &store));
    assert!(used(hint(data | NpfInfo::WRITE, page + 0x30), at, &load));
    assert!(!used(hint(data, page + 0x30), at, &store), "kind");
    assert!(!used(hint(data, page + 0x34), at, &load), "offset");
    assert!(!used(hint(data, page + 0x30), at, &push), "operands");
    assert!(!used(hint(data, DATA + 0x30), at, &load), "RAM");
    assert_eq!(hint(NpfInfo::empty(), page), None);
    assert_eq!(hint(data | NpfInfo::FETCH, page), None);
    assert_eq!(hint(data | NpfInfo::PAGE_TABLE_WALK, page), None);
}

#[test]
fn code_that_changes_under_the_cache_is_decoded_anew() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.vmsa.rax = 0x1122;
    for (code, expected) in [
        ([0x88, 0x03, 0x90], vec![0x22]),
        ([0x88, 0x23, 0x90], vec![0x11]),
        ([0x66, 0x89, 0x03], vec![0x22, 0x11]),
        ([0x88, 0x03, 0x90], vec![0x22]),
    ] {
        rig.vmsa.rip = CODE;
        rig.run(&code).unwrap();
        assert_eq!(rig.bus.events.pop(), Some(Event::Write(DEVICE, expected)));
    }
}
