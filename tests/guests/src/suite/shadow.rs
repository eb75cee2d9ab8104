//! When exactly an interrupt comes: the shadows of STI and MOV SS, HLT (APM vol. 2, 8.1.4, 8.5 and 8.9; SDM 6.8).

use core::arch::asm;

use super::{Context, Outcome, equal, holds, hooked, note, noted, taken, tests};
use crate::machine::apic::{self, ASSERT, send_self};
use crate::machine::memory::read8;
use crate::machine::processor::{cpuid, open};
use crate::machine::segments::DATA;
use crate::machine::trap;

const VECTOR: u8 = 0x41;
const INTERRUPT_FLAG: u64 = 1 << 9;
/// The opcode of HLT.
const HLT: u8 = 0xF4;

tests! {
    sti_covers_one_instruction, "A pending interrupt comes after the instruction that follows STI.";
    sti_cli_lets_nothing_in, "STI; CLI lets no interrupt in.";
    sti_with_interrupts_on_covers_nothing_new, "STI with IF set already casts no shadow: the interrupt comes before the next instruction.";
    mov_ss_covers_one_instruction, "MOV SS holds a pending interrupt off for one instruction.";
    sti_then_mov_ss_delays_one_or_two, "STI; MOV SS: the interrupt comes after MOV SS or one later (only the first of two shadows is guaranteed).";
    popf_lets_in_at_once, "POPF that sets IF casts no shadow.";
    iret_lets_in_at_once, "IRET that sets IF casts no shadow.";
    shadow_ends_with_cpuid, "STI; CPUID: the interrupt comes right after CPUID.";
    shadow_ends_with_in, "STI; IN: the interrupt comes right after IN.";
    shadow_ends_with_out, "STI; OUT: the interrupt comes right after OUT.";
    shadow_ends_with_mmio, "STI; MOV from an MMIO register: the interrupt comes right after it.";
    shadow_ends_with_rdmsr, "STI; RDMSR: the interrupt comes right after it.";
    sti_hlt_wakes, "STI; HLT with an interrupt pending already wakes at once, after HLT.";
    sti_hlt_wakes_later, "STI; HLT wakes by an interrupt that comes later, after HLT.";
    hlt_with_interrupts_on_wakes, "HLT with IF set long before wakes by an interrupt.";
    masked_interrupt_does_not_wake, "A vector below TPR does not wake HLT, one above does.";
    interrupt_gate_clears_if, "The handler runs with IF clear; the saved flags have it set.";
    saved_address_is_the_next_instruction, "The saved address is that of the instruction not yet run.";
    cr8_write_in_shadow_is_counted, "STI; MOV CR8 above the class: the interrupt does not come.";
    interrupt_keeps_registers_of_a_rep, "An interrupt within REP MOVSB lets it go on where it was.";
    timer_interrupts_a_loop, "A loop without exits is interrupted by the timer.";
}

/// Runs instructions with VECTOR pending and checks that it came at the label `2:` of them.
macro_rules! comes_at_label {
    ($($code:literal),+ ; $($operand:tt)*) => {{
        hooked(VECTOR);
        send_self(VECTOR);
        let label: u64;
        unsafe {
            asm!(
                "lea {label}, [rip + 2f]",
                $($code),+,
                "nop", "nop", "cli",
                label = out(reg) label, $($operand)*
            );
        }
        taken("vector", &[VECTOR])?;
        equal("return address", noted(0), label)
    }};
}

fn sti_covers_one_instruction(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "nop", "2:"; )
}

fn sti_cli_lets_nothing_in(_: &mut Context) -> Outcome {
    send_self(VECTOR);
    for _ in 0..10 {
        unsafe { asm!("sti", "cli") };
    }
    taken("vector", &[])
}

