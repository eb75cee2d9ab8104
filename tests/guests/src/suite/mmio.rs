//! Instructions whose memory operand is a register of a chip: what each does to the register, to its other operand, to the flags,
//! and to page tables; and where it faults (APM volume 3; volume 2, 5.4).
//!
//! TMICT, with the timer masked, is a register that keeps all of its 32 bits; the same instruction on RAM is the measure.

use core::arch::asm;

use super::{Context, Outcome, equal, faults, needs, note, noted, tests};
use crate::machine::apic::{self, BASE, TIMER_INITIAL};
use crate::machine::memory::{
    ACCESSED, DIRTY, PRESENT, SPARE, UNCACHED, WRITABLE, entry, map, read8, read16, read32, read64,
    window, write8, write16, write32,
};
use crate::machine::port::{inl, outl};
use crate::machine::processor::{has_feature_ecx, wrmsr};
use crate::machine::trap::{self, PAGE_FAULT};

/// The register, and a place in RAM to compare with.
const REGISTER: u64 = BASE + TIMER_INITIAL as u64;
const ECAM: u64 = 0xB000_0000;
/// The LPC bridge in the ECAM window.
const LPC: u64 = ECAM + (0x1F << 15);
/// A byte there that keeps what is written: the interrupt line.
const LINE: u64 = LPC + 0x3C;
/// Where nothing is.
const ABSENT: u64 = 0xFED8_0000;
/// Carry, parity, zero, sign, overflow; the auxiliary carry is undefined after logic.
const FLAGS: u64 = 0x8C5;

tests! {
    mov_r32_m32, "MOV r32, m32 (8B) reads the register and clears the upper half.";
    mov_m32_r32, "MOV m32, r32 (89) writes it.";
    mov_m32_imm32, "MOV m32, imm32 (C7) writes it.";
    mov_eax_moffs, "MOV EAX, moffs (A1) reads it.";
    mov_moffs_eax, "MOV moffs, EAX (A3) writes it.";
    mov_keeps_flags, "MOV leaves all flags alone.";
    mov_r8_m8, "MOV r8, m8 (8A) changes the low byte only.";
    mov_m8_r8, "MOV m8, r8 (88) writes a byte.";
    mov_m8_imm8, "MOV m8, imm8 (C6) writes a byte.";
    mov_r16_m16, "MOV r16, m16 changes the low word only.";
    mov_m16_r16, "MOV m16, r16 writes a word.";
    mov_r64_m64, "MOV r64, m64 reads eight bytes.";
    movzx_byte_and_word, "MOVZX from a byte and a word.";
    movsx_byte_and_word, "MOVSX from a byte and a word.";
    movsxd, "MOVSXD from a double word.";
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
    movbe, "MOVBE swaps bytes.";
    movups_load, "MOVUPS reads sixteen bytes.";
    lods_stos, "LODSD and STOSD.";
    movs_register_to_ram, "MOVSD from the register to RAM.";
    movs_ram_to_register, "MOVSD from RAM to the register.";
    rep_movs_registers_to_ram, "REP MOVSD from sixteen registers to RAM.";
    rep_movs_backwards, "REP MOVSB with DF set.";
    rep_movs_of_nothing, "REP MOVSD with RCX 0 touches nothing.";
    rep_stos_ends_with_the_last_value, "REP STOSB to a register's byte, one after the other.";
    scas_and_cmps, "SCASD and CMPSD compare with a register.";
    repne_scas_finds, "REPNE SCASW stops where it finds.";
    base_index_scale_displacement, "An operand of base, scaled index and displacement.";
    fs_base_is_added, "An operand with FS has its base added.";
    address_size_prefix_cuts_the_address, "With prefix 67h the address is cut to 32 bits.";
    read_across_register_and_ram, "A read across the end of a page of registers into RAM has both parts.";
    absent_page_faults_on_read, "A read by an absent page is #PF(0) with its address.";
    absent_page_faults_on_write, "A write by an absent page is #PF(2).";
    read_only_page_faults_on_write, "A write by a read-only page is #PF(3) and the register is unchanged.";
    read_only_page_faults_on_add, "ADD by a read-only page is #PF(3) and the register is unchanged.";
    reserved_bit_faults, "A page-table entry with a reserved bit is #PF(9).";
    read_sets_accessed, "A read of a register sets the page's accessed bit and not dirty.";
    write_sets_dirty, "A write of a register sets the page's dirty bit.";
    push_onto_an_absent_stack_faults, "PUSH of a register onto an absent stack is #PF(2) with RSP unchanged.";
    rep_movs_into_an_absent_page_restarts, "REP MOVSD into an absent page stops there and goes on once it is mapped.";
    rep_movs_from_an_absent_page_restarts, "REP MOVSB from an absent page to a register stops there and goes on.";
    absent_memory_reads_ones, "Where nothing answers a read gives ones, of 1, 2, 4 and 8 bytes.",
        known_qemu: "memory where nothing is reads 0";
    absent_memory_takes_writes, "Where nothing answers a write is lost.";
    ecam_is_the_configuration_space, "ECAM and CF8/CFC show the same.";
    ecam_of_an_absent_device_reads_ones, "ECAM of a device that is not there reads ones.";
}

