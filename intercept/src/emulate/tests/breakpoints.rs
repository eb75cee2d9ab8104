//! Breakpoints of the guest on what an instruction accesses.

extern crate std;

use super::{CODE, DATA, DEVICE, HOLE, Rig};
use crate::debug;
use crate::emulate::{Done, Exception, REPEAT_LIMIT, Stop};
use crate::exit::{Direction, IoAccess, StringIo};
use crate::walk::control;
use iced_x86::code_asm::{al, byte_ptr, eax, ecx, ptr, rbx};
use stockade_abi::vmsa::Vmsa;

const WRITES: u64 = 0b01;
const PORTS: u64 = 0b10;
const READS_AND_WRITES: u64 = 0b11;
const REP: u8 = 0xF3;
const DR6_B1: u64 = 1 << 1;
const RESUME: u64 = 1 << 16;

/// Sets breakpoint 1 at `address`, one byte long.
fn watch(vmsa: &mut Vmsa, address: u64, kind: u64) {
    vmsa.dr1 = address;
    vmsa.dr7 = 0x400 | 1 << 2 | kind << 20;
    vmsa.cr4 |= 1 << 3;
}

fn rig(address: u64, kind: u64) -> Rig {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    watch(&mut rig.vmsa, address, kind);
    rig
}

#[test]
fn a_write_to_a_device_traps_behind_the_instruction() {
    let mut rig = rig(DEVICE + 3, WRITES);
    rig.vmsa.rax = 0x1122_3344;
    let done = rig.asm(|a| a.mov(ptr(rbx), eax));
    assert_eq!(done, Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rip, rig.vmsa.dr6), (CODE + 2, DR6_B1));
    assert_eq!(rig.get::<4>(DEVICE), [0x44, 0x33, 0x22, 0x11]);
}

#[test]
fn a_read_traps_only_where_reads_are_watched() {
    for (kind, done) in [
        (WRITES, Done::Completed),
        (READS_AND_WRITES, Done::Trapped),
        (PORTS, Done::Completed),
    ] {
        let mut rig = rig(DEVICE, kind);
        assert_eq!(rig.asm(|a| a.mov(al, byte_ptr(rbx))), Ok(done));
    }
}

#[test]
fn an_update_counts_as_a_write_even_if_it_changes_nothing() {
    let mut rig = rig(DEVICE, WRITES);
    rig.vmsa.rax = 1;
    let done = rig.asm(|a| a.cmpxchg(ptr(rbx), ecx));
    assert_eq!(done, Ok(Done::Trapped));
}

#[test]
fn a_neighbour_does_not_trap() {
    let mut rig = rig(DEVICE + 4, READS_AND_WRITES);
    assert_eq!(rig.asm(|a| a.mov(ptr(rbx), eax)), Ok(Done::Completed));
    assert_eq!(rig.vmsa.dr6, 0);
}

/// An access that does not happen meets nothing: the fault comes alone.
#[test]
fn a_fault_leaves_the_breakpoint_for_the_next_try() {
    let mut rig = rig(HOLE, WRITES);
    rig.vmsa.rbx = HOLE - 2;
    let stop = rig.asm(|a| a.mov(ptr(rbx), eax));
    assert!(matches!(stop, Err(Stop::Exception(fault)) if fault.vector == 14));
    assert_eq!(rig.vmsa.dr6, 0);
}

/// RAM that the same instruction accesses is no different: the processor never saw the access.
#[test]
fn memory_beside_a_device_is_watched_too() {
    let mut rig = rig(DATA, READS_AND_WRITES);
    (rig.vmsa.rsi, rig.vmsa.rdi) = (DATA, DEVICE);
    assert_eq!(rig.run(&[0xA4]), Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rsi, rig.vmsa.rdi), (DATA + 1, DEVICE + 1));
}

#[test]
fn a_repeated_instruction_traps_behind_the_element_that_was_met() {
    let mut rig = rig(DEVICE + 1, WRITES);
    (rig.vmsa.rdi, rig.vmsa.rcx) = (DEVICE, 3);
    assert_eq!(rig.run(&[REP, 0xAA]), Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE, 1));
    assert_eq!(rig.vmsa.rflags & RESUME, RESUME, "more is to come");
    assert_eq!(rig.step(), Ok(Done::Completed));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rflags), (CODE + 2, 2));
    watch(&mut rig.vmsa, DEVICE + 3, WRITES);
    (rig.vmsa.rip, rig.vmsa.rcx) = (CODE, 1);
    assert_eq!(rig.step(), Ok(Done::Trapped));
    assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (CODE + 2, 0), "the last one");
}

