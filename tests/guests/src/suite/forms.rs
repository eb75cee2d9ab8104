//! Arithmetic, exchanges and moves whose memory operand is a register of a chip (APM vol. 3): each leaves the register, its other
//! operand and the flags as the same instruction does on RAM.

use core::arch::asm;

use super::mmio::{LPC, REGISTER, ecam, register};
use super::{Context, Outcome, equal, tests};
use crate::machine::memory::{SPARE, read32, read64, write32};

/// Carry, parity, zero, sign, overflow; the auxiliary carry is undefined after logic.
const FLAGS: u64 = 0x8C5;

tests! {
    movnti = form::<0>, "MOVNTI writes it.";
    add_m_r = form::<1>, "ADD m32, r32.";
    sub_m_r = form::<2>, "SUB m32, r32.";
    adc_m_r = form::<3>, "ADC m32, r32.";
    sbb_m_r = form::<4>, "SBB m32, r32.";
    and_m_r = form::<5>, "AND m32, r32.";
    or_m_imm8 = form::<6>, "OR m32, imm8.";
    xor_m_imm32 = form::<7>, "XOR m32, imm32.";
    cmp_m_r = form::<8>, "CMP m32, r32.";
    test_m_imm32 = form::<9>, "TEST m32, imm32.";
    add_r_m = form::<10>, "ADD r32, m32.";
    and_r_m = form::<11>, "AND r32, m32.";
    cmp_r_m = form::<12>, "CMP r32, m32.";
    inc_m = form::<13>, "INC m32.";
    dec_m = form::<14>, "DEC m32.";
    neg_m = form::<15>, "NEG m32.";
    not_m = form::<16>, "NOT m32.";
    shl_m_1 = form::<17>, "SHL m32, 1.";
    sar_m_1 = form::<18>, "SAR m32, 1.";
    bts_m_imm = form::<19>, "BTS m32, imm8.";
    btr_m_imm = form::<20>, "BTR m32, imm8.";
    bt_m_imm = form::<21>, "BT m32, imm8.";
    xchg_m_r = form::<22>, "XCHG m32, r32.";
    xadd_m_r = form::<23>, "XADD m32, r32.";
    cmpxchg_equal = form::<24>, "CMPXCHG with the expected value.";
    cmpxchg_unequal = form::<25>, "CMPXCHG with another value.";
    lock_add = form::<26>, "LOCK ADD m32, r32.";
    imul_r_m = form::<27>, "IMUL r32, m32.";
    cmov_taken = form::<28>, "CMOVNZ r32, m32, taken.";
    movd_store = form::<29>, "MOVD m32, xmm.";
    movd_load = form::<30>, "MOVD xmm, m32.";
    push_m = form::<31>, "PUSH m64 pushes what MOV reads.";
}

/// What a form leaves: memory, its register operand, EAX, and the flags that are defined.
#[derive(Clone, Copy)]
struct Left {
    memory: u32,
    operand: u64,
    eax: u64,
    flags: u64,
}

/// Runs one instruction with these operands, carry set before.
macro_rules! run_form {
    ($at:expr, $operand:expr, $eax:expr, $($code:literal),+) => {{
        let (operand, eax, flags): (u64, u64, u64);
        unsafe {
            asm!(
                "/* {at} {v} */", "push 0x203", "popfq", $($code),+, "pushfq", "pop {flags}",
                at = in(reg) $at, v = inout(reg) $operand => operand, inout("rax") $eax => eax,
                flags = out(reg) flags, out("xmm0") _,
            );
        }
        Left { memory: 0, operand, eax, flags: flags & FLAGS }
    }};
}

