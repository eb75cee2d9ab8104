//! Port instructions, ports where nothing is, and the PCI configuration ports (APM vol. 3, IN, OUT, INS, OUTS; PCI 3.0, 3.2.2.3).

use core::arch::asm;

use super::{Context, Outcome, equal, note, noted, tests};
use crate::machine::memory::{
    PRESENT, SPARE, WRITABLE, map, read8, read32, window, write8, write32,
};
use crate::machine::port::{inb, inl, inw, outb, outl, outw};
use crate::machine::processor::wrmsr;
use crate::machine::trap::{self, PAGE_FAULT};
use crate::machine::uart::SCRATCH;

/// A port where a Q35 has nothing.
const ABSENT: u16 = 0x5B0;
const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;
const HOST: u32 = ENABLE;
const LPC: u32 = ENABLE | 0x1F << 11;

tests! {
    absent_port_reads_ones, "Where nothing answers IN gives ones, of 1, 2 and 4 bytes.";
    absent_port_takes_writes, "Where nothing answers OUT is lost.";
    delay_port_takes_writes, "Port 80h takes any byte.";
    in_byte_changes_al_only, "IN AL changes the low byte only.";
    in_word_changes_ax_only, "IN AX changes the low word only.";
    in_double_word_clears_the_upper_half, "IN EAX clears RAX[63:32].";
    in_keeps_flags, "IN and OUT leave all flags alone.";
    immediate_forms, "IN and OUT with the port in the instruction.";
    word_of_byte_ports_is_two, "A word of two byte-wide ports has both.";
    outs_writes_and_advances, "OUTSB writes the byte and moves RSI by one.";
    rep_outs_writes_all, "REP OUTSB writes all bytes in order.";
    rep_ins_reads_all, "REP INSB fills memory and stops there.";
    ins_of_words_and_double_words, "INSW and INSD store their width.";
    outs_of_double_words, "OUTSD writes four bytes.";
    strings_run_backwards, "With DF set INS and OUTS move down.";
    rep_of_nothing, "REP INSB and OUTSB with RCX 0 do nothing.";
    outs_takes_a_segment_prefix, "OUTS adds the base of FS if told.";
    ins_with_address_size_prefix, "INSB with prefix 67h uses EDI and ECX.";
    ins_into_an_absent_page_restarts, "INSB into an absent page is #PF(2) before the port is read, and runs again.";
    ins_into_a_read_only_page_faults, "INSB into a read-only page is #PF(3).";
    rep_ins_stops_at_an_absent_page, "REP INSB stops at an absent page with RCX and RDI there.";
    rep_outs_stops_at_an_absent_page, "REP OUTSB stops at an absent page with RCX and RSI there.";
    configuration_address_reads_back, "CF8 keeps enable, bus, device, function and register, bits 1:0 and 30:24 zero.",
        known_qemu: "CF8 keeps all 32 bits";
    host_bridge_is_q35, "Device 0 is 8086:29C0.";
    lpc_bridge_is_ich9, "Device 1Fh is 8086:2918.";
    configuration_data_by_bytes, "CFC to CFF are the bytes of the register.";
    configuration_data_by_words, "CFC and CFE are its words.";
    absent_function_reads_ones, "A function that is not there reads ones.";
    absent_bus_reads_ones, "A bus that is not there reads ones.";
    data_without_enable_reads_ones, "With CF8[31] clear CFC reads ones.";
    byte_write_of_cf8_is_no_address, "A byte written to CF8 leaves the address alone.";
    interrupt_line_keeps_a_byte, "A byte written by CFC + offset goes to that register's byte.";
    identification_is_read_only, "Vendor and device id ignore writes.";
    pm_base_is_where_the_timer_is, "The LPC bridge's PMBASE says 600h.";
}

fn absent_port_reads_ones(_: &mut Context) -> Outcome {
    equal("1 byte", inb(ABSENT), 0xFF_u8)?;
    equal("2 bytes", inw(ABSENT), 0xFFFF_u16)?;
    equal("4 bytes", inl(ABSENT), u32::MAX)
}

fn absent_port_takes_writes(_: &mut Context) -> Outcome {
    outb(ABSENT, 0);
    outw(ABSENT, 0);
    outl(ABSENT, 0);
    equal("4 bytes", inl(ABSENT), u32::MAX)
}

