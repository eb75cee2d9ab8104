//! Which line of the 8259 pair comes first: nesting, rotation, special mask mode, the cascade, spurious requests (8259A data
//! sheet; ICH9 data sheet, 5.8).

use super::pic::{IRQ0, IRQ4, LINE0, LINE4, PATIENCE_US, look, wire};
use super::{Context, Outcome, equal, holds, needs, note, noted, taken, tests};
use crate::machine::pic::{
    BASE, ELCR, EOI, MASTER, READ_REQUEST, READ_SERVICE, SLAVE, SPECIFIC_EOI, end_of_interrupt,
    mask, read, unmask_only,
};
use crate::machine::port::outb;
use crate::machine::processor::{cli, open, sti};
use crate::machine::time::{until, until_interrupted, wait_interrupted};
use crate::machine::trap::{self, Frame};
use crate::machine::uart::{lower_line, raise_line};
use crate::machine::{cpu, pit, rtc};

const IRQ8: u8 = BASE + 8;
const SPURIOUS: u8 = BASE + 7;
const SPURIOUS_SLAVE: u8 = BASE + 15;

tests! {
    lower_priority_waits, "IRQ 4 waits while IRQ 0 is in service.";
    higher_priority_nests, "IRQ 0 interrupts the handler of IRQ 4.";
    rotation_makes_the_served_line_lowest, "Rotate on unspecific EOI puts IRQ 4 below all others.";
    set_priority_rotates, "Set priority 3 puts IRQ 4 above IRQ 0.";
    special_mask_lets_lower_lines_through, "In special mask mode, a masked line in service blocks nobody.";
    spurious_is_irq_7, "A level gone before the acknowledge is IRQ 7, its ISR bit clear.";
    spurious_of_the_slave_is_irq_15, "On the slave it is IRQ 15; the slave's ISR is clear, the master's has IRQ 2.";
    slave_is_delivered_by_the_cascade, "IRQ 8 comes with the slave's vector, and both have it in service.";
    slave_waits_for_the_cascade_mask, "With IRQ 2 masked the slave's lines do not come.";
    slave_needs_both_eois, "The master's IRQ 2 stays in service until its own EOI.";
    fully_nested_slave_blocks_its_own, "Without special fully nested mode a second line of the slave waits for the master's EOI.";
}

const CASCADE: u16 = 1 << 2;

const LINE8: u16 = 1 << 8;

/// Makes IRQ 0 request: the end of a mode 0 count.
fn raise_timer() -> bool {
    pit::program(0, 0, 50);
    until(PATIENCE_US, || read(MASTER, READ_REQUEST) & 1 != 0)
}

fn lower_priority_waits(_: &mut Context) -> Outcome {
    fn outer(frame: &mut Frame) {
        cpu::current().record(frame.vector as u8);
        raise_line();
        sti();
        open();
        cli();
        note(0, cpu::current().taken() as u64);
        end_of_interrupt(0);
    }
    trap::hook(IRQ0, outer);
    wire(LINE0 | LINE4);
    holds("the timer requests", raise_timer())?;
    open();
    open();
    equal("taken within the handler", noted(0), 1_u64)?;
    taken("vector", &[IRQ0, IRQ4])
}

fn higher_priority_nests(_: &mut Context) -> Outcome {
    fn outer(frame: &mut Frame) {
        cpu::current().record(frame.vector as u8);
        raise_timer();
        sti();
        open();
        cli();
        note(0, cpu::current().taken() as u64);
        end_of_interrupt(4);
    }
    trap::hook(IRQ4, outer);
    wire(LINE0 | LINE4);
    raise_line();
    open();
    open();
    equal("taken within the handler", noted(0), 2_u64)?;
    taken("vector", &[IRQ4, IRQ0])
}

/// Raises both lines and says which comes first.
fn both(first: &[u8]) -> Outcome {
    holds("the timer requests", raise_timer())?;
    raise_line();
    unmask_only(LINE0 | LINE4);
    open();
    open();
    taken("vector", first)
}

fn rotation_makes_the_served_line_lowest(_: &mut Context) -> Outcome {
    // After IRQ 0 was served and rotated, IRQ 1 is highest and IRQ 0 lowest.
    trap::hook(IRQ0, trap::record_only);
    wire(LINE0);
    holds("the timer requests", raise_timer())?;
    open();
    outb(MASTER, 0xA0);
    taken("the first", &[IRQ0])?;
    cpu::current().clear();
    mask(0xFFFF);
    both(&[IRQ4, IRQ0])
}

fn set_priority_rotates(_: &mut Context) -> Outcome {
    wire(0);
    outb(MASTER, 0xC3);
    both(&[IRQ4, IRQ0])
}