/// A breakpoint on the instruction itself has been taken; without RF each pause for interrupts would take it again.
#[test]
fn a_pause_between_elements_sets_the_resume_flag() {
    let mut rig = Rig::new();
    (rig.vmsa.rdi, rig.vmsa.rcx) = (DEVICE, REPEAT_LIMIT as u64 + 1);
    assert_eq!(rig.run(&[REP, 0xAA]), Ok(Done::Again));
    assert_eq!(rig.vmsa.rflags, 2 | RESUME);
    assert_eq!(rig.step(), Ok(Done::Completed));
    assert_eq!(rig.vmsa.rflags, 2);
}

#[test]
fn addresses_wrap_with_their_width() {
    let mut rig = Rig::unpaged(super::CODE32, control::CR0_PE);
    watch(&mut rig.vmsa, 0, READS_AND_WRITES);
    rig.vmsa.ds.base = 0xFFFF_FFFE;
    // mov eax, [ebx]
    let done = rig.run(&[0x8B, 0x03]);
    assert_eq!(done, Ok(Done::Trapped));
    assert_eq!(rig.vmsa.dr6, DR6_B1);
}

fn port_access(rig: &mut Rig, string: Option<StringIo>) -> Result<Done, Stop> {
    let access = IoAccess {
        port: 0x1F0,
        width: 2,
        direction: Direction::Write,
        string,
    };
    let next = CODE + 2;
    rig.emulator
        .port_access(&mut rig.vmsa, &rig.memory, &mut rig.bus, &access, next)
}

#[test]
fn a_port_traps_behind_the_access() {
    for (port, done) in [
        (0x1EF, Done::Completed),
        (0x1F0, Done::Trapped),
        (0x1F1, Done::Trapped),
        (0x1F2, Done::Completed),
    ] {
        let mut rig = rig(port, PORTS);
        assert_eq!(port_access(&mut rig, None), Ok(done));
        assert_eq!((rig.vmsa.rip, rig.bus.events.len()), (CODE + 2, 1));
    }
}

#[test]
fn a_repeated_port_access_traps_behind_each_element() {
    let mut rig = rig(0x1F1, PORTS);
    (rig.vmsa.rsi, rig.vmsa.rcx) = (DATA, 2);
    let string = Some(StringIo {
        rep: true,
        address_size: 8,
        segment: 3,
    });
    for (rip, left) in [(CODE, 1), (CODE + 2, 0)] {
        assert_eq!(port_access(&mut rig, string), Ok(Done::Trapped));
        assert_eq!((rig.vmsa.rip, rig.vmsa.rcx), (rip, left));
    }
    assert_eq!(rig.bus.events.len(), 2);
}

/// The source of OUTS in memory, not its port.
#[test]
fn memory_of_a_port_access_is_watched() {
    let mut rig = rig(DATA + 1, READS_AND_WRITES);
    rig.vmsa.rsi = DATA;
    let string = Some(StringIo {
        rep: false,
        address_size: 8,
        segment: 3,
    });
    assert_eq!(port_access(&mut rig, string), Ok(Done::Trapped));
}

#[test]
fn a_step_that_meets_a_breakpoint_is_one_trap_with_both_reasons() {
    let mut rig = rig(DEVICE, WRITES);
    rig.vmsa.rflags |= 1 << 8;
    assert!(debug::is_watched(&rig.vmsa));
    assert_eq!(rig.asm(|a| a.mov(byte_ptr(rbx), al)), Ok(Done::Trapped));
    assert_eq!(rig.vmsa.dr6, DR6_B1 | 1 << 14);
    rig.vmsa.dr7 |= 1 << 13;
    Exception::DEBUG.prepare(&mut rig.vmsa);
    assert_eq!(rig.vmsa.dr7 >> 13 & 1, 0, "the handler may read them");
}

/// A jump through a device's register is a branch, and so is its step.
#[test]
fn steps_of_branches_are_those_of_branches_alone() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.vmsa.rflags |= 1 << 8;
    rig.vmsa.dbgctl = 1 << 1;
    rig.set(DEVICE, &CODE.to_le_bytes());
    assert_eq!(rig.run(&[0xFF, 0x23]), Ok(Done::Trapped));
    rig.vmsa.dr6 = 0;
    assert_eq!(rig.asm(|a| a.mov(byte_ptr(rbx), al)), Ok(Done::Completed));
    assert_eq!(rig.vmsa.dr6, 0);
}
