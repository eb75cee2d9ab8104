//! The 8259 pair (8259A data sheet; ICH9 data sheet, 5.8), by LINT0 as ExtINT. IRQ 4 is COM1, IRQ 0 the PIT, IRQ 8 the clock.

use super::{Context, Outcome, equal, holds, note, noted, taken, tests};
use crate::machine::apic::{self, EXTINT, LVT_LINT0, MASKED};
use crate::machine::pic::{
    BASE, ELCR, EOI, MASTER, MASTER_DATA, POLL, READ_REQUEST, READ_SERVICE, SLAVE, SLAVE_DATA,
    SPECIFIC_EOI, mask, read, start, unmask_only,
};
use crate::machine::port::{inb, outb};
use crate::machine::processor::{halt, open, set_cr8};
use crate::machine::time::until_interrupted;
use crate::machine::trap::{self, Frame};
use crate::machine::uart::{lower_line, pulse_line, raise_line};
use crate::machine::{cpu, pit};

pub(super) const IRQ0: u8 = BASE;
pub(super) const IRQ4: u8 = BASE + 4;
pub(super) const PATIENCE_US: u64 = 2_000_000;

tests! {
    masks_read_back, "Both mask registers read back.";
    initialization_clears_the_mask, "ICW1 clears the mask register.";
    initialization_selects_irr, "After ICW1 the command port reads IRR.";
    request_shows_in_irr, "A raised line shows in IRR, masked or not.";
    edge_is_delivered_by_lint0, "IRQ 4 comes by ExtINT with vector base + 4.";
    masked_line_is_not_delivered, "A masked line is not delivered.";
    masked_edge_waits_while_the_line_is_high, "A request that came while masked is delivered on unmasking if the line still is high.";
    vector_base_ignores_low_bits, "ICW2's bits 2:0 do not matter.";
    in_service_bit_shows_in_isr, "In the handler ISR has the line's bit.";
    acknowledge_clears_an_edge_request, "The acknowledge cycle clears an edge request from IRR.";
    no_second_interrupt_before_eoi, "The same line waits for EOI.";
    unspecific_eoi_clears_isr, "The unspecific EOI clears the highest bit of ISR.";
    specific_eoi_clears_its_bit, "The specific EOI clears its line's bit.";
    specific_eoi_of_another_line_does_not, "A specific EOI of another line leaves the bit.";
    automatic_eoi_leaves_isr_empty, "With AEOI set ISR is empty in the handler.";
    poll_acknowledges, "The poll command returns the line and puts it in service.";
    poll_of_nothing_returns_zero_bit_7, "Without a request the poll byte has bit 7 clear.";
    level_line_comes_again_after_eoi, "With ELCR set, a line still high comes again after EOI.";
    edge_line_held_high_comes_once, "With ELCR clear, a line held high comes once.";
    elcr_keeps_its_bits, "ELCR has bits for IRQ 3-7, 9-12, 14 and 15 only.";
    lint0_masked_delivers_nothing, "With LINT0 masked the 8259 reaches nobody.";
    extint_does_not_touch_the_apic, "An ExtINT sets no bit of the local APIC's ISR.";
    extint_ignores_the_task_priority, "TPR and CR8 15 do not block ExtINT.";
    extint_wakes_from_halt, "An ExtINT ends HLT.";
    lint0_fixed_delivers_the_lvt_vector, "LINT0 in fixed mode delivers the LVT's vector instead.",
        known_qemu: "lets the 8259's vector through in every mode of LINT0";
    lint0_nmi_delivers_nmi, "LINT0 in NMI mode delivers NMI.",
        known_qemu: "raises LINT0 anew with whatever changes in the 8259";
    timer_ticks_by_irq_0, "The PIT's mode 2 comes by IRQ 0 again and again.";
    initialization_forgets_a_request, "ICW1 forgets an edge that waits.";
}

/// Opens LINT0 to the 8259s, and these lines.
pub(super) fn wire(lines: u16) {
    apic::write(LVT_LINT0, EXTINT);
    unmask_only(lines);
}

/// IRQ 4 and the cascade.
pub(super) const LINE4: u16 = 1 << 4;

