//! Single steps over what a hypervisor emulates, and breakpoints (APM vol. 2, 13.1; SDM 18.3).

use core::arch::asm;

use super::{Context, Outcome, equal, holds, note, noted, taken, tests};
use crate::machine::apic::{self, send_self};
use crate::machine::memory::SPARE;
use crate::machine::processor::{cr4, set_cr4};
use crate::machine::trap::{self, DEBUG, Frame};
use crate::machine::{ioapic, pit};

const TRAP_FLAG: u64 = 1 << 8;
const VECTOR: u8 = 0x90;

tests! {
    step_over_nop, "TF: #DB after one instruction, DR6.BS set.";
    step_over_cpuid, "TF over CPUID: #DB right after it.";
    step_over_in, "TF over IN: #DB right after it.";
    step_over_out, "TF over OUT: #DB right after it.";
    step_over_mmio_read, "TF over a read of an MMIO register: #DB right after it.";
    step_over_mmio_write, "TF over a write of an MMIO register: #DB right after it.";
    step_over_rdmsr, "TF over RDMSR: #DB right after it.";
    step_over_wrmsr, "TF over WRMSR: #DB right after it.";
    step_over_rep_outs, "TF over REP OUTSB: #DB after each iteration.",
        known_qemu: "10.0 saves the address of REP after the last iteration too";
    step_over_rep_ins, "TF over REP INSB: #DB after each iteration.",
        known_qemu: "10.0 saves the address of REP after the last iteration too";
    step_is_held_off_by_mov_ss, "TF: the trap after MOV SS is dropped, the next instruction's comes.";
    step_over_hlt, "TF over HLT: #DB after HLT, which does not wait.",
        known_qemu: "waits in HLT although a trap is due";
    interrupt_while_stepping, "A pending interrupt and a step: the trap first, then the interrupt with TF clear in its handler.";
    data_breakpoint_on_ram, "DR0 on a write to RAM: #DB after the write, DR6.B0 set.";
    data_breakpoint_on_mmio, "DR0 on a write to an MMIO register: #DB after the write.";
    io_breakpoint, "DR0 on a port (CR4.DE): #DB after the access.";
    io_breakpoint_on_rep_outs, "DR0 on the port of REP OUTSB (CR4.DE): #DB after each iteration.",
        known_qemu: "looks at the port once";
    data_breakpoint_on_rep_outs, "DR0 on bytes that REP OUTSB reads: #DB after each iteration.",
        known_qemu: "saves the address of REP after the last iteration too";
    instruction_breakpoint, "DR0 on an instruction: #DB before it; RF lets it go on.";
    general_detect, "DR7.GD: MOV to a debug register is #DB with DR6.BD.",
        known_qemu: "does not look at DR7.GD";
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
        asm!(
            "pushfq",
            "or dword ptr [rsp], 0x100",
            "popfq",
            "sti",
            "nop",
            "nop",
            "nop",
            "nop",
            "cli"
        );
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

/// Notes each trap's address and DR6, and counts; the breakpoint stays.
fn counted(frame: &mut Frame) {
    let count = noted(0);
    if count < 4 {
        note(4 + count as usize, frame.rip);
    }
    note(0, count + 1);
    note(1, dr6());
    if count > 8 {
        clear_breakpoints();
    }
}

/// Has REP OUTSB give three bytes to a port that ignores them; returns where it is, where it ends and what is left to do.
fn rep_outs() -> (u64, u64, u64) {
    let (here, after, left): (u64, u64, u64);
    unsafe {
        asm!(
            "lea {here}, [rip + 2f]", "lea {after}, [rip + 3f]",
            "2:", "rep outsb", "3:", "nop",
            here = out(reg) here, after = out(reg) after,
            inout("rcx") 3_u64 => left, inout("rsi") SPARE[0].address() => _, in("dx") 0x3FF_u16,
        );
    }
    clear_breakpoints();
    (here, after, left)
}

fn io_breakpoint_on_rep_outs(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, counted);
    set_cr4(cr4() | 1 << 3);
    set_breakpoint(0x3FC, 2);
    let (here, after, left) = rep_outs();
    set_cr4(cr4() & !(1 << 3));
    equal("traps", noted(0), 3_u64)?;
    equal("RCX", left, 0_u64)?;
    equal("DR6.B0", noted(1) & 0xF, 1_u64)?;
    equal("first return address", noted(4), here)?;
    equal("last return address", noted(6), after)
}

fn data_breakpoint_on_rep_outs(_: &mut Context) -> Outcome {
    trap::hook(DEBUG, counted);
    set_breakpoint(SPARE[0].address(), 3);
    let (here, after, left) = rep_outs();
    equal("traps", noted(0), 3_u64)?;
    equal("RCX", left, 0_u64)?;
    equal("first return address", noted(4), here)?;
    equal("last return address", noted(6), after)
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
    unsafe {
        asm!("mov dr6, {}", "mov dr7, {}", in(reg) 0xFFFF_0FF0_u64, in(reg) 0x400 | 1_u64 << 13)
    };
    unsafe { asm!("mov dr0, {}", in(reg) 0_u64) };
    clear_breakpoints();
    equal("traps", noted(0), 1_u64)?;
    equal("DR6.BD", noted(1) >> 13 & 1, 1_u64)
}