fn delay_port_takes_writes(_: &mut Context) -> Outcome {
    outb(SCRATCH, 0x11);
    for value in 0..8 {
        outb(0x80, value);
    }
    equal("scratch register", inb(SCRATCH), 0x11_u8)
}

fn in_byte_changes_al_only(_: &mut Context) -> Outcome {
    outb(SCRATCH, 0x5A);
    let value: u64;
    unsafe { asm!("in al, dx", inout("rax") u64::MAX => value, in("dx") SCRATCH) };
    equal("RAX", value, 0xFFFF_FFFF_FFFF_FF5A_u64)
}

fn in_word_changes_ax_only(_: &mut Context) -> Outcome {
    let value: u64;
    unsafe { asm!("in ax, dx", inout("rax") 0x1234_5678_9ABC_DEF0_u64 => value, in("dx") ABSENT) };
    equal("RAX", value, 0x1234_5678_9ABC_FFFF_u64)
}

fn in_double_word_clears_the_upper_half(_: &mut Context) -> Outcome {
    let value: u64;
    unsafe { asm!("in eax, dx", inout("rax") u64::MAX => value, in("dx") ABSENT) };
    equal("RAX", value, 0xFFFF_FFFF_u64)
}

fn in_keeps_flags(_: &mut Context) -> Outcome {
    let (clear, set): (u64, u64);
    unsafe {
        asm!(
            "push 2", "popfq", "in al, dx", "out dx, al", "pushfq", "pop {clear}",
            "push 0x8D7", "popfq", "in al, dx", "out dx, al", "pushfq", "pop {set}",
            clear = out(reg) clear, set = out(reg) set, out("al") _, in("dx") SCRATCH,
        );
    }
    equal("flags from clear", clear & 0x8D5, 0_u64)?;
    equal("flags from set", set & 0x8D5, 0x8D5_u64)
}

fn immediate_forms(_: &mut Context) -> Outcome {
    let value: u8;
    unsafe { asm!("out 0x21, al", "mov al, 0", "in al, 0x21", inout("al") 0xE7_u8 => value) };
    outb(0x21, 0xFF);
    equal("8259 mask", value, 0xE7_u8)
}

fn word_of_byte_ports_is_two(_: &mut Context) -> Outcome {
    outb(SCRATCH, 0x5A);
    equal("upper byte of 3FEh", inw(SCRATCH - 1) >> 8, 0x5A_u16)
}

/// Runs a string instruction on the scratch register and returns RSI, RDI and RCX after it.
macro_rules! string {
    ($code:literal, $port:expr, $from:expr, $to:expr, $count:expr) => {{
        let (from, to, count): (u64, u64, u64);
        unsafe {
            asm!(
                $code, "cld",
                inout("rsi") $from => from, inout("rdi") $to => to, inout("rcx") $count => count,
                in("dx") $port,
            );
        }
        [from, to, count]
    }};
}

fn ram() -> u64 {
    SPARE[0].address()
}

fn outs_writes_and_advances(_: &mut Context) -> Outcome {
    write8(ram(), 0x6B);
    let [from, ..] = string!("outsb", SCRATCH, ram(), 0_u64, 0_u64);
    equal("scratch register", inb(SCRATCH), 0x6B_u8)?;
    equal("RSI", from, ram() + 1)
}

fn rep_outs_writes_all(_: &mut Context) -> Outcome {
    for at in 0..200_u8 {
        write8(ram() + u64::from(at), at);
    }
    let [from, _, count] = string!("rep outsb", SCRATCH, ram(), 0_u64, 200_u64);
    equal("scratch register", inb(SCRATCH), 199_u8)?;
    equal("RSI", from, ram() + 200)?;
    equal("RCX", count, 0_u64)
}

fn rep_ins_reads_all(_: &mut Context) -> Outcome {
    SPARE[0].fill(0);
    outb(SCRATCH, 0x3C);
    let [_, to, count] = string!("rep insb", SCRATCH, 0_u64, ram(), 100_u64);
    equal("RDI", to, ram() + 100)?;
    equal("RCX", count, 0_u64)?;
    for at in 0..100 {
        equal("byte", read8(ram() + at), 0x3C_u8)?;
    }
    equal("byte behind", read8(ram() + 100), 0_u8)
}