fn sti_with_interrupts_on_covers_nothing_new(_: &mut Context) -> Outcome {
    hooked(VECTOR);
    let label: u64;
    // The self IPI by memory is taken as soon as the write is done; STI just before it must not matter.
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]",
            "sti", "nop", "sti",
            "mov dword ptr [{icr}], {command:e}",
            "2:", "nop", "nop", "nop", "nop", "nop", "nop", "nop", "nop",
            "cli",
            label = out(reg) label,
            icr = in(reg) apic::BASE + u64::from(apic::ICR),
            command = in(reg) apic::TO_SELF | ASSERT | u32::from(VECTOR),
        );
    }
    taken("vector", &[VECTOR])?;
    // A posted write may take some instructions on silicon.
    super::within("return address", noted(0), label, label + 8)
}

fn mov_ss_covers_one_instruction(_: &mut Context) -> Outcome {
    hooked(VECTOR);
    apic::write(apic::TPR, 0xF0);
    send_self(VECTOR);
    let label: u64;
    // CR8 is lowered within the shadow of MOV SS, so the interrupt is due right after it and held off by nothing else.
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]",
            "sti", "nop", "nop",
            "mov ss, {data:x}",
            "mov cr8, {zero}",
            "2:", "nop", "nop", "cli",
            label = out(reg) label, data = in(reg) DATA, zero = in(reg) 0_u64,
        );
    }
    taken("vector", &[VECTOR])?;
    equal("return address", noted(0), label)
}

fn sti_then_mov_ss_delays_one_or_two(_: &mut Context) -> Outcome {
    hooked(VECTOR);
    send_self(VECTOR);
    let label: u64;
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]", "sti", "mov ss, {data:x}", "2:", "nop", "nop", "cli",
            label = out(reg) label, data = in(reg) DATA,
        );
    }
    taken("vector", &[VECTOR])?;
    super::within("return address", noted(0), label, label + 1)
}

fn popf_lets_in_at_once(_: &mut Context) -> Outcome {
    comes_at_label!("push 0x202", "popfq", "2:"; )
}

fn iret_lets_in_at_once(_: &mut Context) -> Outcome {
    comes_at_label!(
        "mov {stack}, rsp", "push {data}", "push {stack}", "push 0x202", "push {code}", "push {label}", "iretq", "2:";
        stack = out(reg) _, data = in(reg) u64::from(DATA), code = in(reg) 8_u64
    )
}

fn shadow_ends_with_cpuid(_: &mut Context) -> Outcome {
    comes_at_label!(
        "mov {keep}, rbx", "sti", "cpuid", "2:", "mov rbx, {keep}";
        keep = out(reg) _, inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _
    )
}

fn shadow_ends_with_in(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "in al, dx", "2:"; in("dx") 0x3FF_u16, out("al") _)
}

fn shadow_ends_with_out(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "out dx, al", "2:"; in("dx") 0x3FF_u16, in("al") 0_u8)
}

fn shadow_ends_with_mmio(_: &mut Context) -> Outcome {
    comes_at_label!(
        "sti", "mov {value:e}, [{register}]", "2:";
        value = out(reg) _, register = in(reg) apic::BASE + u64::from(apic::VERSION)
    )
}

fn shadow_ends_with_rdmsr(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "rdmsr", "2:"; in("ecx") apic::APIC_BASE, out("eax") _, out("edx") _)
}

fn sti_hlt_wakes(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "hlt", "2:"; )
}

fn start_timer(lvt: u32) {
    apic::start_timer(lvt, 0b0011, 100_000);
}

fn sti_hlt_wakes_later(_: &mut Context) -> Outcome {
    hooked(VECTOR);
    start_timer(u32::from(VECTOR));
    let label: u64;
    unsafe {
        asm!("lea {label}, [rip + 2f]", "sti", "hlt", "2:", "cli", label = out(reg) label);
    }
    taken("vector", &[VECTOR])?;
    equal("return address", noted(0), label)
}

