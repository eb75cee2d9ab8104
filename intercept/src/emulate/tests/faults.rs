//! What cannot be done leaves no trace, and says why.

use super::{CODE, CODE64, DATA, DEVICE, HOLE, Rig, STACK, flat};
use crate::emulate::{Code, Done, Exception, Stop};
use crate::walk::control;
use iced_x86::code_asm::*;
use stockade_abi::vmsa::EventType;
use stockade_bus::GuestMemory;

const UD: Result<Done, Stop> = Err(Stop::Exception(Exception::INVALID_OPCODE));
const GP: Result<Done, Stop> = Err(Stop::Exception(Exception::GENERAL_PROTECTION));
const SS: Result<Done, Stop> = Err(Stop::Exception(Exception::STACK));

const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

fn page_fault(address: u64, error_code: u32) -> Result<Done, Stop> {
    Err(Stop::Exception(Exception {
        vector: 14,
        error_code: Some(error_code),
        address: Some(address),
    }))
}

/// Runs an instruction that must fail, and checks that registers and memory are as before.
fn fails(prepare: impl Fn(&mut Rig), code: &[u8]) -> Result<Done, Stop> {
    let mut rig = Rig::new();
    rig.vmsa.rflags = 2 | 1 << 16;
    rig.vmsa.vintr_ctrl.set_int_shadow(true);
    prepare(&mut rig);
    let at = rig.vmsa.rip;
    if rig.memory.is_ram(stockade_bus::Gpa(at)) {
        rig.poke(at, code);
    }
    let before = rig.vmsa.clone();
    let tables: [u8; 0x5000] = rig.peek(0);
    let around: [u8; 0x1000] = rig.peek(HOLE - 0x1000);
    let result = rig.step();
    assert_eq!(rig.vmsa, before, "registers changed");
    assert_eq!(rig.peek::<0x1000>(HOLE - 0x1000), around, "memory changed");
    let after: [u8; 0x5000] = rig.peek(0);
    let is_marked = |(old, new): (&u8, &u8)| old != new && new & !0x60 != old & !0x60;
    assert!(!tables.iter().zip(&after).any(is_marked), "tables changed");
    assert_eq!(rig.bus.cells.iter().find(|cell| **cell != 0), None);
    result
}

#[test]
fn a_fault_on_the_second_page_leaves_everything_as_it_was() {
    let across = HOLE - 3;
    for code in [
        &[0x48, 0x89, 0x03][..],         // MOV [RBX], RAX
        &[0x48, 0x01, 0x03],             // ADD [RBX], RAX
        &[0xF0, 0x48, 0x0F, 0xB1, 0x0B], // LOCK CMPXCHG [RBX], RCX
        &[0x0F, 0x11, 0x03],             // MOVUPS [RBX], XMM0
        &[0x48, 0x87, 0x03],             // XCHG [RBX], RAX
    ] {
        let result = fails(|rig| rig.vmsa.rbx = across, code);
        assert_eq!(result, page_fault(HOLE, 2));
    }
    for code in [
        &[0x48, 0x8B, 0x03][..], // MOV RAX, [RBX]
        &[0x48, 0x3B, 0x03],     // CMP RAX, [RBX]
        &[0xFF, 0x23],           // JMP [RBX]
        &[0xFF, 0x33],           // PUSH [RBX]
        &[0x0F, 0x10, 0x03],     // MOVUPS XMM0, [RBX]
    ] {
        let result = fails(|rig| rig.vmsa.rbx = across, code);
        assert_eq!(result, page_fault(HOLE, 0));
    }
}

#[test]
fn a_write_across_pages_makes_neither_dirty_when_the_second_faults() {
    let mut rig = Rig::new();
    let entry = 0x4000 + ((HOLE - 0x1000) >> 12) * 8;
    rig.poke(entry, &((HOLE - 0x1000) | 3).to_le_bytes());
    rig.vmsa.rbx = HOLE - 1;
    assert_eq!(rig.asm(|a| a.mov(word_ptr(rbx), ax)), page_fault(HOLE, 2));
    assert_eq!(rig.get64(entry), (HOLE - 0x1000) | 3);
    rig.vmsa.rbx = HOLE - 2;
    rig.asm(|a| a.mov(word_ptr(rbx), ax)).unwrap();
    assert_eq!(rig.get64(entry), (HOLE - 0x1000) | 0x63);
}

