//! Arithmetic, bits and exchanges on memory. What is computed is tested with the functions that compute it; here, that the right one is called.

use super::{Assembled, DATA, DEVICE, Event, Rig, check, status};
use crate::emulate::flags::Flags;
use crate::emulate::{Done, Exception, Stop};
use core::cell::Cell;
use iced_x86::code_asm::*;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory, MemoryError};

type Write = fn(&mut CodeAssembler) -> Assembled;

const CF: u64 = 0x001;
const PF: u64 = 0x004;
const AF: u64 = 0x010;
const ZF: u64 = 0x040;
const SF: u64 = 0x080;
const OF: u64 = 0x800;

/// Runs an instruction on a 64-bit operand with RAX = `right`: returns the operand and the status flags.
fn on_memory(reads: Flags, write: Write, left: u64, right: u64) -> (u64, u64) {
    let (rig, at) = check(reads, write, |rig, at| {
        rig.vmsa.rax = right;
        rig.set(at, &left.to_le_bytes());
    });
    (rig.get64(at), status(&rig).bits())
}

#[test]
fn each_operation_changes_memory_as_its_name_says() {
    let none = Flags::empty();
    let m = on_memory;
    assert_eq!(m(none, |a| a.add(qword_ptr(rbx), rax), 5, 7), (12, PF));
    assert_eq!(
        m(none, |a| a.sub(qword_ptr(rbx), rax), 5, 7),
        (u64::MAX - 1, CF | AF | SF)
    );
    assert_eq!(
        m(Flags::CARRY, |a| a.adc(qword_ptr(rbx), rax), 5, 7),
        (12, PF)
    );
    assert_eq!(
        m(Flags::CARRY, |a| a.sbb(qword_ptr(rbx), rax), 7, 5),
        (2, 0)
    );
    assert_eq!(m(none, |a| a.and(qword_ptr(rbx), rax), 12, 10), (8, 0));
    assert_eq!(m(none, |a| a.or(qword_ptr(rbx), rax), 12, 10), (14, 0));
    assert_eq!(
        m(none, |a| a.xor(qword_ptr(rbx), rax), 12, 12),
        (0, ZF | PF)
    );
    assert_eq!(
        m(none, |a| a.cmp(qword_ptr(rbx), rax), 5, 7),
        (5, CF | AF | SF)
    );
    assert_eq!(
        m(none, |a| a.test(qword_ptr(rbx), rax), 12, 3),
        (12, ZF | PF)
    );
    assert_eq!(
        m(none, |a| a.neg(qword_ptr(rbx)), 1, 0),
        (u64::MAX, CF | AF | SF | PF)
    );
    assert_eq!(
        m(none, |a| a.add(byte_ptr(rbx), 1), 0x1FF, 0),
        (0x100, CF | AF | ZF | PF)
    );
    assert_eq!(
        m(none, |a| a.add(word_ptr(rbx), -1), 0x1_0000, 0),
        (0x1_FFFF, SF | PF)
    );
    let top = 0x7FFF_FFFF;
    assert_eq!(
        m(none, |a| a.add(dword_ptr(rbx), eax), top, 1),
        (0x8000_0000, OF | AF | SF | PF)
    );
}

#[test]
fn operations_that_read_the_carry_use_it() {
    for (write, expected) in [
        ((|a| a.adc(dword_ptr(rbx), eax)) as Write, 13),
        (|a| a.sbb(dword_ptr(rbx), eax), 2),
        (|a| a.rcl(dword_ptr(rbx), 1), 17),
        (|a| a.rcr(dword_ptr(rbx), 1), 0x8000_0004),
    ] {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rax = if expected == 2 { 5 } else { 4 };
        rig.vmsa.rflags = 2 | CF;
        rig.set(DEVICE, &8_u32.to_le_bytes());
        rig.asm(write).unwrap();
        assert_eq!(rig.get64(DEVICE), expected);
    }
}

#[test]
fn operations_on_registers_read_memory() {
    let (rig, _) = check(
        Flags::empty(),
        |a| a.sub(eax, dword_ptr(rbx)),
        |rig, at| {
            rig.vmsa.rax = 0xFFFF_FFFF_0000_0003;
            rig.set(at, &4_u32.to_le_bytes());
        },
    );
    assert_eq!(rig.vmsa.rax, 0xFFFF_FFFF);
    assert_eq!(status(&rig).bits(), CF | AF | SF | PF);
}