fn register(value: u32) {
    apic::write(apic::LVT_TIMER, apic::MASKED | 0x41);
    apic::write(apic::TIMER_DIVIDE, 0b1010);
    write32(REGISTER, value);
}

fn mov_r32_m32(_: &mut Context) -> Outcome {
    register(0x8765_4321);
    let value: u64;
    unsafe { asm!("mov {v}, -1", "mov {v:e}, [{at}]", v = out(reg) value, at = in(reg) REGISTER) };
    equal("register", value, 0x8765_4321_u64)
}

fn mov_m32_r32(_: &mut Context) -> Outcome {
    register(1);
    unsafe { asm!("mov [{at}], {v:e}", v = in(reg) 0x1234_5678, at = in(reg) REGISTER) };
    equal("register", read32(REGISTER), 0x1234_5678_u32)
}

fn mov_m32_imm32(_: &mut Context) -> Outcome {
    register(1);
    unsafe { asm!("mov dword ptr [{at}], 0x13579BDF", at = in(reg) REGISTER) };
    equal("register", read32(REGISTER), 0x1357_9BDF_u32)
}

fn mov_eax_moffs(_: &mut Context) -> Outcome {
    register(0x0F1E_2D3C);
    let value: u64;
    unsafe { asm!("mov rax, -1", ".byte 0xA1", ".quad {at}", out("rax") value, at = const REGISTER) };
    equal("register", value, 0x0F1E_2D3C_u64)
}

fn mov_moffs_eax(_: &mut Context) -> Outcome {
    register(1);
    unsafe { asm!(".byte 0xA3", ".quad {at}", in("eax") 0x2468_ACE0_u32, at = const REGISTER) };
    equal("register", read32(REGISTER), 0x2468_ACE0_u32)
}

fn mov_keeps_flags(_: &mut Context) -> Outcome {
    register(0);
    let (clear, set): (u64, u64);
    unsafe {
        asm!(
            "push 2", "popfq", "mov {v:e}, [{at}]", "pushfq", "pop {clear}",
            "push 0x8D7", "popfq", "mov {v:e}, [{at}]", "pushfq", "pop {set}",
            v = out(reg) _, at = in(reg) REGISTER, clear = out(reg) clear, set = out(reg) set,
        );
    }
    equal("flags from clear", clear & 0x8D5, 0_u64)?;
    equal("flags from set", set & 0x8D5, 0x8D5_u64)
}

/// Goes on if firmware has ECAM where every Q35 firmware puts it.
fn ecam() -> Outcome {
    outl(0xCF8, 0x8000_0060);
    needs("no ECAM at B0000000", inl(0xCFC) & 0xF000_0001 == 0xB000_0001)
}

fn line_keeps() -> Outcome {
    ecam()?;
    write8(LINE, 0x5A);
    equal("interrupt line", read8(LINE), 0x5A_u8)
}

fn mov_r8_m8(_: &mut Context) -> Outcome {
    line_keeps()?;
    let value: u64;
    unsafe { asm!("mov rax, -1", "mov al, [{at}]", out("rax") value, at = in(reg) LINE) };
    equal("RAX", value, 0xFFFF_FFFF_FFFF_FF5A_u64)
}

fn mov_m8_r8(_: &mut Context) -> Outcome {
    line_keeps()?;
    unsafe { asm!("mov [{at}], ah", in("eax") 0xA500_u32, at = in(reg) LINE) };
    equal("interrupt line", read8(LINE), 0xA5_u8)
}

