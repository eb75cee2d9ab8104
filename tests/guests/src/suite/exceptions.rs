//! Software interrupts, traps, single steps over what a hypervisor emulates, and faults in the delivery of events (APM volume 2,
//! 8.2 and 8.9; SDM 6.4 to 6.15).

use core::arch::asm;

use super::{Context, Outcome, Stop, equal, faults, holds, note, noted, refuses, taken, tests};
use crate::machine::apic::{self, IRR, ISR, bit, send_self};
use crate::machine::{ioapic, pit};
use crate::machine::memory::{PRESENT, SPARE, WRITABLE, map, window};
use crate::machine::processor::{cr4, open, set_cr4};
use crate::machine::segments::{STACK_SPARE, set_interrupt_stack};
use crate::machine::trap::{
    self, BREAKPOINT, DEBUG, DOUBLE_FAULT, Frame, GENERAL_PROTECTION, Gates, INVALID_OPCODE,
    NOT_PRESENT, PAGE_FAULT,
};

const TRAP_FLAG: u64 = 1 << 8;
const VECTOR: u8 = 0x90;
const WRITE: u64 = 2;

tests! {
    int_n_saves_the_next_address, "INT n saves the address after it and is no request of the local APIC.";
    int_n_ignores_if, "INT n is taken with IF clear.";
    int3_is_a_trap, "INT3 is #BP with the address after it.";
    into_is_invalid_in_long_mode, "INTO is #UD in 64-bit mode.";
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
    step_over_nop, "TF: #DB after one instruction, DR6.BS set.";
    step_over_cpuid, "TF over CPUID: #DB right after it.";
    step_over_in, "TF over IN: #DB right after it.";
    step_over_out, "TF over OUT: #DB right after it.";
    step_over_mmio_read, "TF over a read of an MMIO register: #DB right after it.";
    step_over_mmio_write, "TF over a write of an MMIO register: #DB right after it.";
    step_over_rdmsr, "TF over RDMSR: #DB right after it.";
    step_over_wrmsr, "TF over WRMSR: #DB right after it.";
    step_over_rep_outs, "TF over REP OUTSB: #DB after each iteration.";
    step_over_rep_ins, "TF over REP INSB: #DB after each iteration.";
    step_is_held_off_by_mov_ss, "TF: the trap after MOV SS is dropped, the next instruction's comes.";
    step_over_hlt, "TF over HLT: #DB after HLT, which does not wait.",
        known_qemu: "waits in HLT although a trap is due";
    interrupt_while_stepping, "A pending interrupt and a step: the trap first, then the interrupt with TF clear in its handler.";
    data_breakpoint_on_ram, "DR0 on a write to RAM: #DB after the write, DR6.B0 set.";
    data_breakpoint_on_mmio, "DR0 on a write to an MMIO register: #DB after the write.";
    io_breakpoint, "DR0 on a port (CR4.DE): #DB after the access.";
    instruction_breakpoint, "DR0 on an instruction: #DB before it; RF lets it go on.";
    general_detect, "DR7.GD: MOV to a debug register is #DB with DR6.BD.",
        known_qemu: "does not look at DR7.GD";
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
    equal("saved address less that of INT3", distance!(BREAKPOINT, "int3"), 1_u64)
}

fn into_is_invalid_in_long_mode(_: &mut Context) -> Outcome {
    equal("saved address less that of INTO", distance!(INVALID_OPCODE, ".byte 0xCE"), 0_u64)
}

fn icebp_is_a_debug_trap(_: &mut Context) -> Outcome {
    equal("saved address less that of INT1", distance!(DEBUG, ".byte 0xF1"), 1_u64)
}

fn ud2_is_a_fault(_: &mut Context) -> Outcome {
    equal("saved address less that of UD2", distance!(INVALID_OPCODE, "ud2"), 0_u64)
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
    with_gates(0xFFF, |gates| gates[usize::from(vector)][0] &= !(1 << 47), body)
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
    let fault = without_gate(VECTOR, || faults("exception", NOT_PRESENT, error, interrupt));
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
    with_gates(0xFFF, |gates| gates[usize::from(vector)] = trap::gate(vector, STACK_SPARE), body)
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
    unsafe { asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("ecx") _, out("eax") _, out("edx") _) };
}

