//! Page faults of instructions that reach registers of chips: their error codes, what is left undone, how they go on; accessed and
//! dirty bits (APM vol. 2, 5.4 and 8.2.15).

use core::arch::asm;

use super::mmio::{LINE, LPC, REGISTER, ecam, line_keeps, register, same_as_configuration, string};
use super::{Context, Outcome, equal, faults, needs, note, noted, tests};
use crate::machine::apic::{BASE, TIMER_INITIAL};
use crate::machine::memory::{
    ACCESSED, DIRTY, PRESENT, SPARE, UNCACHED, WRITABLE, entry, map, read8, read32, read64, window,
    write32,
};
use crate::machine::trap::{self, PAGE_FAULT};

tests! {
    absent_page_faults_on_read, "A read by an absent page is #PF(0) with its address.";
    absent_page_faults_on_write, "A write by an absent page is #PF(2).";
    read_only_page_faults_on_write, "A write by a read-only page is #PF(3) and the register is unchanged.";
    read_only_page_faults_on_add, "ADD by a read-only page is #PF(3) and the register is unchanged.";
    reserved_bit_faults, "A page-table entry with a reserved bit is #PF(9).",
        known_qemu: "leaves P clear in the error code of a reserved bit";
    read_sets_accessed, "A read of a register sets the page's accessed bit and not dirty.";
    write_sets_dirty, "A write of a register sets the page's dirty bit.";
    push_onto_an_absent_stack_faults, "PUSH of a register onto an absent stack is #PF(2) with RSP unchanged.";
    rep_movs_into_an_absent_page_restarts, "REP MOVSD into an absent page stops there and goes on once it is mapped.";
    rep_movs_from_an_absent_page_restarts, "REP MOVSB from an absent page to a register stops there and goes on.";
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
    equal(
        "accessed and dirty",
        entry(0) & (ACCESSED | DIRTY),
        ACCESSED,
    )
}

fn write_sets_dirty(_: &mut Context) -> Outcome {
    register(1);
    let at = alias(PRESENT | WRITABLE);
    write32(at, 2);
    equal(
        "accessed and dirty",
        entry(0) & (ACCESSED | DIRTY),
        ACCESSED | DIRTY,
    )
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
    if ecam().is_ok() {
        LPC
    } else {
        SPARE[2].address()
    }
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