pub(super) const LINE0: u16 = 1;

fn masks_read_back(_: &mut Context) -> Outcome {
    mask(0xA5C3);
    let seen = [inb(SLAVE_DATA), inb(MASTER_DATA)];
    mask(0xFFFF);
    equal("slave", seen[0], 0xA5_u8)?;
    equal("master", seen[1], 0xC3_u8)
}

fn initialization_clears_the_mask(_: &mut Context) -> Outcome {
    mask(0xFFFF);
    start(MASTER, BASE, 4, 1);
    let seen = inb(MASTER_DATA);
    mask(0xFFFF);
    equal("mask", seen, 0_u8)
}

fn initialization_selects_irr(_: &mut Context) -> Outcome {
    outb(MASTER, READ_SERVICE);
    start(MASTER, BASE, 4, 1);
    mask(0xFFFF);
    raise_line();
    let seen = inb(MASTER);
    lower_line();
    equal("IRR bit 4", seen >> 4 & 1, 1_u8)
}

fn request_shows_in_irr(_: &mut Context) -> Outcome {
    raise_line();
    let seen = read(MASTER, READ_REQUEST);
    lower_line();
    equal("IRR bit 4", seen >> 4 & 1, 1_u8)
}

fn edge_is_delivered_by_lint0(_: &mut Context) -> Outcome {
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])
}

fn masked_line_is_not_delivered(_: &mut Context) -> Outcome {
    wire(0);
    raise_line();
    open();
    taken("vector", &[])
}

fn masked_edge_waits_while_the_line_is_high(_: &mut Context) -> Outcome {
    wire(0);
    raise_line();
    unmask_only(LINE4);
    open();
    taken("vector", &[IRQ4])
}

fn vector_base_ignores_low_bits(_: &mut Context) -> Outcome {
    start(MASTER, BASE | 5, 4, 1);
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])
}

/// Notes ISR and IRR of the master in the handler, then ends.
pub(super) fn look(frame: &mut Frame) {
    note(0, read(MASTER, READ_SERVICE));
    note(1, read(MASTER, READ_REQUEST));
    note(2, read(SLAVE, READ_SERVICE));
    trap::record_and_end(frame);
    note(3, read(MASTER, READ_SERVICE));
}

fn in_service_bit_shows_in_isr(_: &mut Context) -> Outcome {
    trap::hook(IRQ4, look);
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])?;
    equal("ISR", noted(0), 1_u64 << 4)
}

fn acknowledge_clears_an_edge_request(_: &mut Context) -> Outcome {
    trap::hook(IRQ4, look);
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])?;
    equal("IRR bit 4", noted(1) >> 4 & 1, 0_u64)
}

fn no_second_interrupt_before_eoi(_: &mut Context) -> Outcome {
    trap::hook(IRQ4, trap::record_only);
    wire(LINE4);
    raise_line();
    open();
    lower_line();
    raise_line();
    open();
    taken("vector before EOI", &[IRQ4])?;
    outb(MASTER, EOI);
    open();
    outb(MASTER, EOI);
    taken("vector", &[IRQ4, IRQ4])
}

/// Puts IRQ 4 in service and returns ISR after this command.
fn service_after(command: u8) -> u8 {
    trap::hook(IRQ4, trap::record_only);
    wire(LINE4);
    raise_line();
    open();
    outb(MASTER, command);
    let service = read(MASTER, READ_SERVICE);
    outb(MASTER, EOI);
    service
}

fn unspecific_eoi_clears_isr(_: &mut Context) -> Outcome {
    let service = service_after(EOI);
    taken("vector", &[IRQ4])?;
    equal("ISR", service, 0_u8)
}

fn specific_eoi_clears_its_bit(_: &mut Context) -> Outcome {
    let service = service_after(SPECIFIC_EOI | 4);
    taken("vector", &[IRQ4])?;
    equal("ISR", service, 0_u8)
}

fn specific_eoi_of_another_line_does_not(_: &mut Context) -> Outcome {
    let service = service_after(SPECIFIC_EOI | 3);
    taken("vector", &[IRQ4])?;
    equal("ISR", service, 1_u8 << 4)
}