/// Runs form number `form` on memory at `at`, where `start` stands.
fn run_form(form: u32, at: u64) -> Left {
    let (v, a) = (0x7000_1234_u64, 0xF123_4567_u64);
    match form {
        0 => run_form!(at, v, a, "movnti [{at}], {v:e}"),
        1 => run_form!(at, v, a, "add [{at}], {v:e}"),
        2 => run_form!(at, v, a, "sub [{at}], {v:e}"),
        3 => run_form!(at, v, a, "adc [{at}], {v:e}"),
        4 => run_form!(at, v, a, "sbb [{at}], {v:e}"),
        5 => run_form!(at, v, a, "and [{at}], {v:e}"),
        6 => run_form!(at, v, a, "or dword ptr [{at}], 0x18"),
        7 => run_form!(at, v, a, "xor dword ptr [{at}], 0x0FF0F00F"),
        8 => run_form!(at, v, a, "cmp [{at}], {v:e}"),
        9 => run_form!(at, v, a, "test dword ptr [{at}], 0x70000000"),
        10 => run_form!(at, v, a, "add {v:e}, [{at}]"),
        11 => run_form!(at, v, a, "and {v:e}, [{at}]"),
        12 => run_form!(at, v, a, "cmp {v:e}, [{at}]"),
        13 => run_form!(at, v, a, "inc dword ptr [{at}]"),
        14 => run_form!(at, v, a, "dec dword ptr [{at}]"),
        15 => run_form!(at, v, a, "neg dword ptr [{at}]"),
        16 => run_form!(at, v, a, "not dword ptr [{at}]"),
        17 => run_form!(at, v, a, "shl dword ptr [{at}], 1"),
        18 => run_form!(at, v, a, "sar dword ptr [{at}], 1"),
        19 => run_form!(
            at,
            v,
            a,
            "bts dword ptr [{at}], 12",
            "setc al",
            "test al, al"
        ),
        20 => run_form!(
            at,
            v,
            a,
            "btr dword ptr [{at}], 13",
            "setc al",
            "test al, al"
        ),
        21 => run_form!(
            at,
            v,
            a,
            "bt dword ptr [{at}], 14",
            "setc al",
            "test al, al"
        ),
        22 => run_form!(at, v, a, "xchg [{at}], {v:e}"),
        23 => run_form!(at, v, a, "xadd [{at}], {v:e}"),
        24 | 25 => {
            let expected = if form == 24 { u64::from(START) } else { a };
            run_form!(at, v, expected, "cmpxchg [{at}], {v:e}")
        }
        26 => run_form!(at, v, a, "lock add [{at}], {v:e}"),
        27 => run_form!(
            at,
            v,
            a,
            "imul {v:e}, [{at}]",
            "mov al, 0",
            "adc al, 0",
            "test al, al"
        ),
        28 => run_form!(at, v, a, "test {v:e}, {v:e}", "cmovnz {v:e}, [{at}]"),
        29 => run_form!(at, v, a, "movd xmm0, {v:e}", "movd [{at}], xmm0"),
        30 => run_form!(at, v, a, "movd xmm0, dword ptr [{at}]", "movd {v:e}, xmm0"),
        _ => run_form!(at, v, a, ".byte 0x67", "mov {v:e}, [{at}]"),
    }
}

const START: u32 = 0x9ABC_5EF0;

fn form<const FORM: u32>(_: &mut Context) -> Outcome {
    if FORM == 31 {
        return push_and_pop();
    }
    let ram = SPARE[0].address();
    write32(ram, START);
    let mut wanted = run_form(FORM, ram);
    wanted.memory = read32(ram);
    register(START);
    let mut got = run_form(FORM, REGISTER);
    got.memory = read32(REGISTER);
    equal("memory operand", got.memory, wanted.memory)?;
    equal("register operand", got.operand, wanted.operand)?;
    equal("RAX", got.eax, wanted.eax)?;
    equal("flags", got.flags, wanted.flags)
}

fn push_and_pop() -> Outcome {
    ecam()?;
    let pushed: u64;
    unsafe { asm!("push qword ptr [{at}]", "pop {v}", v = out(reg) pushed, at = in(reg) LPC) };
    equal("pushed", pushed, read64(LPC))
}