fn special_mask_lets_lower_lines_through(_: &mut Context) -> Outcome {
    fn outer(frame: &mut Frame) {
        cpu::current().record(frame.vector as u8);
        // OCW3: set special mask mode; mask the line in service.
        outb(MASTER, 0x68);
        unmask_only(LINE4);
        raise_line();
        open();
        note(0, cpu::current().taken() as u64);
        outb(MASTER, 0x48);
        outb(MASTER, SPECIFIC_EOI);
    }
    trap::hook(IRQ0, outer);
    trap::hook(IRQ4, |frame| {
        trap::record_only(frame);
        outb(MASTER, SPECIFIC_EOI | 4);
    });
    wire(LINE0);
    holds("the timer requests", raise_timer())?;
    open();
    equal("taken within the handler", noted(0), 2_u64)?;
    taken("vector", &[IRQ0, IRQ4])
}

fn spurious_is_irq_7(_: &mut Context) -> Outcome {
    trap::hook(SPURIOUS, |frame| {
        note(0, u64::from(read(MASTER, READ_SERVICE)) | 0x100);
        trap::record_only(frame);
    });
    // Level-triggered, so that the request ends with the line; LINT0 keeps it asked for until the acknowledge.
    outb(ELCR, 1 << 4);
    wire(LINE4);
    raise_line();
    // The request is at the processor already; the line falls before interrupts are on.
    lower_line();
    open();
    // Chips whose output follows the request at once never see an acknowledge.
    needs(
        "the request was withdrawn before the acknowledge",
        cpu::current().taken() > 0,
    )?;
    taken("vector", &[SPURIOUS])?;
    equal("ISR in the handler", noted(0), 0x100_u64)
}

fn spurious_of_the_slave_is_irq_15(_: &mut Context) -> Outcome {
    trap::hook(SPURIOUS_SLAVE, |frame| {
        note(0, u64::from(read(SLAVE, READ_SERVICE)) | 0x100);
        note(1, u64::from(read(MASTER, READ_SERVICE)));
        trap::record_only(frame);
        outb(MASTER, EOI);
    });
    trap::hook(SPURIOUS, trap::record_only);
    // The master's request by the cascade is an edge and stays; the slave has nothing left when it is acknowledged.
    start_rtc();
    wire(LINE8 | CASCADE);
    let requested = until(PATIENCE_US, || read(SLAVE, READ_REQUEST) & 1 != 0);
    mask(!CASCADE);
    rtc::reset();
    holds("the clock requests", requested)?;
    open();
    needs(
        "the request was withdrawn before the acknowledge",
        cpu::current().taken() > 0,
    )?;
    taken("vector", &[SPURIOUS_SLAVE])?;
    equal("slave's ISR in the handler", noted(0), 0x100_u64)?;
    equal("master's ISR in the handler", noted(1), 1_u64 << 2)
}

/// Starts the clock's periodic interrupt, 8192 a second.
fn start_rtc() {
    rtc::write(rtc::A, 0x23);
    rtc::read(rtc::C);
    rtc::write(rtc::B, rtc::QUIET | rtc::PERIODIC);
}

fn slave_is_delivered_by_the_cascade(_: &mut Context) -> Outcome {
    trap::hook(IRQ8, look);
    start_rtc();
    wire(LINE8 | CASCADE);
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    taken("vector", &[IRQ8])?;
    equal("master's ISR", noted(0), 1_u64 << 2)?;
    equal("slave's ISR", noted(2), 1_u64)
}

fn slave_waits_for_the_cascade_mask(_: &mut Context) -> Outcome {
    start_rtc();
    wire(LINE8);
    wait_interrupted(2_000);
    taken("vector while masked", &[])?;
    unmask_only(LINE8 | CASCADE);
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    taken("vector", &[IRQ8])
}

fn slave_needs_both_eois(_: &mut Context) -> Outcome {
    trap::hook(IRQ8, |frame| {
        trap::record_only(frame);
        outb(SLAVE, EOI);
        note(0, read(MASTER, READ_SERVICE));
        outb(MASTER, EOI);
        note(1, u64::from(read(MASTER, READ_SERVICE)) | 0x100);
    });
    start_rtc();
    wire(LINE8 | CASCADE);
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    equal("master's ISR after the slave's EOI", noted(0), 1_u64 << 2)?;
    equal("master's ISR after its own", noted(1), 0x100_u64)
}

fn fully_nested_slave_blocks_its_own(_: &mut Context) -> Outcome {
    trap::hook(IRQ8, |frame| {
        cpu::current().record(frame.vector as u8);
        outb(SLAVE, EOI);
        rtc::read(rtc::C);
        if cpu::current().taken() == 1 {
            until(20_000, || read(SLAVE, READ_REQUEST) & 1 != 0);
            open();
            note(0, cpu::current().taken() as u64);
        }
        rtc::reset();
        outb(MASTER, EOI);
    });
    start_rtc();
    wire(LINE8 | CASCADE);
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    equal("taken within the handler", noted(0), 1_u64)
}
