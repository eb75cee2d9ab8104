//! Software interrupts, traps, single steps over what a hypervisor emulates, and faults in the delivery of events (APM vol. 2,
//! 8.2 and 8.9; SDM 6.4 to 6.15).

use core::arch::asm;

use super::{Context, Outcome, Stop, equal, faults, note, noted, refuses, taken, tests};
use crate::machine::apic::{self, IRR, ISR, bit, send_self};
use crate::machine::memory::{PRESENT, SPARE, WRITABLE, map, window};
use crate::machine::processor::open;
use crate::machine::segments::{STACK_SPARE, set_interrupt_stack};
use crate::machine::trap::{
    self, BREAKPOINT, DEBUG, DOUBLE_FAULT, Frame, GENERAL_PROTECTION, Gates, INVALID_OPCODE,
    NOT_PRESENT, PAGE_FAULT,
};

const VECTOR: u8 = 0x90;
const WRITE: u64 = 2;

tests! {
    int_n_saves_the_next_address, "INT n saves the address after it and is no request of the local APIC.";
    int_n_ignores_if, "INT n is taken with IF clear.";
    int3_is_a_trap, "INT3 is #BP with the address after it.";
    into_is_invalid_in_long_mode, "INTO is #UD in 64-bit mode.",
        known_qemu: "10.0 runs INTO";
    icebp_is_a_debug_trap, "INT1 (F1h) is #DB with the address after it.",
        known_qemu: "makes #UD of INT1";
    ud2_is_a_fault, "UD2 is #UD with its own address.";
    int_n_through_an_absent_gate, "INT n through an absent gate is #NP with the vector and IDT bit, EXT clear.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    interrupt_through_an_absent_gate, "An external interrupt through an absent gate is #NP with EXT set, and is in service.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    int_n_beyond_the_limit, "INT n beyond the IDT's limit is #GP with the vector and IDT bit.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    interrupt_beyond_the_limit, "An external interrupt beyond the IDT's limit is #GP with EXT set.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    interrupt_through_an_absent_idt_page, "An external interrupt whose gate is on an absent page is #PF; the vector stays in service.";
    int_n_through_an_absent_idt_page_restarts, "INT n whose gate is on an absent page is #PF at INT n, which can run again.";
    interrupt_onto_an_absent_stack, "An external interrupt whose stack is absent is #PF for a write below its top.";
    int_n_onto_an_absent_stack_restarts, "INT n whose stack is absent is #PF at INT n, which can run again.";
    benign_fault_through_an_absent_gate, "#UD through an absent gate is #NP.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    protection_fault_through_an_absent_gate_is_double, "#GP through an absent gate is #DF(0).";
    divide_error_through_an_absent_gate_is_double, "#DE through an absent gate is #DF(0).";
    page_fault_through_an_absent_gate_is_double, "#PF through an absent gate is #DF(0).";
    page_fault_onto_an_absent_stack_is_double, "#PF onto an absent stack is #DF(0).";
    protection_fault_onto_an_absent_stack_is_page_fault, "#GP onto an absent stack is #PF, one after the other.";
    cut_short_delivery_leaves_no_event, "After a delivery that faulted, nothing is delivered twice.";
    interrupt_waits_out_a_faulting_delivery, "A vector pending while the delivery of INT n faults comes once, and INT n runs again.";
    non_canonical_access_faults, "A non-canonical address is #GP(0).";
}

fn int_n_saves_the_next_address(_: &mut Context) -> Outcome {
    trap::hook(0x80, |frame| {
        note(0, frame.rip);
        note(1, apic::bits(ISR));
        trap::record_only(frame);
    });
    let label: u64;
    unsafe { asm!("lea {label}, [rip + 2f]", "int 0x80", "2:", label = out(reg) label) };
    taken("vector", &[0x80])?;
    equal("return address", noted(0), label)?;
    equal("bits of ISR", noted(1), 0_u64)
}

fn int_n_ignores_if(_: &mut Context) -> Outcome {
    trap::hook(0x20, trap::record_only);
    unsafe { asm!("cli", "int 0x20") };
    taken("vector", &[0x20])
}

/// Expects an exception and returns the distance from a label to the address it saved.
macro_rules! distance {
    ($vector:expr, $code:literal) => {{
        let label: u64;
        unsafe { asm!("lea {label}, [rip + 2f]", "jmp 3f", "2:", $code, "ret", "3:", label = out(reg) label) };
        let routine: extern "C" fn() = unsafe { core::mem::transmute(label as usize) };
        let fault = faults("exception", $vector, 0, || routine())?;
        fault.rip.wrapping_sub(label)
    }};
}

fn int3_is_a_trap(_: &mut Context) -> Outcome {
    equal(
        "saved address less that of INT3",
        distance!(BREAKPOINT, "int3"),
        1_u64,
    )
}