fn hlt_with_interrupts_on_wakes(_: &mut Context) -> Outcome {
    // Again and again: on a slow machine the first may come before HLT.
    trap::hook(VECTOR, |frame| {
        if read8(frame.rip - 1) == HLT {
            note(0, frame.rip);
            apic::write(apic::TIMER_INITIAL, 0);
        }
        trap::record_and_end(frame);
    });
    let label: u64;
    unsafe { asm!("sti") };
    start_timer(apic::PERIODIC | u32::from(VECTOR));
    unsafe {
        asm!("lea {label}, [rip + 2f]", "hlt", "2:", "cli", label = out(reg) label);
    }
    equal("return address", noted(0), label)
}

fn masked_interrupt_does_not_wake(_: &mut Context) -> Outcome {
    apic::write(apic::TPR, 0x50);
    send_self(0x45);
    apic::start_timer(0x61, 0b0011, 100_000);
    unsafe { asm!("sti", "hlt", "cli") };
    taken("vector that woke", &[0x61])
}

fn interrupt_gate_clears_if(_: &mut Context) -> Outcome {
    trap::hook(VECTOR, |frame| {
        let flags: u64;
        unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
        note(0, flags & INTERRUPT_FLAG);
        note(1, frame.rflags & INTERRUPT_FLAG);
        trap::record_and_end(frame);
    });
    send_self(VECTOR);
    open();
    taken("vector", &[VECTOR])?;
    equal("IF in the handler", noted(0), 0_u64)?;
    equal("IF saved", noted(1), INTERRUPT_FLAG)
}

fn saved_address_is_the_next_instruction(_: &mut Context) -> Outcome {
    comes_at_label!("sti", "mov {x}, 7", "2:"; x = out(reg) _)
}

fn cr8_write_in_shadow_is_counted(_: &mut Context) -> Outcome {
    send_self(VECTOR);
    unsafe { asm!("sti", "mov cr8, {}", "nop", "nop", "cli", in(reg) 15_u64) };
    taken("vector while blocked", &[])?;
    unsafe { asm!("mov cr8, {}", in(reg) 0_u64) };
    open();
    taken("vector", &[VECTOR])
}

fn interrupt_keeps_registers_of_a_rep(_: &mut Context) -> Outcome {
    use crate::machine::memory::SPARE;
    // Long enough for the slowest machine to get on between two of them.
    apic::start_timer(
        apic::PERIODIC | u32::from(VECTOR),
        apic::DIVIDE_1,
        1_000_000,
    );
    SPARE[0].fill(0x5A);
    let mut outcome = Ok(());
    for round in 0_u8..100 {
        SPARE[1].fill(round);
        let (rest, end): (u64, u64);
        unsafe {
            asm!(
                "sti", "rep movsb", "cli",
                inout("rcx") 4096_u64 => rest,
                inout("rsi") SPARE[0].address() => _,
                inout("rdi") SPARE[1].address() => end,
            );
        }
        outcome = equal("RCX", rest, 0_u64)
            .and_then(|()| equal("RDI", end, SPARE[1].address() + 4096))
            .and_then(|()| {
                let first_wrong = (0..512).find(|word| {
                    crate::machine::memory::read64(SPARE[1].address() + word * 8)
                        != 0x5A5A_5A5A_5A5A_5A5A
                });
                equal("first wrong word", first_wrong.unwrap_or(512), 512_u64)
            });
        if outcome.is_err() {
            break;
        }
    }
    apic::write(apic::TIMER_INITIAL, 0);
    outcome
}

fn timer_interrupts_a_loop(_: &mut Context) -> Outcome {
    trap::hook(VECTOR, |frame| {
        frame.rax = 1;
        trap::record_and_end(frame);
    });
    start_timer(u32::from(VECTOR));
    let left: u64;
    unsafe {
        asm!(
            "xor eax, eax", "sti",
            "2:", "test eax, eax", "jnz 3f", "dec rcx", "jnz 2b",
            "3:", "cli",
            out("rax") _, inout("rcx") 20_000_000_000_u64 => left,
        );
    }
    cpuid(0, 0);
    taken("vector", &[VECTOR])?;
    holds("the loop was cut short", left != 0)
}