#[test]
fn increments_keep_the_carry_and_not_keeps_all_flags() {
    for carry in [0, CF] {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rflags = 2 | carry;
        rig.asm(|a| a.inc(dword_ptr(rbx))).unwrap();
        assert_eq!(status(&rig).bits(), carry);
        rig.asm(|a| a.dec(dword_ptr(rbx))).unwrap();
        assert_eq!(status(&rig).bits(), carry | ZF | PF);
        rig.asm(|a| a.not(dword_ptr(rbx))).unwrap();
        assert_eq!(status(&rig).bits(), carry | ZF | PF);
        assert_eq!(rig.get64(DEVICE), 0xFFFF_FFFF);
    }
}

#[test]
fn shifts_take_their_count_from_cl_or_the_instruction() {
    let shifted = |write: Write| {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rcx = 4;
        rig.vmsa.rax = 0xABCD_EF01;
        rig.set(DEVICE, &0x8000_0123_u32.to_le_bytes());
        rig.asm(write).unwrap();
        u32::from_le_bytes(rig.get(DEVICE))
    };
    assert_eq!(shifted(|a| a.shl(dword_ptr(rbx), 1)), 0x246);
    assert_eq!(shifted(|a| a.shl(dword_ptr(rbx), cl)), 0x1230);
    assert_eq!(shifted(|a| a.shr(dword_ptr(rbx), 8)), 0x0080_0001);
    assert_eq!(shifted(|a| a.sar(dword_ptr(rbx), cl)), 0xF800_0012);
    assert_eq!(shifted(|a| a.rol(dword_ptr(rbx), cl)), 0x1238);
    assert_eq!(shifted(|a| a.ror(dword_ptr(rbx), cl)), 0x3800_0012);
    assert_eq!(shifted(|a| a.shld(dword_ptr(rbx), eax, 8)), 0x0001_23AB);
    assert_eq!(shifted(|a| a.shrd(dword_ptr(rbx), eax, cl)), 0x1800_0012);
    // /6, which assemblers do not write, is a left shift too.
    assert_eq!(
        {
            let mut rig = Rig::new();
            rig.vmsa.rbx = DEVICE;
            rig.set(DEVICE, &[3]);
            rig.run(&[0xC0, 0x33, 2]).unwrap();
            rig.bus.cells[0]
        },
        12
    );
}

#[test]
fn bit_tests_read_and_change_one_bit() {
    let bit = |write: Write| {
        let (rig, at) = check(Flags::empty(), write, |rig, at| {
            rig.vmsa.rax = 5;
            rig.set(at, &0xF0_u64.to_le_bytes());
        });
        (rig.get64(at), rig.vmsa.rflags & CF)
    };
    assert_eq!(bit(|a| a.bt(qword_ptr(rbx), rax)), (0xF0, CF));
    assert_eq!(bit(|a| a.bts(qword_ptr(rbx), 1)), (0xF2, 0));
    assert_eq!(bit(|a| a.bts(dword_ptr(rbx), eax)), (0xF0, CF));
    assert_eq!(bit(|a| a.btr(word_ptr(rbx), ax)), (0xD0, CF));
    assert_eq!(bit(|a| a.btc(dword_ptr(rbx), 4)), (0xE0, CF));
    assert_eq!(bit(|a| a.btc(dword_ptr(rbx), 35)), (0xF8, 0));
    assert_eq!(bit(|a| a.lock().bts(qword_ptr(rbx), 0)), (0xF1, 0));
}