#[test]
fn two_operands_are_both_found_before_a_device_is_touched() {
    let stack_in_hole = |rig: &mut Rig| {
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rsp = HOLE + 8;
    };
    let mut rig = Rig::new();
    stack_in_hole(&mut rig);
    assert_eq!(rig.asm(|a| a.push(qword_ptr(rbx))), page_fault(HOLE, 2));
    assert_eq!(rig.asm(|a| a.call(qword_ptr(rbx))), page_fault(HOLE, 2));
    assert_eq!(rig.bus.events, []);
    assert_eq!(fails(stack_in_hole, &[0xFF, 0x33]), page_fault(HOLE, 2));
    // POP [RBX] with the target in the hole: RSP comes back.
    let target_in_hole = |rig: &mut Rig| rig.vmsa.rbx = HOLE;
    assert_eq!(fails(target_in_hole, &[0x8F, 0x03]), page_fault(HOLE, 2));
    // MOVSB from the device to the hole.
    let string = |rig: &mut Rig| {
        rig.vmsa.rsi = DEVICE;
        rig.vmsa.rdi = HOLE;
    };
    let mut rig = Rig::new();
    string(&mut rig);
    assert_eq!(rig.run(&[0xA4]), page_fault(HOLE, 2));
    assert_eq!(rig.bus.events, []);
}

#[test]
fn addresses_that_are_not_canonical_fault_by_segment() {
    let at = |rig: &mut Rig| {
        rig.vmsa.rbx = NOT_CANONICAL;
        rig.vmsa.rbp = NOT_CANONICAL;
    };
    assert_eq!(fails(at, &[0x8B, 0x03]), GP);
    assert_eq!(fails(at, &[0x8B, 0x45, 0x00]), SS);
    assert_eq!(
        fails(
            |rig| rig.vmsa.rsp = NOT_CANONICAL,
            &[0xFF, 0x35, 0, 0, 0, 0]
        ),
        SS
    );
    // The last byte counts too.
    let across = |rig: &mut Rig| rig.vmsa.rbx = 0x0000_7FFF_FFFF_FFFD;
    assert_eq!(fails(across, &[0x8B, 0x03]), GP);
    assert_eq!(fails(|rig| rig.vmsa.rip = NOT_CANONICAL, &[]), GP);
}

#[test]
fn instructions_are_fetched_across_pages() {
    let mut rig = Rig::new();
    rig.vmsa.rip = DATA + 0xFFE;
    rig.vmsa.rbx = DEVICE;
    // MOV dword [RBX], 0x11223344
    assert_eq!(
        rig.run(&[0xC7, 0x03, 0x44, 0x33, 0x22, 0x11]),
        Ok(Done::Completed)
    );
    assert_eq!(rig.get64(DEVICE), 0x1122_3344);
    assert_eq!(rig.vmsa.rip, DATA + 0x1004);
}

#[test]
fn a_fetch_fault_on_the_second_page_names_that_page() {
    let mut rig = Rig::new();
    rig.vmsa.rip = HOLE - 2;
    rig.poke(HOLE - 2, &[0xC7, 0x03]);
    assert_eq!(rig.step(), page_fault(HOLE, 0x10));
    // The page is not needed if the instruction ends before it.
    rig.vmsa.rbx = DEVICE;
    rig.poke(HOLE - 2, &[0x88, 0x03]);
    assert_eq!(rig.step(), Ok(Done::Completed));
}

#[test]
fn code_without_the_right_to_be_executed_is_not_fetched() {
    let mut rig = Rig::new();
    let entry = 0x4000 + (CODE >> 12) * 8;
    rig.poke(entry, &(CODE | 3 | 1 << 63).to_le_bytes());
    assert_eq!(rig.run(&[0x88, 0x03]), page_fault(CODE, 0x11));
}