fn ins_of_words_and_double_words(_: &mut Context) -> Outcome {
    outl(ADDRESS, HOST);
    SPARE[0].fill(0);
    let [_, to, _] = string!("insw", DATA, 0_u64, ram(), 0_u64);
    equal("RDI after a word", to, ram() + 2)?;
    equal("word", read32(ram()), 0x8086_u32)?;
    let [_, to, _] = string!("insd", DATA, 0_u64, ram(), 0_u64);
    equal("RDI after a double word", to, ram() + 4)?;
    equal("double word", read32(ram()), 0x29C0_8086_u32)
}

fn outs_of_double_words(_: &mut Context) -> Outcome {
    write32(ram(), LPC);
    write32(ram() + 4, HOST);
    let [from, ..] = string!("rep outsd", ADDRESS, ram(), 0_u64, 2_u64);
    equal("RSI", from, ram() + 8)?;
    equal("CF8", inl(ADDRESS), HOST)
}

fn strings_run_backwards(_: &mut Context) -> Outcome {
    write8(ram() + 10, 0x01);
    write8(ram() + 9, 0x02);
    let [from, ..] = string!("std\n rep outsb", SCRATCH, ram() + 10, 0_u64, 2_u64);
    equal("RSI", from, ram() + 8)?;
    equal("scratch register", inb(SCRATCH), 2_u8)?;
    SPARE[0].fill(0);
    let [_, to, _] = string!("std\n rep insb", SCRATCH, 0_u64, ram() + 10, 2_u64);
    equal("RDI", to, ram() + 8)?;
    equal("bytes", read32(ram() + 8), 0x0002_0200_u32)
}

fn rep_of_nothing(_: &mut Context) -> Outcome {
    outb(SCRATCH, 0x44);
    SPARE[0].fill(0x55);
    let [_, to, _] = string!("rep insb", SCRATCH, 0_u64, ram(), 0_u64);
    let [from, ..] = string!("rep outsb", SCRATCH, ram(), 0_u64, 0_u64);
    equal("RDI", to, ram())?;
    equal("RSI", from, ram())?;
    equal("memory", read8(ram()), 0x55_u8)?;
    equal("scratch register", inb(SCRATCH), 0x44_u8)
}

fn outs_takes_a_segment_prefix(_: &mut Context) -> Outcome {
    write8(ram() + 5, 0x7C);
    wrmsr(0xC000_0100, ram());
    // FS prefix, OUTSB.
    string!(".byte 0x64, 0x6E", SCRATCH, 5_u64, 0_u64, 0_u64);
    wrmsr(0xC000_0100, 0);
    equal("scratch register", inb(SCRATCH), 0x7C_u8)
}

fn ins_with_address_size_prefix(_: &mut Context) -> Outcome {
    outb(SCRATCH, 0x2D);
    SPARE[0].fill(0);
    let high = 0x1234_5678_u64 << 32;
    // Prefixes 67h and REP, INSB.
    let [_, to, count] = string!(
        ".byte 0x67, 0xF3, 0x6C",
        SCRATCH,
        0_u64,
        ram() | high,
        high | 3
    );
    equal("RDI", to, ram() + 3)?;
    equal("RCX", count, 0_u64)?;
    equal("memory", read32(ram()), 0x002D_2D2D_u32)
}

/// Makes the page fault handler map page 1 of the window and note where the string instruction was.
fn map_when_needed() {
    map(1, 0);
    trap::hook(PAGE_FAULT, |frame| {
        note(0, frame.error);
        note(1, frame.rcx);
        note(2, frame.rdi);
        note(3, frame.rsi);
        note(4, noted(4) + 1);
        map(1, SPARE[1].address() | PRESENT | WRITABLE);
    });
}

fn ins_into_an_absent_page_restarts(_: &mut Context) -> Outcome {
    map_when_needed();
    outb(SCRATCH, 0x99);
    let [_, to, _] = string!("insb", SCRATCH, 0_u64, window(1), 0_u64);
    equal("page faults", noted(4), 1_u64)?;
    equal("error code", noted(0), 2_u64)?;
    equal("RDI", to, window(1) + 1)?;
    equal("memory", read8(SPARE[1].address()), 0x99_u8)
}

fn ins_into_a_read_only_page_faults(_: &mut Context) -> Outcome {
    map_when_needed();
    map(1, SPARE[1].address() | PRESENT);
    string!("insb", SCRATCH, 0_u64, window(1), 0_u64);
    equal("page faults", noted(4), 1_u64)?;
    equal("error code", noted(0), 3_u64)
}

