//! Level-triggered pins of the IOAPIC: remote IRR, EOI, masks (82093AA data sheet, 3.2.4; ICH9 data sheet, 13.5.3). COM1's
//! transmit interrupt is the wire to pin 4; where pc-testdev is there, its wires too.

use super::ioapic::{PIN, VECTOR, edge};
use super::{Context, Outcome, Stop, equal, needs, note, noted, taken, tests, within};
use crate::machine::apic::{self, IRR, TMR, bit};
use crate::machine::cpu;
use crate::machine::ioapic::{EOI, LEVEL, MASKED, REMOTE_IRR, VERSION, entry, read, set_entry, to};
use crate::machine::memory::write32;
use crate::machine::port::{inb, outb};
use crate::machine::processor::open;
use crate::machine::time::until_interrupted;
use crate::machine::trap::{self, Frame};
use crate::machine::uart::{lower_line, pulse_line, raise_line};

/// The pins' wires by pc-testdev, and its latch.
const TEST_LINES: u16 = 0x2000;
const TEST_LATCH: u16 = 0xE0;

tests! {
    level_is_delivered_and_sets_remote_irr, "A high level sends the vector and sets remote IRR.";
    level_sets_tmr, "A level-triggered interrupt sets its TMR bit.";
    level_comes_again_after_eoi, "A level still high after EOI sends again.";
    lowered_level_does_not, "A level lowered before EOI does not.";
    eoi_clears_remote_irr, "EOI of the vector clears remote IRR.";
    eoi_of_another_vector_does_not, "EOI of another vector leaves remote IRR set.";
    masked_level_waits, "A level on a masked pin is delivered when it is unmasked.";
    level_lowered_before_unmasking_is_gone, "A level that ended while masked is not delivered.";
    level_storm_comes_as_often_as_it_is_ended, "A level held high is delivered once for each EOI, a hundred times.";
    edge_mode_forgets_remote_irr, "Writing edge mode to an entry clears remote IRR.";
    directed_eoi_clears_remote_irr, "A write of the vector to the EOI register clears remote IRR (version 20h).";
    directed_eoi_resends_a_high_level, "After the EOI register, a level still high sends again.";
    every_test_line_delivers_an_edge, "With pc-testdev: an edge on each ISA pin is delivered.";
    test_line_level_is_seen_at_its_pin, "With pc-testdev: a level on pins 5 and 10 is delivered until it ends.";
}

fn level(context: &Context) -> u64 {
    to(context.me, VECTOR) | LEVEL
}

fn level_is_delivered_and_sets_remote_irr(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context));
    raise_line();
    let during = entry(PIN);
    trap::hook(VECTOR, end_low);
    open();
    equal("remote IRR", during & REMOTE_IRR, REMOTE_IRR)?;
    taken("vector", &[VECTOR])
}

/// Lowers the line, then ends the interrupt.
fn end_low(frame: &mut Frame) {
    note(0, bit(TMR, VECTOR));
    lower_line();
    trap::record_and_end(frame);
    note(1, entry(PIN));
}

fn level_sets_tmr(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context));
    trap::hook(VECTOR, end_low);
    raise_line();
    open();
    taken("vector", &[VECTOR])?;
    equal("TMR in the handler", noted(0), 1_u64)
}

/// Ends the interrupt with the line still high, the first time.
fn end_high_once(frame: &mut Frame) {
    if cpu::current().taken() > 0 {
        lower_line();
    }
    trap::record_and_end(frame);
}

fn level_comes_again_after_eoi(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context));
    trap::hook(VECTOR, end_high_once);
    raise_line();
    open();
    open();
    open();
    taken("vector", &[VECTOR, VECTOR])
}

fn lowered_level_does_not(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context));
    trap::hook(VECTOR, end_low);
    raise_line();
    open();
    open();
    taken("vector", &[VECTOR])
}

fn eoi_clears_remote_irr(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context));
    trap::hook(VECTOR, end_low);
    raise_line();
    open();
    taken("vector", &[VECTOR])?;
    equal("remote IRR after EOI", noted(1) & REMOTE_IRR, 0_u64)
}

fn eoi_of_another_vector_does_not(context: &mut Context) -> Outcome {
    fn other_first(frame: &mut Frame) {
        // A higher vector is taken and ended while this one is in service.
        cpu::current().record(frame.vector as u8);
        lower_line();
        apic::send_self(0x91);
        open();
        note(1, entry(PIN));
        apic::eoi();
        note(2, entry(PIN));
    }
    set_entry(PIN, level(context));
    trap::hook(VECTOR, other_first);
    raise_line();
    open();
    taken("vector", &[VECTOR, 0x91])?;
    equal(
        "remote IRR after the other EOI",
        noted(1) & REMOTE_IRR,
        REMOTE_IRR,
    )?;
    equal("remote IRR after its own", noted(2) & REMOTE_IRR, 0_u64)
}