#[test]
fn undefined_and_overlong_instructions_fault_as_on_the_processor() {
    assert_eq!(fails(|_| (), &[0x0F, 0x0B]), UD);
    assert_eq!(fails(|_| (), &[0x06]), UD);
    // LOCK MOV, and LOCK ADD on a register.
    assert_eq!(fails(|_| (), &[0xF0, 0x89, 0x03]), UD);
    assert_eq!(fails(|_| (), &[0xF0, 0x01, 0xC0]), UD);
    assert_eq!(fails(|_| (), &[0xF0, 0x39, 0x03]), UD);
    let mut long = [0x66; 16];
    long[14] = 0x89;
    long[15] = 0x03;
    assert_eq!(fails(|_| (), &long), GP);
}

#[test]
fn valid_instructions_that_are_not_emulated_are_named() {
    let on_device = |rig: &mut Rig| rig.vmsa.rbx = DEVICE;
    assert_eq!(
        fails(on_device, &[0xD9, 0x03]),
        Err(Stop::Unsupported(Code::Fld_m32fp))
    );
    assert_eq!(
        fails(on_device, &[0x0F, 0x58, 0x03]),
        Err(Stop::Unsupported(Code::Addps_xmm_xmmm128))
    );
    assert_eq!(
        fails(on_device, &[0xFF, 0x1B]),
        Err(Stop::Unsupported(Code::Call_m1632))
    );
    assert_eq!(fails(|_| (), &[0xF4]), Err(Stop::Unsupported(Code::Hlt)));
    assert_eq!(
        fails(on_device, &[0x8E, 0x03]),
        Err(Stop::Unsupported(Code::Mov_Sreg_r32m16))
    );
}

#[test]
fn vector_extensions_are_undefined_only_while_they_are_off() {
    // VMOVDQU YMM0, [RBX]
    let code = [0xC5, 0xFE, 0x6F, 0x03];
    assert_eq!(fails(|_| (), &code), UD);
    let on = |rig: &mut Rig| {
        rig.vmsa.cr4 |= control::CR4_OSXSAVE;
        rig.vmsa.xcr0 = 7;
    };
    assert_eq!(fails(on, &code), Err(Stop::Unsupported(Code::INVALID)));
    assert_eq!(fails(on, &[0x0F, 0x04]), UD);
}

#[test]
fn user_mode_is_kept_out_of_supervisor_pages() {
    let user = |rig: &mut Rig| {
        rig.vmsa.cpl = 3;
        rig.vmsa.rbx = DEVICE;
        // The device's gigabyte, without the user bit.
        rig.poke(0x2008, &(DEVICE | 0xE3).to_le_bytes());
    };
    assert_eq!(fails(user, &[0x88, 0x03]), page_fault(DEVICE, 7));
    assert_eq!(fails(user, &[0x8A, 0x03]), page_fault(DEVICE, 5));
}

#[test]
fn alignment_is_checked_for_users_who_ask() {
    let misaligned = |rig: &mut Rig| {
        rig.vmsa.cpl = 3;
        rig.vmsa.cr0 |= control::CR0_AM;
        rig.vmsa.rflags |= control::RFLAGS_AC;
        rig.vmsa.rbx = DEVICE + 2;
    };
    let code = [0x89, 0x03];
    let result = fails(misaligned, &code);
    assert_eq!(result, Err(Stop::Exception(Exception::ALIGNMENT_CHECK)));
    for relaxed in [
        (|rig| rig.vmsa.cpl = 0) as fn(&mut Rig),
        |rig| rig.vmsa.cr0 &= !control::CR0_AM,
        |rig| rig.vmsa.rflags &= !control::RFLAGS_AC,
        |rig| rig.vmsa.rbx = DEVICE + 4,
    ] {
        let mut rig = Rig::new();
        misaligned(&mut rig);
        relaxed(&mut rig);
        assert_eq!(rig.run(&code), Ok(Done::Completed));
    }
}