fn automatic_eoi_leaves_isr_empty(_: &mut Context) -> Outcome {
    fn look_only(frame: &mut Frame) {
        note(0, u64::from(read(MASTER, READ_SERVICE)) | 0x100);
        trap::record_only(frame);
    }
    start(MASTER, BASE, 4, 3);
    trap::hook(IRQ4, look_only);
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])?;
    equal("ISR in the handler", noted(0), 0x100_u64)
}

fn poll_acknowledges(_: &mut Context) -> Outcome {
    unmask_only(LINE4);
    raise_line();
    let polled = read(MASTER, POLL);
    let service = read(MASTER, READ_SERVICE);
    outb(MASTER, EOI);
    equal("poll byte", polled & 0x87, 0x84_u8)?;
    equal("ISR", service, 1_u8 << 4)
}

fn poll_of_nothing_returns_zero_bit_7(_: &mut Context) -> Outcome {
    equal("poll byte bit 7", read(MASTER, POLL) >> 7, 0_u8)
}

fn level_line_comes_again_after_eoi(_: &mut Context) -> Outcome {
    trap::hook(IRQ4, |frame| {
        if cpu::current().taken() > 0 {
            lower_line();
        }
        trap::record_and_end(frame);
    });
    outb(ELCR, 1 << 4);
    wire(LINE4);
    raise_line();
    open();
    open();
    open();
    taken("vector", &[IRQ4, IRQ4])
}

fn edge_line_held_high_comes_once(_: &mut Context) -> Outcome {
    wire(LINE4);
    raise_line();
    open();
    open();
    taken("vector", &[IRQ4])
}

fn elcr_keeps_its_bits(_: &mut Context) -> Outcome {
    outb(ELCR, 0xFF);
    outb(ELCR + 1, 0xFF);
    let seen = [inb(ELCR), inb(ELCR + 1)];
    outb(ELCR, 0);
    outb(ELCR + 1, 0);
    equal("4D0h", seen[0], 0xF8_u8)?;
    equal("4D1h", seen[1], 0xDE_u8)
}

fn lint0_masked_delivers_nothing(_: &mut Context) -> Outcome {
    apic::write(LVT_LINT0, EXTINT | MASKED);
    unmask_only(LINE4);
    raise_line();
    open();
    taken("vector", &[])
}

fn extint_does_not_touch_the_apic(_: &mut Context) -> Outcome {
    trap::hook(IRQ4, |frame| {
        note(0, u64::from(apic::bits(apic::ISR)) | 0x100);
        trap::record_and_end(frame);
    });
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])?;
    equal("bits of ISR", noted(0), 0x100_u64)
}

fn extint_ignores_the_task_priority(_: &mut Context) -> Outcome {
    set_cr8(15);
    wire(LINE4);
    raise_line();
    open();
    taken("vector", &[IRQ4])
}

fn extint_wakes_from_halt(_: &mut Context) -> Outcome {
    wire(LINE0);
    pit::program(0, 0, 2_000);
    halt();
    taken("vector", &[IRQ0])
}

fn lint0_fixed_delivers_the_lvt_vector(_: &mut Context) -> Outcome {
    apic::write(LVT_LINT0, 0x71);
    unmask_only(LINE4);
    pulse_line();
    open();
    taken("vector", &[0x71])
}

fn lint0_nmi_delivers_nmi(_: &mut Context) -> Outcome {
    apic::write(LVT_LINT0, apic::NMI);
    unmask_only(LINE4);
    pulse_line();
    open();
    taken("vector", &[trap::NMI])
}

fn timer_ticks_by_irq_0(_: &mut Context) -> Outcome {
    wire(LINE0);
    pit::program(0, 2, 2_000);
    let many = until_interrupted(PATIENCE_US, || cpu::current().count(IRQ0) >= 3);
    pit::reset();
    holds("three ticks", many)
}

fn initialization_forgets_a_request(_: &mut Context) -> Outcome {
    wire(0);
    pulse_line();
    start(MASTER, BASE, 4, 1);
    wire(LINE4);
    open();
    taken("vector", &[])
}
