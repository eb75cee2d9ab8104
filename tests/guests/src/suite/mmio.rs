//! Instructions whose memory operand is a register of a chip: what each does to the register, to its other operand, to the flags,
//! and to page tables; and where it faults (APM vol. 3; volume 2, 5.4).
//!
//! TMICT, with the timer masked, is a register that keeps all of its 32 bits; the same instruction on RAM is the measure.

use core::arch::asm;

use super::{Context, Outcome, equal, needs, tests};
use crate::machine::apic::{self, BASE, TIMER_INITIAL};
use crate::machine::memory::{
    PRESENT, SPARE, UNCACHED, WRITABLE, map, read8, read16, read32, read64, window, write8,
    write16, write32,
};
use crate::machine::port::{inl, outl};
use crate::machine::processor::{has_feature_ecx, wrmsr};

/// The register, and a place in RAM to compare with.
pub(super) const REGISTER: u64 = BASE + TIMER_INITIAL as u64;
pub(super) const ECAM: u64 = 0xB000_0000;
/// The LPC bridge in the ECAM window.
pub(super) const LPC: u64 = ECAM + (0x1F << 15);
/// A byte there that keeps what is written: the interrupt line.
pub(super) const LINE: u64 = LPC + 0x3C;

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
}

pub(super) fn register(value: u32) {
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
    unsafe {
        asm!("mov rax, -1", ".byte 0xA1", ".quad {at}", out("rax") value, at = const REGISTER)
    };
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
pub(super) fn ecam() -> Outcome {
    outl(0xCF8, 0x8000_0060);
    needs(
        "no ECAM at B0000000",
        inl(0xCFC) & 0xF000_0001 == 0xB000_0001,
    )
}

pub(super) fn line_keeps() -> Outcome {
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
    unsafe {
        asm!("movups xmm0, [{at}]", "movups [{to}], xmm0", at = in(reg) LPC, to = in(reg) ram, out("xmm0") _)
    };
    for word in 0..4 {
        equal(
            "double word",
            read32(ram + word * 4),
            read32(LPC + word * 4),
        )?;
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

pub(super) use string;

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

pub(super) fn same_as_configuration(ram: u64, words: u64) -> Outcome {
    for word in 0..words {
        equal(
            "double word",
            read32(ram + word * 4),
            read32(LPC + word * 4),
        )?;
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