#[test]
fn vector_instructions_obey_their_switches_and_alignment() {
    let movaps = [0x0F, 0x29, 0x03];
    let on_device = |rig: &mut Rig| rig.vmsa.rbx = DEVICE;
    let misaligned = |rig: &mut Rig| rig.vmsa.rbx = DEVICE + 8;
    assert_eq!(fails(misaligned, &movaps), GP);
    let emulated = |rig: &mut Rig| {
        on_device(rig);
        rig.vmsa.cr0 |= control::CR0_EM;
    };
    assert_eq!(fails(emulated, &movaps), UD);
    let off = |rig: &mut Rig| {
        on_device(rig);
        rig.vmsa.cr4 &= !control::CR4_OSFXSR;
    };
    assert_eq!(fails(off, &movaps), UD);
    let switched = |rig: &mut Rig| {
        on_device(rig);
        rig.vmsa.cr0 |= control::CR0_TS;
    };
    let result = fails(switched, &movaps);
    assert_eq!(
        result,
        Err(Stop::Exception(Exception::DEVICE_NOT_AVAILABLE))
    );
}

#[test]
fn a_divide_error_comes_after_the_device_was_read_and_changes_nothing() {
    let by_zero = |rig: &mut Rig| rig.vmsa.rbx = DEVICE;
    let result = fails(by_zero, &[0xF7, 0x33]);
    assert_eq!(result, Err(Stop::Exception(Exception::DIVIDE_ERROR)));
}

#[test]
fn completion_ends_the_shadow_and_the_resume_flag() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.vmsa.rflags = 2 | 1 << 16;
    rig.vmsa.vintr_ctrl.set_int_shadow(true);
    rig.asm(|a| a.mov(byte_ptr(rbx), al)).unwrap();
    assert_eq!(rig.vmsa.rflags, 2);
    assert!(!rig.vmsa.vintr_ctrl.int_shadow());
    rig.vmsa.rflags = 2 | 1 << 8;
    let done = rig.asm(|a| a.mov(byte_ptr(rbx), al));
    assert_eq!(done, Ok(Done::Trapped));
    assert_eq!(rig.vmsa.dr6, 1 << 14);
}

#[test]
fn an_exception_is_prepared_as_the_processor_would() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = HOLE;
    let Err(Stop::Exception(exception)) = rig.asm(|a| a.mov(byte_ptr(rbx), al)) else {
        unreachable!();
    };
    assert_eq!(rig.vmsa.cr2, 0);
    exception.prepare(&mut rig.vmsa);
    assert_eq!((rig.vmsa.cr2, rig.vmsa.rflags), (HOLE, 2 | 1 << 16));
    let event = exception.event(&rig.vmsa);
    assert_eq!((event.vector(), event.error_code()), (14, 2));
    assert_eq!(event.event_type(), EventType::EXCEPTION);
    assert!(event.valid() && event.error_code_valid());
    rig.vmsa.cr0 = 0;
    assert!(!exception.event(&rig.vmsa).error_code_valid());
    rig.vmsa.rflags = 2;
    Exception::DEBUG.prepare(&mut rig.vmsa);
    assert_eq!(rig.vmsa.rflags, 2, "a trap does not set RF");
}

#[test]
fn branches_to_nowhere_push_nothing() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.set(DEVICE, &NOT_CANONICAL.to_le_bytes());
    assert_eq!(rig.asm(|a| a.call(qword_ptr(rbx))), GP);
    assert_eq!(rig.vmsa.rsp, STACK);
    assert_eq!(rig.get64(STACK - 8), 0);
    rig.vmsa.cr4 |= control::CR4_CET;
    let stop = rig.asm(|a| a.jmp(qword_ptr(rbx)));
    assert_eq!(stop, Err(Stop::Unsupported(Code::Jmp_rm64)));
}

#[test]
fn code_on_a_device_is_read_from_it() {
    let mut rig = Rig::new();
    rig.vmsa.cs = flat(CODE64);
    rig.vmsa.rip = DEVICE + 0x100;
    rig.vmsa.rbx = DATA;
    rig.set(DEVICE + 0x100, &[0xC6, 0x03, 0x99]);
    assert_eq!(rig.step(), Ok(Done::Completed));
    assert_eq!(rig.peek::<1>(DATA), [0x99]);
}