fn into_is_invalid_in_long_mode(_: &mut Context) -> Outcome {
    equal(
        "saved address less that of INTO",
        distance!(INVALID_OPCODE, ".byte 0xCE"),
        0_u64,
    )
}

fn icebp_is_a_debug_trap(_: &mut Context) -> Outcome {
    equal(
        "saved address less that of INT1",
        distance!(DEBUG, ".byte 0xF1"),
        1_u64,
    )
}

fn ud2_is_a_fault(_: &mut Context) -> Outcome {
    equal(
        "saved address less that of UD2",
        distance!(INVALID_OPCODE, "ud2"),
        0_u64,
    )
}

/// Runs `body` with a changed IDT, in the spare page 0.
fn with_gates<R>(limit: u16, change: impl FnOnce(&mut Gates), body: impl FnOnce() -> R) -> R {
    let mut gates = trap::gates();
    change(&mut gates);
    unsafe { (SPARE[0].address() as *mut Gates).write_volatile(gates) };
    trap::load_table(SPARE[0].address(), limit);
    let result = body();
    trap::restore();
    result
}

fn without_gate<R>(vector: u8, body: impl FnOnce() -> R) -> R {
    with_gates(
        0xFFF,
        |gates| gates[usize::from(vector)][0] &= !(1 << 47),
        body,
    )
}

/// The error code for a gate: index, IDT bit, and EXT.
fn gate_error(vector: u8, ext: u64) -> u64 {
    u64::from(vector) << 3 | 2 | ext
}

fn int_90() {
    unsafe { asm!("int 0x90") };
}

fn interrupt() {
    send_self(VECTOR);
    open();
}

/// Says what happened to VECTOR at the local APIC, and ends it.
fn is_in_service() -> Outcome {
    let state = (bit(IRR, VECTOR), bit(ISR, VECTOR));
    apic::eoi();
    equal("IRR", state.0, false)?;
    equal("ISR", state.1, true)
}

fn int_n_through_an_absent_gate(_: &mut Context) -> Outcome {
    let error = gate_error(VECTOR, 0);
    without_gate(VECTOR, || faults("exception", NOT_PRESENT, error, int_90)).map(|_| ())
}

fn interrupt_through_an_absent_gate(_: &mut Context) -> Outcome {
    let error = gate_error(VECTOR, 1);
    let fault = without_gate(VECTOR, || {
        faults("exception", NOT_PRESENT, error, interrupt)
    });
    let state = is_in_service();
    fault?;
    state
}

fn int_n_beyond_the_limit(_: &mut Context) -> Outcome {
    let error = gate_error(VECTOR, 0);
    let body = || faults("exception", GENERAL_PROTECTION, error, int_90);
    with_gates(u16::from(VECTOR) * 16 + 14, |_| (), body).map(|_| ())
}

fn interrupt_beyond_the_limit(_: &mut Context) -> Outcome {
    let error = gate_error(VECTOR, 1);
    let body = || faults("exception", GENERAL_PROTECTION, error, interrupt);
    let fault = with_gates(u16::from(VECTOR) * 16 - 1, |_| (), body);
    let state = is_in_service();
    fault?;
    state
}

/// Runs `body` with the IDT across two pages of the window, the gates from 80h on being on the second, absent one.
fn across_pages<R>(body: impl FnOnce() -> R) -> R {
    let gates = trap::gates();
    unsafe { ((SPARE[0].address() + 0x800) as *mut Gates).write_volatile(gates) };
    map(0, SPARE[0].address() | PRESENT | WRITABLE);
    map(1, 0);
    trap::load_table(window(0) + 0x800, 0xFFF);
    let result = body();
    trap::restore();
    result
}

fn gate_address() -> u64 {
    window(0) + 0x800 + u64::from(VECTOR) * 16
}

/// The second page of the window becomes what `across_pages` put behind the first in memory.
fn map_second_page(_: &mut Frame) {
    note(0, crate::machine::processor::cr2());
    note(2, noted(2) + 1);
    map(1, SPARE[1].address() | PRESENT | WRITABLE);
}

fn near(what: &'static str, address: u64, expected: u64) -> Outcome {
    super::within(what, address, expected, expected + 15)
}

fn interrupt_through_an_absent_idt_page(_: &mut Context) -> Outcome {
    let fault = across_pages(|| faults("exception", PAGE_FAULT, 0, interrupt));
    let state = is_in_service();
    near("CR2", fault?.cr2, gate_address())?;
    state?;
    taken("vector", &[])
}