fn benign_fault_through_an_absent_gate(_: &mut Context) -> Outcome {
    let error = gate_error(INVALID_OPCODE, 1);
    without_gate(INVALID_OPCODE, || faults("exception", NOT_PRESENT, error, ud2)).map(|_| ())
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
    on_absent_stack(PAGE_FAULT, || faults("exception", DOUBLE_FAULT, 0, page_fault)).map(|_| ())
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

fn dr6() -> u64 {
    let value;
    unsafe { asm!("mov {}, dr6", out(reg) value) };
    value
}

/// Notes where each step came in notes 4.., how many in note 0, DR6 in note 1; without TF from the number in note 2 on.
fn stepped(frame: &mut Frame) {
    let count = noted(0);
    if count < 4 {
        note(4 + count as usize, frame.rip);
    }
    note(0, count + 1);
    note(1, dr6());
    if count + 1 >= noted(2) {
        frame.rflags &= !TRAP_FLAG;
    }
}

/// Runs one instruction with TF set and checks that the trap came right after it.
macro_rules! one_step {
    ($code:literal $(, $operand:tt)* ; $($rest:tt)*) => {{
        trap::hook(DEBUG, stepped);
        note(2, 1_u64);
        let label: u64;
        unsafe {
            asm!("mov dr6, {zero}", zero = in(reg) 0xFFFF_0FF0_u64);
            asm!(
                "lea {label}, [rip + 2f]",
                "pushfq", "or dword ptr [rsp], 0x100", "popfq",
                $code, "2:", "nop", "nop",
                label = out(reg) label, $($rest)*
            );
        }
        equal("traps", noted(0), 1_u64)?;
        equal("return address", noted(4), label)?;
        equal("DR6.BS", noted(1) >> 14 & 1, 1_u64)
    }};
}

fn step_over_nop(_: &mut Context) -> Outcome {
    one_step!("nop"; )
}

fn step_over_cpuid(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, stepped);
    note(2, 1_u64);
    let label: u64;
    unsafe {
        asm!(
            "mov {keep}, rbx",
            "lea {label}, [rip + 2f]",
            "pushfq", "or dword ptr [rsp], 0x100", "popfq",
            "cpuid", "2:", "nop", "nop",
            "mov rbx, {keep}",
            keep = out(reg) _, label = out(reg) label, inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _,
        );
    }
    equal("traps", noted(0), 1_u64)?;
    equal("return address", noted(4), label)
}

fn step_over_in(_: &mut Context) -> Outcome {
    one_step!("in al, dx"; in("dx") 0x3FF_u16, out("al") _)
}

fn step_over_out(_: &mut Context) -> Outcome {
    one_step!("out dx, al"; in("dx") 0x3FF_u16, in("al") 0_u8)
}

fn step_over_mmio_read(_: &mut Context) -> Outcome {
    one_step!("mov {value:e}, [{at}]"; value = out(reg) _, at = in(reg) apic::BASE + 0x30)
}

fn step_over_mmio_write(_: &mut Context) -> Outcome {
    one_step!("mov dword ptr [{at}], {value:e}"; value = in(reg) 0x10, at = in(reg) apic::BASE + 0x80)
}

fn step_over_rdmsr(_: &mut Context) -> Outcome {
    one_step!("rdmsr"; in("ecx") apic::APIC_BASE, out("eax") _, out("edx") _)
}

fn step_over_wrmsr(_: &mut Context) -> Outcome {
    let base = crate::machine::processor::rdmsr(apic::APIC_BASE);
    one_step!("wrmsr"; in("ecx") apic::APIC_BASE, in("eax") base as u32, in("edx") (base >> 32) as u32)
}

fn step_over_rep_outs(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, stepped);
    note(2, 3_u64);
    SPARE[0].fill(0x77);
    let (here, after, left): (u64, u64, u64);
    unsafe {
        asm!(
            "lea {here}, [rip + 2f]", "lea {after}, [rip + 3f]",
            "pushfq", "or dword ptr [rsp], 0x100", "popfq",
            "2:", "rep outsb", "3:", "nop", "nop",
            here = out(reg) here, after = out(reg) after,
            inout("rcx") 3_u64 => left, inout("rsi") SPARE[0].address() => _, in("dx") 0x3FF_u16,
        );
    }
    equal("traps", noted(0), 3_u64)?;
    equal("RCX", left, 0_u64)?;
    equal("first return address", noted(4), here)?;
    equal("last return address", noted(6), after)
}

fn step_over_rep_ins(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, stepped);
    note(2, 3_u64);
    let (here, after, left): (u64, u64, u64);
    unsafe {
        asm!(
            "lea {here}, [rip + 2f]", "lea {after}, [rip + 3f]",
            "pushfq", "or dword ptr [rsp], 0x100", "popfq",
            "2:", "rep insb", "3:", "nop", "nop",
            here = out(reg) here, after = out(reg) after,
            inout("rcx") 3_u64 => left, inout("rdi") SPARE[0].address() => _, in("dx") 0x3FF_u16,
        );
    }
    equal("traps", noted(0), 3_u64)?;
    equal("RCX", left, 0_u64)?;
    equal("first return address", noted(4), here)?;
    equal("last return address", noted(6), after)
}