fn mov_m8_imm8(_: &mut Context) -> Outcome {
    line_keeps()?;
    unsafe { asm!("mov byte ptr [{at}], 0x3C", at = in(reg) LINE) };
    equal("interrupt line", read8(LINE), 0x3C_u8)
}

fn mov_r16_m16(_: &mut Context) -> Outcome {
    ecam()?;
    let value: u64;
    unsafe { asm!("mov rax, -1", "mov ax, [{at}]", out("rax") value, at = in(reg) LPC) };
    equal("RAX", value, 0xFFFF_FFFF_FFFF_8086_u64)
}

fn mov_m16_r16(_: &mut Context) -> Outcome {
    line_keeps()?;
    let pin = read8(LINE + 1);
    write16(LINE, 0x99C3);
    equal("interrupt line", read8(LINE), 0xC3_u8)?;
    equal("interrupt pin, read-only", read8(LINE + 1), pin)
}

fn mov_r64_m64(_: &mut Context) -> Outcome {
    ecam()?;
    let expected = u64::from(read32(LPC)) | u64::from(read32(LPC + 4)) << 32;
    equal("first eight bytes", read64(LPC), expected)
}

fn movzx_byte_and_word(_: &mut Context) -> Outcome {
    ecam()?;
    let (byte, word): (u64, u64);
    unsafe {
        asm!(
            "mov {b}, -1", "movzx {b:e}, byte ptr [{at}]", "mov {w}, -1", "movzx {w}, word ptr [{at}]",
            b = out(reg) byte, w = out(reg) word, at = in(reg) LPC,
        );
    }
    equal("byte", byte, 0x86_u64)?;
    equal("word", word, 0x8086_u64)
}

fn movsx_byte_and_word(_: &mut Context) -> Outcome {
    ecam()?;
    let (byte, word): (u64, u64);
    unsafe {
        asm!(
            "movsx {b:e}, byte ptr [{at}]", "movsx {w}, word ptr [{at}]",
            b = out(reg) byte, w = out(reg) word, at = in(reg) LPC,
        );
    }
    equal("byte", byte, 0xFFFF_FF86_u64)?;
    equal("word", word, 0xFFFF_FFFF_FFFF_8086_u64)
}