#[test]
fn bit_numbers_in_registers_reach_beyond_the_operand_in_both_directions() {
    let touched = |number: i64, write: Write| {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE + 0x100;
        rig.vmsa.rax = number.cast_unsigned();
        rig.asm(write).unwrap();
        match rig.bus.events.as_slice() {
            [Event::Read(at, _), Event::Write(_, bytes)] => {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                (at - DEVICE, u64::from_le_bytes(value).trailing_zeros())
            }
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!(touched(100, |a| a.bts(dword_ptr(rbx), eax)), (0x10C, 4));
    assert_eq!(touched(-1, |a| a.bts(dword_ptr(rbx), eax)), (0xFC, 31));
    assert_eq!(touched(-33, |a| a.bts(qword_ptr(rbx), rax)), (0xF8, 31));
    assert_eq!(touched(-1, |a| a.bts(word_ptr(rbx), ax)), (0xFE, 15));
    assert_eq!(
        touched(0x0FFF_FFE1, |a| a.bts(word_ptr(rbx), ax)),
        (0xFC, 1)
    );
}

#[test]
fn exchanges_swap() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.vmsa.rax = 0xFFFF_FFFF_0000_0007;
    rig.set(DEVICE, &9_u32.to_le_bytes());
    rig.asm(|a| a.xchg(dword_ptr(rbx), eax)).unwrap();
    assert_eq!((rig.get64(DEVICE), rig.vmsa.rax), (7, 9));
    rig.asm(|a| a.lock().xadd(dword_ptr(rbx), eax)).unwrap();
    assert_eq!((rig.get64(DEVICE), rig.vmsa.rax), (16, 7));
    assert_eq!(rig.bus.events.len(), 4);
}

#[test]
fn compare_exchange_stores_or_loads() {
    for (accumulator, expected) in [(9, (1, 9, ZF | PF)), (8, (9, 9, CF | AF | SF | PF))] {
        let (rig, at) = check(
            Flags::empty(),
            |a| a.lock().cmpxchg(dword_ptr(rbx), ecx),
            |rig, at| {
                rig.vmsa.rax = accumulator;
                rig.vmsa.rcx = 1;
                rig.set(at, &9_u64.to_le_bytes());
            },
        );
        let got = (rig.get64(at), rig.vmsa.rax, status(&rig).bits());
        assert_eq!(got, expected);
    }
}

#[test]
fn a_failed_compare_exchange_of_32_bits_clears_the_upper_half_and_a_good_one_does_not() {
    let high = 0xAAAA_AAAA_0000_0000;
    for (low, expected) in [(9, high | 9), (8, 9)] {
        let mut rig = Rig::new();
        rig.vmsa.rbx = DEVICE;
        rig.vmsa.rax = high | low;
        rig.set(DEVICE, &9_u32.to_le_bytes());
        rig.asm(|a| a.cmpxchg(dword_ptr(rbx), ecx)).unwrap();
        assert_eq!(rig.vmsa.rax, expected);
    }
}

#[test]
fn wide_compare_exchanges_change_the_zero_flag_only() {
    for is_equal in [true, false] {
        let mut rig = Rig::new();
        rig.vmsa.rsi = DEVICE;
        rig.set(DEVICE, &0x1111_1111_2222_2222_u64.to_le_bytes());
        rig.vmsa.rdx = 0x1111_1111;
        rig.vmsa.rax = if is_equal { 0x2222_2222 } else { 0 };
        rig.vmsa.rcx = 0xFFFF_FFFF_0000_0003;
        rig.vmsa.rbx = 4;
        rig.vmsa.rflags = 2 | CF | OF;
        rig.asm(|a| a.lock().cmpxchg8b(qword_ptr(rsi))).unwrap();
        let expected = if is_equal {
            0x3_0000_0004
        } else {
            0x1111_1111_2222_2222
        };
        assert_eq!(rig.get64(DEVICE), expected);
        assert_eq!(rig.vmsa.rax, 0x2222_2222);
        let zero = if is_equal { ZF } else { 0 };
        assert_eq!(status(&rig).bits(), CF | OF | zero);

        rig.vmsa.rax = if is_equal { rig.get64(DEVICE) } else { 0 };
        rig.vmsa.rdx = 0;
        rig.vmsa.rbx = 5;
        rig.vmsa.rcx = 6;
        rig.asm(|a| a.lock().cmpxchg16b(xmmword_ptr(rsi))).unwrap();
        if is_equal {
            assert_eq!((rig.get64(DEVICE), rig.get64(DEVICE + 8)), (5, 6));
        } else {
            assert_eq!((rig.vmsa.rax, rig.vmsa.rdx), (expected, 0));
        }
    }
}

#[test]
fn sixteen_byte_exchanges_must_be_aligned() {
    let mut rig = Rig::new();
    rig.vmsa.rsi = DEVICE + 8;
    let stop = rig.asm(|a| a.cmpxchg16b(xmmword_ptr(rsi)));
    assert_eq!(stop, Err(Stop::Exception(Exception::GENERAL_PROTECTION)));
}

#[test]
fn products_and_quotients_go_to_the_double_register() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DEVICE;
    rig.set(DEVICE, &0x1_0000_u32.to_le_bytes());
    rig.vmsa.rax = 0x1234_5678;
    rig.asm(|a| a.mul(dword_ptr(rbx))).unwrap();
    assert_eq!((rig.vmsa.rax, rig.vmsa.rdx), (0x5678_0000, 0x1234));
    assert_eq!(rig.vmsa.rflags & (CF | OF), CF | OF);
    rig.asm(|a| a.div(dword_ptr(rbx))).unwrap();
    assert_eq!((rig.vmsa.rax, rig.vmsa.rdx), (0x1234_5678, 0));
    rig.vmsa.rax = (-7_i64).cast_unsigned();
    rig.vmsa.rdx = u64::MAX;
    rig.set(DEVICE, &2_u64.to_le_bytes());
    rig.asm(|a| a.idiv(qword_ptr(rbx))).unwrap();
    assert_eq!(
        (rig.vmsa.rax, rig.vmsa.rdx),
        ((-3_i64).cast_unsigned(), u64::MAX)
    );
    rig.asm(|a| a.imul_3(ecx, dword_ptr(rbx), -3)).unwrap();
    assert_eq!(rig.vmsa.rcx, 0xFFFF_FFFA);
    rig.asm(|a| a.imul_2(rcx, qword_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rcx, 0x1_FFFF_FFF4);
    rig.vmsa.rax = 0x1234;
    rig.asm(|a| a.div(byte_ptr(rbx))).unwrap_err();
    rig.vmsa.rax = 0x0105;
    rig.asm(|a| a.div(byte_ptr(rbx))).unwrap();
    assert_eq!(rig.vmsa.rax, 0x0182);
}

/// RAM whose operand another processor changes: `lost` exchanges fail first.
struct Contended<'a> {
    memory: &'a FakeMemory,
    lost: Cell<usize>,
}