fn step_is_held_off_by_mov_ss(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, stepped);
    note(2, 1_u64);
    let label: u64;
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]",
            "pushfq", "or dword ptr [rsp], 0x100", "popfq",
            "mov ss, {data:x}", "nop", "2:", "nop", "nop",
            label = out(reg) label, data = in(reg) crate::machine::segments::DATA,
        );
    }
    equal("traps", noted(0), 1_u64)?;
    equal("return address", noted(4), label)
}

fn step_over_hlt(_: &mut Context) -> Outcome {
    // Should HLT wait after all, an NMI ends it.
    ioapic::set_entry(2, ioapic::to(apic::cpuid_id(), 0) | u64::from(apic::NMI));
    pit::program(0, 0, 60_000);
    let outcome: Outcome = (|| one_step!("hlt"; ))();
    ioapic::set_entry(2, ioapic::MASKED);
    taken("NMI that ended HLT", &[])?;
    outcome
}

fn interrupt_while_stepping(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, stepped);
    trap::hook(VECTOR, |frame| {
        let flags: u64;
        unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
        note(8, noted(0));
        note(9, flags & TRAP_FLAG);
        trap::record_and_end(frame);
    });
    note(2, 3_u64);
    send_self(VECTOR);
    unsafe {
        asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "sti", "nop", "nop", "nop", "nop", "cli");
    }
    taken("vector", &[VECTOR])?;
    holds("a trap came before the interrupt", noted(8) >= 1)?;
    equal("TF in the handler", noted(9), 0_u64)
}

/// Sets DR0 and DR7 for one breakpoint: 0 execute, 1 write, 2 port, 3 read or write; of 4 bytes but for execution.
fn set_breakpoint(address: u64, kind: u64) {
    let length = if kind == 0 { 0 } else { 3 };
    let control = 0x400 | 2 | kind << 16 | length << 18;
    unsafe {
        asm!(
            "mov dr0, {address}", "mov dr6, {status}", "mov dr7, {control}",
            address = in(reg) address, status = in(reg) 0xFFFF_0FF0_u64, control = in(reg) control,
        );
    }
}

fn clear_breakpoints() {
    unsafe { asm!("mov dr7, {}", in(reg) 0x400_u64) };
}

/// Notes address and DR6 and counts, with breakpoints off.
fn broken(frame: &mut Frame) {
    let control: u64;
    unsafe { asm!("mov {}, dr7", out(reg) control) };
    clear_breakpoints();
    note(0, noted(0) + 1);
    note(1, dr6());
    note(4, frame.rip);
    note(5, control);
    frame.rflags |= 1 << 16;
}

fn came_at(label: u64) -> Outcome {
    clear_breakpoints();
    equal("traps", noted(0), 1_u64)?;
    equal("return address", noted(4), label)?;
    equal("DR6.B0", noted(1) & 0xF, 1_u64)
}

fn data_breakpoint(address: u64) -> Outcome {
    trap::hook(DEBUG, broken);
    set_breakpoint(address, 1);
    let label: u64;
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]", "mov dword ptr [{at}], {value:e}", "2:", "nop",
            label = out(reg) label, at = in(reg) address, value = in(reg) 0x10,
        );
    }
    came_at(label)
}

fn data_breakpoint_on_ram(_: &mut Context) -> Outcome {
    data_breakpoint(SPARE[0].address())
}

fn data_breakpoint_on_mmio(_: &mut Context) -> Outcome {
    data_breakpoint(apic::BASE + u64::from(apic::TPR))
}

fn io_breakpoint(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, broken);
    set_cr4(cr4() | 1 << 3);
    set_breakpoint(0x3FC, 2);
    let label: u64;
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]", "in al, dx", "2:", "nop",
            label = out(reg) label, in("dx") 0x3FF_u16, out("al") _,
        );
    }
    set_cr4(cr4() & !(1 << 3));
    came_at(label)
}

fn instruction_breakpoint(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, broken);
    let label: u64;
    let reached: u64;
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]",
            "mov dr0, {label}", "mov dr7, {control}",
            "xor {reached:e}, {reached:e}",
            "2:", "mov {reached:e}, 1", "nop",
            label = out(reg) label, control = in(reg) 0x402_u64, reached = out(reg) reached,
        );
    }
    came_at(label)?;
    equal("the instruction ran", reached, 1_u64)
}

fn general_detect(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, broken);
    unsafe { asm!("mov dr6, {}", "mov dr7, {}", in(reg) 0xFFFF_0FF0_u64, in(reg) 0x400 | 1_u64 << 13) };
    unsafe { asm!("mov dr0, {}", in(reg) 0_u64) };
    clear_breakpoints();
    equal("traps", noted(0), 1_u64)?;
    equal("DR6.BD", noted(1) >> 13 & 1, 1_u64)
}

fn non_canonical_access_faults(_: &mut Context) -> Outcome {
    refuses("read", || crate::machine::memory::read8(1 << 62))
}