fn masked_level_waits(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context) | MASKED);
    trap::hook(VECTOR, end_low);
    raise_line();
    open();
    taken("vector while masked", &[])?;
    set_entry(PIN, level(context));
    open();
    taken("vector", &[VECTOR])
}

fn level_lowered_before_unmasking_is_gone(context: &mut Context) -> Outcome {
    set_entry(PIN, level(context) | MASKED);
    pulse_line();
    set_entry(PIN, level(context));
    open();
    taken("vector", &[])
}

fn level_storm_comes_as_often_as_it_is_ended(context: &mut Context) -> Outcome {
    fn storm(frame: &mut Frame) {
        let vector = frame.vector as u8;
        if cpu::current().count(vector) == 99 {
            lower_line();
        }
        trap::record_and_end(frame);
    }
    set_entry(PIN, level(context));
    trap::hook(VECTOR, storm);
    raise_line();
    until_interrupted(2_000_000, || cpu::current().count(VECTOR) >= 100);
    open();
    equal("times", cpu::current().count(VECTOR), 100_u32)
}

/// Brings remote IRR up with the interrupt pending in IRR, and takes that away by a handler that does not end it.
fn served_not_ended(context: &Context) -> Outcome {
    set_entry(PIN, level(context));
    trap::hook(VECTOR, trap::record_only);
    raise_line();
    open();
    equal("remote IRR", entry(PIN) & REMOTE_IRR, REMOTE_IRR)
}

fn edge_mode_forgets_remote_irr(context: &mut Context) -> Outcome {
    served_not_ended(context)?;
    lower_line();
    set_entry(PIN, edge(context) | MASKED);
    let after = entry(PIN);
    apic::eoi();
    equal("remote IRR", after & REMOTE_IRR, 0_u64)
}

fn needs_eoi_register() -> Outcome {
    needs(
        "the version has no EOI register",
        read(VERSION) & 0xFF >= 0x20,
    )
}

fn directed_eoi_clears_remote_irr(context: &mut Context) -> Outcome {
    needs_eoi_register()?;
    served_not_ended(context)?;
    lower_line();
    write32(EOI, u32::from(VECTOR) ^ 1);
    let other = entry(PIN);
    write32(EOI, u32::from(VECTOR));
    let after = entry(PIN);
    apic::eoi();
    equal(
        "remote IRR after another vector",
        other & REMOTE_IRR,
        REMOTE_IRR,
    )?;
    equal("remote IRR", after & REMOTE_IRR, 0_u64)
}

fn directed_eoi_resends_a_high_level(context: &mut Context) -> Outcome {
    needs_eoi_register()?;
    served_not_ended(context)?;
    write32(EOI, u32::from(VECTOR));
    let pending = bit(IRR, VECTOR);
    lower_line();
    apic::eoi();
    open();
    apic::eoi();
    equal("IRR", pending, true)
}

fn test_device() -> Outcome {
    outb(TEST_LATCH, 0x5A);
    let first = inb(TEST_LATCH);
    outb(TEST_LATCH, 0xA5);
    needs("no pc-testdev", first == 0x5A && inb(TEST_LATCH) == 0xA5)
}

fn test_line(line: u8, value: u8) {
    outb(TEST_LINES + u16::from(line), value);
}

fn every_test_line_delivers_an_edge(context: &mut Context) -> Outcome {
    test_device()?;
    let free = [1, 3, 5, 6, 7, 10, 11, 12, 13, 14, 15];
    for line in free {
        cpu::current().forget();
        set_entry(line, to(context.me, 0x60 + line));
        test_line(line, 1);
        test_line(line, 0);
        open();
        set_entry(line, MASKED);
        taken("vector", &[0x60 + line])?;
    }
    within("lines", free.len() as u64, 11, 11)
}

fn test_line_level_is_seen_at_its_pin(context: &mut Context) -> Result<(), Stop> {
    test_device()?;
    for line in [5, 10] {
        cpu::current().forget();
        set_entry(line, to(context.me, 0x60 + line) | LEVEL);
        note(0, line);
        trap::hook(0x60 + line, |frame| {
            if cpu::current().taken() > 0 {
                test_line(noted(0) as u8, 0);
            }
            trap::record_and_end(frame);
        });
        test_line(line, 1);
        open();
        open();
        open();
        set_entry(line, MASKED);
        taken("vector", &[0x60 + line, 0x60 + line])?;
    }
    Ok(())
}
