//! NMI and its blocking (APM vol. 2, 8.2.3, 8.5 and 8.9; SDM 6.7).

use core::arch::asm;

use super::{Context, Outcome, equal, note, noted, taken, tests};
use crate::machine::apic::{self, ASSERT, NMI, send, send_self};
use crate::machine::memory::read8;
use crate::machine::processor::{cli, open};
use crate::machine::trap::{self, Frame};
use crate::machine::{cpu, ioapic, pit, time};

const VECTOR: u8 = 0x41;
const INTERRUPT_FLAG: u64 = 1 << 9;
/// The opcode of HLT.
const HLT: u8 = 0xF4;
/// The clock's pin.
const PIN: u8 = 2;

tests! {
    cli_hlt_wakes_by_nmi, "CLI; HLT wakes by NMI and goes on after HLT with IF clear.";
    nmi_comes_with_interrupts_off, "An NMI comes with IF clear.";
    nmi_in_a_handler_of_nmi_waits_for_iret, "A second NMI waits for the IRET of the first.";
    two_nmis_in_a_handler_are_one, "Two more NMIs within the handler are one afterwards.";
    iret_of_an_inner_exception_unblocks_nmi, "IRET of an exception inside the NMI handler lets the next NMI in.";
    interrupt_waits_for_nmi_with_interrupts_off, "With IF clear a pending vector waits while the NMI is taken.";
    nmi_comes_before_a_pending_vector, "NMI and vector pending in one shadow: NMI first.";
    nmi_through_ioapic_and_ipi_both_come, "An NMI after the first one's IRET comes too.";
}

fn cli_hlt_wakes_by_nmi(_: &mut Context) -> Outcome {
    // LINT1 or IPI cannot come by themselves; the timer's LVT has no NMI mode, so the other clock's pin does it. Again and again:
    // on a slow machine the first may come before HLT.
    trap::hook(trap::NMI, |frame| {
        if read8(frame.rip - 1) == HLT {
            note(0, frame.rip);
            ioapic::set_entry(PIN, ioapic::MASKED);
        }
    });
    ioapic::set_entry(PIN, ioapic::to(apic::cpuid_id(), 0) | u64::from(NMI));
    pit::program(0, 2, 2_000);
    let (label, flags): (u64, u64);
    unsafe {
        asm!(
            "lea {label}, [rip + 2f]",
            "cli", "hlt", "2:",
            "pushfq", "pop {flags}",
            label = out(reg) label, flags = out(reg) flags,
        );
    }
    equal("return address", noted(0), label)?;
    equal("IF afterwards", flags & INTERRUPT_FLAG, 0_u64)
}

fn send_nmi() {
    send(u32::from(apic::cpuid_id()), NMI | ASSERT);
}

fn nmi_comes_with_interrupts_off(_: &mut Context) -> Outcome {
    cli();
    send_nmi();
    time::wait(10);
    taken("vector", &[trap::NMI])
}

/// In the first NMI sends as many more as note 8 says, and counts what came before its IRET.
fn more_nmis(frame: &mut Frame) {
    trap::record_only(frame);
    if cpu::current().taken() == 1 {
        for _ in 0..noted(8) {
            send_nmi();
            time::wait(10);
        }
        note(0, cpu::current().taken() as u64);
    }
}

fn nmi_in_a_handler_of_nmi_waits_for_iret(_: &mut Context) -> Outcome {
    trap::hook(trap::NMI, more_nmis);
    note(8, 1_u64);
    send_nmi();
    time::wait(50);
    equal("taken before IRET", noted(0), 1_u64)?;
    equal("taken in all", cpu::current().taken() as u64, 2_u64)
}

fn two_nmis_in_a_handler_are_one(_: &mut Context) -> Outcome {
    trap::hook(trap::NMI, more_nmis);
    note(8, 2_u64);
    send_nmi();
    time::wait(50);
    equal("taken before IRET", noted(0), 1_u64)?;
    equal("taken in all", cpu::current().taken() as u64, 2_u64)
}

fn iret_of_an_inner_exception_unblocks_nmi(_: &mut Context) -> Outcome {
    trap::hook(trap::BREAKPOINT, |_| {});
    trap::hook(trap::NMI, |frame| {
        trap::record_only(frame);
        if cpu::current().taken() == 1 {
            send_nmi();
            unsafe { asm!("int3") };
            time::wait(10);
            note(0, cpu::current().taken() as u64);
        }
    });
    send_nmi();
    time::wait(50);
    equal("taken before the outer IRET", noted(0), 2_u64)
}

fn interrupt_waits_for_nmi_with_interrupts_off(_: &mut Context) -> Outcome {
    send_self(VECTOR);
    send_nmi();
    time::wait(10);
    taken("vectors with IF clear", &[trap::NMI])?;
    open();
    taken("vectors", &[trap::NMI, VECTOR])
}

fn nmi_comes_before_a_pending_vector(_: &mut Context) -> Outcome {
    // An NMI sent with NMIs blocked and a vector pending, both released by one IRET that sets IF.
    trap::hook(trap::NMI, |frame| {
        trap::record_only(frame);
        if cpu::current().taken() == 1 {
            send_nmi();
            send_self(VECTOR);
            frame.rflags |= INTERRUPT_FLAG;
        }
    });
    send_nmi();
    time::wait(20);
    cli();
    taken("vectors", &[trap::NMI, trap::NMI, VECTOR])
}

fn nmi_through_ioapic_and_ipi_both_come(_: &mut Context) -> Outcome {
    send_nmi();
    time::wait(10);
    send_nmi();
    time::wait(10);
    taken("vectors", &[trap::NMI, trap::NMI])
}