fn int_n_through_an_absent_idt_page_restarts(_: &mut Context) -> Outcome {
    trap::hook(PAGE_FAULT, |frame| {
        note(1, frame.error);
        map_second_page(frame);
    });
    trap::hook(VECTOR, trap::record_only);
    across_pages(int_90);
    taken("vector", &[VECTOR])?;
    equal("page faults", noted(2), 1_u64)?;
    equal("error code", noted(1), 0_u64)?;
    near("CR2", noted(0), gate_address())
}

/// Runs `body` with a gate on the spare interrupt stack, whose page of the window is absent.
fn on_absent_stack<R>(vector: u8, body: impl FnOnce() -> R) -> R {
    map(2, 0);
    set_interrupt_stack(STACK_SPARE, window(3));
    with_gates(
        0xFFF,
        |gates| gates[usize::from(vector)] = trap::gate(vector, STACK_SPARE),
        body,
    )
}

fn stack_fault(fault: Result<trap::Fault, Stop>) -> Outcome {
    let address = fault?.cr2;
    super::within("CR2", address, window(3) - 48, window(3) - 1)
}

fn interrupt_onto_an_absent_stack(_: &mut Context) -> Outcome {
    let fault = on_absent_stack(VECTOR, || faults("exception", PAGE_FAULT, WRITE, interrupt));
    let state = is_in_service();
    stack_fault(fault)?;
    state?;
    taken("vector", &[])
}

fn int_n_onto_an_absent_stack_restarts(_: &mut Context) -> Outcome {
    trap::hook(PAGE_FAULT, |frame| {
        note(1, frame.error);
        note(2, noted(2) + 1);
        map(2, SPARE[2].address() | PRESENT | WRITABLE);
    });
    trap::hook(VECTOR, trap::record_only);
    on_absent_stack(VECTOR, int_90);
    taken("vector", &[VECTOR])?;
    equal("page faults", noted(2), 1_u64)?;
    equal("error code", noted(1), WRITE)
}

fn ud2() {
    unsafe { asm!("ud2") };
}

fn protection_fault() {
    crate::machine::memory::read8(1 << 62);
}

fn page_fault() {
    crate::machine::memory::read8(window(9));
}

fn divide_error() {
    unsafe {
        asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("ecx") _, out("eax") _, out("edx") _)
    };
}

fn benign_fault_through_an_absent_gate(_: &mut Context) -> Outcome {
    let error = gate_error(INVALID_OPCODE, 1);
    without_gate(INVALID_OPCODE, || {
        faults("exception", NOT_PRESENT, error, ud2)
    })
    .map(|_| ())
}

fn is_double(vector: u8, body: fn()) -> Outcome {
    without_gate(vector, || faults("exception", DOUBLE_FAULT, 0, body)).map(|_| ())
}

fn protection_fault_through_an_absent_gate_is_double(_: &mut Context) -> Outcome {
    is_double(GENERAL_PROTECTION, protection_fault)
}

fn divide_error_through_an_absent_gate_is_double(_: &mut Context) -> Outcome {
    is_double(0, divide_error)
}

fn page_fault_through_an_absent_gate_is_double(_: &mut Context) -> Outcome {
    is_double(PAGE_FAULT, page_fault)
}

fn page_fault_onto_an_absent_stack_is_double(_: &mut Context) -> Outcome {
    on_absent_stack(PAGE_FAULT, || {
        faults("exception", DOUBLE_FAULT, 0, page_fault)
    })
    .map(|_| ())
}

fn protection_fault_onto_an_absent_stack_is_page_fault(_: &mut Context) -> Outcome {
    let body = || faults("exception", PAGE_FAULT, WRITE, protection_fault);
    stack_fault(on_absent_stack(GENERAL_PROTECTION, body))
}

fn cut_short_delivery_leaves_no_event(_: &mut Context) -> Outcome {
    let fault = across_pages(|| faults("exception", PAGE_FAULT, 0, interrupt));
    apic::eoi();
    fault?;
    open();
    open();
    taken("vector", &[])?;
    send_self(VECTOR);
    open();
    taken("vector sent again", &[VECTOR])
}

fn interrupt_waits_out_a_faulting_delivery(_: &mut Context) -> Outcome {
    // In the page-fault handler, with interrupts off, a vector below the one being delivered is asked for; its gate is there.
    const PENDING: u8 = 0x61;
    trap::hook(PAGE_FAULT, |frame| {
        send_self(PENDING);
        map_second_page(frame);
    });
    trap::hook(VECTOR, trap::record_only);
    across_pages(|| unsafe { asm!("sti", "nop", "int 0x90", "nop", "cli") });
    equal("page faults", noted(2), 1_u64)?;
    // It comes at INT n, which is to run again, before that does.
    taken("vectors", &[PENDING, VECTOR])
}

fn non_canonical_access_faults(_: &mut Context) -> Outcome {
    refuses("read", || crate::machine::memory::read8(1 << 62))
}