fn rep_ins_stops_at_an_absent_page(_: &mut Context) -> Outcome {
    map(0, SPARE[0].address() | PRESENT | WRITABLE);
    map_when_needed();
    outb(SCRATCH, 0x13);
    let [_, to, count] = string!("rep insb", SCRATCH, 0_u64, window(1) - 5, 12_u64);
    equal("RCX at the fault", noted(1), 7_u64)?;
    equal("RDI at the fault", noted(2), window(1))?;
    equal("page faults", noted(4), 1_u64)?;
    equal("RCX", count, 0_u64)?;
    equal("RDI", to, window(1) + 7)?;
    equal("last byte", read8(SPARE[1].address() + 6), 0x13_u8)
}

fn rep_outs_stops_at_an_absent_page(_: &mut Context) -> Outcome {
    map(0, SPARE[0].address() | PRESENT | WRITABLE);
    map_when_needed();
    SPARE[1].fill(0x2E);
    let [from, _, count] = string!("rep outsb", SCRATCH, window(1) - 5, 0_u64, 12_u64);
    equal("error code", noted(0), 0_u64)?;
    equal("RCX at the fault", noted(1), 7_u64)?;
    equal("RSI at the fault", noted(3), window(1))?;
    equal("RCX", count, 0_u64)?;
    equal("RSI", from, window(1) + 7)?;
    equal("scratch register", inb(SCRATCH), 0x2E_u8)
}

fn configuration_address_reads_back(_: &mut Context) -> Outcome {
    outl(ADDRESS, u32::MAX);
    equal("CF8 of ones", inl(ADDRESS), 0x80FF_FFFC_u32)?;
    outl(ADDRESS, 0x8000_F840);
    equal("CF8", inl(ADDRESS), 0x8000_F840_u32)
}

fn configuration(address: u32) -> u32 {
    outl(ADDRESS, address);
    inl(DATA)
}

fn host_bridge_is_q35(_: &mut Context) -> Outcome {
    equal("vendor and device", configuration(HOST), 0x29C0_8086_u32)
}

fn lpc_bridge_is_ich9(_: &mut Context) -> Outcome {
    equal("vendor and device", configuration(LPC), 0x2918_8086_u32)
}

fn configuration_data_by_bytes(_: &mut Context) -> Outcome {
    outl(ADDRESS, HOST);
    for (offset, byte) in (0_u16..).zip([0x86_u8, 0x80, 0xC0, 0x29]) {
        equal("byte", inb(DATA + offset), byte)?;
    }
    Ok(())
}

fn configuration_data_by_words(_: &mut Context) -> Outcome {
    outl(ADDRESS, HOST);
    equal("CFC", inw(DATA), 0x8086_u16)?;
    equal("CFE", inw(DATA + 2), 0x29C0_u16)
}

fn absent_function_reads_ones(_: &mut Context) -> Outcome {
    equal("device 1Dh", configuration(ENABLE | 0x1D << 11), u32::MAX)?;
    equal(
        "its command register",
        configuration(ENABLE | 0x1D << 11 | 4),
        u32::MAX,
    )
}

fn absent_bus_reads_ones(_: &mut Context) -> Outcome {
    equal("bus 7Fh", configuration(ENABLE | 0x7F << 16), u32::MAX)
}

fn data_without_enable_reads_ones(_: &mut Context) -> Outcome {
    equal("data", configuration(0), u32::MAX)
}

fn byte_write_of_cf8_is_no_address(_: &mut Context) -> Outcome {
    outl(ADDRESS, HOST | 8);
    outb(ADDRESS, 0x40);
    equal("CF8", inl(ADDRESS), HOST | 8)
}

fn interrupt_line_keeps_a_byte(_: &mut Context) -> Outcome {
    outl(ADDRESS, LPC | 0x3C);
    let before = inl(DATA);
    outb(DATA, 0xA7);
    let seen = inl(DATA);
    outb(DATA, before as u8);
    equal("register", seen, before & !0xFF | 0xA7)
}

fn identification_is_read_only(_: &mut Context) -> Outcome {
    outl(ADDRESS, LPC);
    outl(DATA, 0);
    equal("vendor and device", inl(DATA), 0x2918_8086_u32)
}

fn pm_base_is_where_the_timer_is(_: &mut Context) -> Outcome {
    equal("PMBASE", configuration(LPC | 0x40) & 0xFF80, 0x600_u32)
}