impl GuestMemory for Contended<'_> {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(gpa, buffer)
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(gpa, bytes)
    }
    fn is_ram(&self, gpa: Gpa) -> bool {
        self.memory.is_ram(gpa)
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        if self.lost.get() == 0 {
            return self.memory.compare_exchange(gpa, width, expected, new);
        }
        self.lost.set(self.lost.get() - 1);
        // The other processor adds a hundred.
        self.memory
            .write(gpa, &(expected + 100).to_le_bytes()[..width.into()])?;
        Ok(false)
    }
}

#[test]
fn a_locked_update_of_ram_loses_no_other_update() {
    let mut rig = Rig::new();
    rig.vmsa.rbx = DATA;
    // LOCK ADD dword [RBX], 1
    rig.poke(super::CODE, &[0xF0, 0x83, 0x03, 0x01]);
    let contended = |lost| Cell::new(lost);
    let memory = Contended {
        memory: &rig.memory,
        lost: contended(3),
    };
    let done = rig
        .emulator
        .emulate(&mut rig.vmsa, &memory, &mut rig.bus, None);
    assert_eq!(done, Ok(Done::Completed));
    assert_eq!(rig.get64(DATA), 301);

    let before = rig.vmsa.clone();
    rig.vmsa.rip = super::CODE;
    let memory = Contended {
        memory: &rig.memory,
        lost: contended(usize::MAX),
    };
    let stop = rig
        .emulator
        .emulate(&mut rig.vmsa, &memory, &mut rig.bus, None);
    assert_eq!(stop, Err(Stop::Retry));
    assert_eq!(rig.vmsa.rflags, before.rflags);
}

#[test]
fn what_cannot_be_atomic_in_ram_is_left_to_the_processor() {
    for (address, code) in [
        (DATA + 1, [0xF0, 0x83, 0x03, 0x01]),
        (DATA + 0xFFE, [0xF0, 0x83, 0x03, 0x01]),
        // XCHG [RBX], EAX is locked without a prefix.
        (DATA + 2, [0x87, 0x03, 0x90, 0x90]),
    ] {
        let mut rig = Rig::new();
        rig.vmsa.rbx = address;
        assert_eq!(rig.run(&code), Err(Stop::Retry));
        assert_eq!(rig.vmsa.rip, super::CODE);
    }
    let mut rig = Rig::new();
    rig.vmsa.rsi = DATA;
    let stop = rig.asm(|a| a.lock().cmpxchg16b(xmmword_ptr(rsi)));
    assert_eq!(stop, Err(Stop::Retry));
}