fn movsxd(_: &mut Context) -> Outcome {
    register(0x8000_0001);
    let value: u64;
    unsafe { asm!("movsxd {v}, dword ptr [{at}]", v = out(reg) value, at = in(reg) REGISTER) };
    equal("value", value, 0xFFFF_FFFF_8000_0001_u64)
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
        19 => run_form!(at, v, a, "bts dword ptr [{at}], 12", "setc al", "test al, al"),
        20 => run_form!(at, v, a, "btr dword ptr [{at}], 13", "setc al", "test al, al"),
        21 => run_form!(at, v, a, "bt dword ptr [{at}], 14", "setc al", "test al, al"),
        22 => run_form!(at, v, a, "xchg [{at}], {v:e}"),
        23 => run_form!(at, v, a, "xadd [{at}], {v:e}"),
        24 | 25 => {
            let expected = if form == 24 { u64::from(START) } else { a };
            run_form!(at, v, expected, "cmpxchg [{at}], {v:e}")
        }
        26 => run_form!(at, v, a, "lock add [{at}], {v:e}"),
        27 => run_form!(at, v, a, "imul {v:e}, [{at}]", "mov al, 0", "adc al, 0", "test al, al"),
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

fn movbe(_: &mut Context) -> Outcome {
    needs("no MOVBE in CPUID", has_feature_ecx(22))?;
    register(0x0102_0304);
    let value: u64;
    unsafe { asm!("movbe {v:e}, [{at}]", v = out(reg) value, at = in(reg) REGISTER) };
    equal("swapped", value, 0x0403_0201_u64)
}

fn movups_load(_: &mut Context) -> Outcome {
    ecam()?;
    let ram = SPARE[0].address();
    unsafe { asm!("movups xmm0, [{at}]", "movups [{to}], xmm0", at = in(reg) LPC, to = in(reg) ram, out("xmm0") _) };
    for word in 0..4 {
        equal("double word", read32(ram + word * 4), read32(LPC + word * 4))?;
    }
    Ok(())
}

/// Runs a string instruction and returns RSI, RDI, RCX and RAX after it.
macro_rules! string {
    ($code:literal, $from:expr, $to:expr, $count:expr, $rax:expr) => {{
        let (from, to, count, rax): (u64, u64, u64, u64);
        unsafe {
            asm!(
                $code, "cld",
                inout("rsi") $from => from, inout("rdi") $to => to,
                inout("rcx") $count => count, inout("rax") $rax => rax,
            );
        }
        [from, to, count, rax]
    }};
}

fn lods_stos(_: &mut Context) -> Outcome {
    register(0xCAFE_F00D);
    let [from, _, _, rax] = string!("lodsd", REGISTER, 0_u64, 0_u64, u64::MAX);
    equal("RAX", rax, 0xCAFE_F00D_u64)?;
    equal("RSI", from, REGISTER + 4)?;
    let [_, to, ..] = string!("stosd", 0_u64, REGISTER, 0_u64, 0x1122_3344_u64);
    equal("RDI", to, REGISTER + 4)?;
    equal("register", read32(REGISTER), 0x1122_3344_u32)
}

fn movs_register_to_ram(_: &mut Context) -> Outcome {
    register(0xCAFE_F00D);
    let ram = SPARE[0].address();
    let [from, to, ..] = string!("movsd", REGISTER, ram, 0_u64, 0_u64);
    equal("RAM", read32(ram), 0xCAFE_F00D_u32)?;
    equal("RSI", from, REGISTER + 4)?;
    equal("RDI", to, ram + 4)
}

fn movs_ram_to_register(_: &mut Context) -> Outcome {
    register(1);
    write32(SPARE[0].address(), 0xFEED_5EED);
    string!("movsd", SPARE[0].address(), REGISTER, 0_u64, 0_u64);
    equal("register", read32(REGISTER), 0xFEED_5EED_u32)
}

fn same_as_configuration(ram: u64, words: u64) -> Outcome {
    for word in 0..words {
        equal("double word", read32(ram + word * 4), read32(LPC + word * 4))?;
    }
    Ok(())
}

fn rep_movs_registers_to_ram(_: &mut Context) -> Outcome {
    ecam()?;
    let ram = SPARE[0].address();
    let [from, to, count, _] = string!("rep movsd", LPC, ram, 16_u64, 0_u64);
    equal("RCX", count, 0_u64)?;
    equal("RSI", from, LPC + 64)?;
    equal("RDI", to, ram + 64)?;
    same_as_configuration(ram, 16)
}

fn rep_movs_backwards(_: &mut Context) -> Outcome {
    ecam()?;
    let ram = SPARE[0].address();
    let [from, to, count, _] = string!("std\n rep movsb", LPC + 63, ram + 63, 64_u64, 0_u64);
    equal("RCX", count, 0_u64)?;
    equal("RSI", from, LPC - 1)?;
    equal("RDI", to, ram - 1)?;
    same_as_configuration(ram, 16)
}

fn rep_movs_of_nothing(_: &mut Context) -> Outcome {
    register(7);
    let [from, to, ..] = string!("rep movsd", SPARE[0].address(), REGISTER, 0_u64, 0_u64);
    equal("RSI", from, SPARE[0].address())?;
    equal("RDI", to, REGISTER)?;
    equal("register", read32(REGISTER), 7_u32)
}

fn rep_stos_ends_with_the_last_value(_: &mut Context) -> Outcome {
    line_keeps()?;
    let pin = read8(LINE + 1);
    let [_, to, count, _] = string!("rep stosb", 0_u64, LINE, 2_u64, 0x66_u64);
    equal("RCX", count, 0_u64)?;
    equal("RDI", to, LINE + 2)?;
    equal("interrupt line", read8(LINE), 0x66_u8)?;
    equal("interrupt pin, read-only", read8(LINE + 1), pin)
}

fn scas_and_cmps(_: &mut Context) -> Outcome {
    register(0x1234_5678);
    write32(SPARE[0].address(), 0x1234_5679);
    let (scan, compare): (u64, u64);
    unsafe {
        asm!("scasd", "pushfq", "pop {f}", f = out(reg) scan, inout("rdi") REGISTER => _, in("eax") 0x1234_5678);
        asm!(
            "cmpsd", "pushfq", "pop {f}",
            f = out(reg) compare, inout("rsi") REGISTER => _, inout("rdi") SPARE[0].address() => _,
        );
    }
    equal("SCASD ZF", scan >> 6 & 1, 1_u64)?;
    equal("CMPSD ZF", compare >> 6 & 1, 0_u64)?;
    equal("CMPSD CF", compare & 1, 1_u64)
}

fn repne_scas_finds(_: &mut Context) -> Outcome {
    ecam()?;
    let wanted = u64::from(read16(LPC + 2));
    let [_, to, count, _] = string!("repne scasw", 0_u64, LPC, 8_u64, wanted);
    equal("RDI", to, LPC + 4)?;
    equal("RCX", count, 6_u64)
}

fn base_index_scale_displacement(_: &mut Context) -> Outcome {
    register(0x5555_AAAA);
    let value: u64;
    unsafe {
        asm!(
            "mov {v:e}, [{base} + {index}*8 - 0x80]",
            v = out(reg) value, base = in(reg) BASE + 0x200, index = in(reg) 0x40_u64,
        );
    }
    equal("value", value, 0x5555_AAAA_u64)
}

fn fs_base_is_added(_: &mut Context) -> Outcome {
    register(0x1111_2222);
    wrmsr(0xC000_0100, BASE);
    let value: u64;
    unsafe { asm!("mov {v:e}, fs:[0x380]", v = out(reg) value) };
    wrmsr(0xC000_0100, 0);
    equal("value", value, 0x1111_2222_u64)
}

fn address_size_prefix_cuts_the_address(_: &mut Context) -> Outcome {
    register(0x3333_4444);
    let value: u64;
    unsafe {
        asm!("mov {v:e}, [{at:e}]", v = out(reg) value, at = in(reg) REGISTER | 0x1234_5678 << 32);
    }
    equal("value", value, 0x3333_4444_u64)
}

fn read_across_register_and_ram(_: &mut Context) -> Outcome {
    ecam()?;
    SPARE[0].fill(0x77);
    map(0, LPC | PRESENT | WRITABLE | UNCACHED);
    map(1, SPARE[0].address() | PRESENT | WRITABLE);
    let low = u32::from(read16(LPC + 0xFFE));
    equal("four bytes", read32(window(0) + 0xFFE), 0x7777_0000 | low)
}

/// Maps the page of the local APIC into the window.
fn alias(flags: u64) -> u64 {
    map(0, BASE | UNCACHED | flags) + u64::from(TIMER_INITIAL)
}

fn absent_page_faults_on_read(_: &mut Context) -> Outcome {
    let at = alias(0);
    let fault = faults("exception", PAGE_FAULT, 0, || read32(at))?;
    equal("CR2", fault.cr2, at)
}

fn absent_page_faults_on_write(_: &mut Context) -> Outcome {
    let at = alias(0);
    let fault = faults("exception", PAGE_FAULT, 2, || write32(at, 1))?;
    equal("CR2", fault.cr2, at)
}

fn read_only_page_faults_on_write(_: &mut Context) -> Outcome {
    register(0x77);
    let at = alias(PRESENT);
    equal("read", read32(at), 0x77_u32)?;
    let fault = faults("exception", PAGE_FAULT, 3, || write32(at, 1))?;
    equal("CR2", fault.cr2, at)?;
    equal("register", read32(REGISTER), 0x77_u32)
}

fn read_only_page_faults_on_add(_: &mut Context) -> Outcome {
    register(0x77);
    let at = alias(PRESENT);
    let add = || unsafe { asm!("add dword ptr [{at}], 1", at = in(reg) at) };
    let fault = faults("exception", PAGE_FAULT, 3, add)?;
    equal("CR2", fault.cr2, at)?;
    equal("register", read32(REGISTER), 0x77_u32)
}

fn reserved_bit_faults(_: &mut Context) -> Outcome {
    let width = crate::machine::processor::cpuid(0x8000_0008, 0).eax & 0xFF;
    needs("all address bits exist", width < 52)?;
    let at = alias(PRESENT | WRITABLE | 1 << 51);
    faults("exception", PAGE_FAULT, 9, || read32(at)).map(|_| ())
}

fn read_sets_accessed(_: &mut Context) -> Outcome {
    let at = alias(PRESENT | WRITABLE);
    read32(at);
    equal("accessed and dirty", entry(0) & (ACCESSED | DIRTY), ACCESSED)
}

fn write_sets_dirty(_: &mut Context) -> Outcome {
    register(1);
    let at = alias(PRESENT | WRITABLE);
    write32(at, 2);
    equal("accessed and dirty", entry(0) & (ACCESSED | DIRTY), ACCESSED | DIRTY)
}

fn push_onto_an_absent_stack_faults(_: &mut Context) -> Outcome {
    map(1, 0);
    trap::hook(PAGE_FAULT, |frame| {
        note(0, frame.rsp);
        note(1, frame.error);
        map(1, SPARE[1].address() | PRESENT | WRITABLE);
    });
    register(0x4242);
    let stack = window(2);
    unsafe {
        asm!(
            "mov {keep}, rsp", "mov rsp, {stack}", "push qword ptr [{at}]", "mov rsp, {keep}",
            keep = out(reg) _, stack = in(reg) stack, at = in(reg) apic_pair(),
        );
    }
    equal("RSP at the fault", noted(0), stack)?;
    equal("error code", noted(1), 2_u64)?;
    equal("pushed", read64(stack - 8), read64(apic_pair()))
}

/// Eight bytes that can be read at once: configuration space if there is ECAM, else RAM.
fn apic_pair() -> u64 {
    if ecam().is_ok() { LPC } else { SPARE[2].address() }
}

fn rep_movs_into_an_absent_page_restarts(_: &mut Context) -> Outcome {
    ecam()?;
    map(0, SPARE[0].address() | PRESENT | WRITABLE);
    map(1, 0);
    trap::hook(PAGE_FAULT, |frame| {
        note(0, frame.rcx);
        note(1, frame.rdi);
        note(2, frame.rsi);
        note(3, frame.error);
        map(1, SPARE[1].address() | PRESENT | WRITABLE);
    });
    let to = window(1) - 24;
    let [from, end, count, _] = string!("rep movsd", LPC, to, 16_u64, 0_u64);
    equal("RCX at the fault", noted(0), 10_u64)?;
    equal("RDI at the fault", noted(1), window(1))?;
    equal("RSI at the fault", noted(2), LPC + 24)?;
    equal("error code", noted(3), 2_u64)?;
    equal("RCX", count, 0_u64)?;
    equal("RSI", from, LPC + 64)?;
    equal("RDI", end, to + 64)?;
    same_as_configuration(to, 16)
}

fn rep_movs_from_an_absent_page_restarts(_: &mut Context) -> Outcome {
    line_keeps()?;
    SPARE[1].fill(0x3D);
    map(1, 0);
    trap::hook(PAGE_FAULT, |frame| {
        note(0, frame.rcx);
        note(1, frame.error);
        map(1, SPARE[1].address() | PRESENT);
    });
    let [from, _, count, _] = string!("rep movsb", window(1), LINE, 1_u64, 0_u64);
    equal("RCX at the fault", noted(0), 1_u64)?;
    equal("error code", noted(1), 0_u64)?;
    equal("RCX", count, 0_u64)?;
    equal("RSI", from, window(1) + 1)?;
    equal("interrupt line", read8(LINE), 0x3D_u8)
}

fn absent_memory_reads_ones(_: &mut Context) -> Outcome {
    equal("1 byte", read8(ABSENT), 0xFF_u8)?;
    equal("2 bytes", read16(ABSENT), 0xFFFF_u16)?;
    equal("4 bytes", read32(ABSENT), u32::MAX)?;
    equal("8 bytes", read64(ABSENT), u64::MAX)
}

fn absent_memory_takes_writes(_: &mut Context) -> Outcome {
    let before = read32(ABSENT);
    write32(ABSENT, 0x1234_5678);
    equal("after a write", read32(ABSENT), before)
}

fn ecam_is_the_configuration_space(_: &mut Context) -> Outcome {
    ecam()?;
    for register in (0..64).step_by(4) {
        outl(0xCF8, 0x8000_F800 | register);
        equal("register", read32(LPC + u64::from(register)), inl(0xCFC))?;
    }
    Ok(())
}

fn ecam_of_an_absent_device_reads_ones(_: &mut Context) -> Outcome {
    ecam()?;
    let absent = ECAM + (0x1D << 15);
    equal("4 bytes", read32(absent), u32::MAX)?;
    equal("2 bytes", read16(absent), 0xFFFF_u16)?;
    equal("1 byte", read8(absent), 0xFF_u8)
}
