//! The IOAPIC (82093AA data sheet; ICH9 data sheet, 13.5). COM1's transmit interrupt is the wire to pin 4.

use super::{Context, Outcome, Stop, equal, holds, needs, note, noted, taken, tests, within};
use crate::machine::apic::{self, IRR, LDR, TMR, bit};
use crate::machine::ioapic::{
    self, ARBITRATION, EOI, ID, LEVEL, LOGICAL, MASKED, PENDING, PINS, REMOTE_IRR, SELECT, VERSION,
    WINDOW, entry, read, set_entry, to, write,
};
use crate::machine::memory::{read8, read32, write8, write32};
use crate::machine::port::{inb, outb};
use crate::machine::processor::open;
use crate::machine::time::until_interrupted;
use crate::machine::trap::{self, Frame};
use crate::machine::uart::{lower_line, pulse_line, raise_line};
use crate::machine::{cpu, pit, uart};

const PIN: u8 = uart::IRQ;
const VECTOR: u8 = 0x61;
/// Delivery mode NMI.
const NMI: u64 = 4 << 8;
const LOWEST: u64 = 1 << 8;
/// The other pins' wires, where pc-testdev is there.
const TEST_LINES: u16 = 0x2000;
const TEST_LATCH: u16 = 0xE0;

tests! {
    version_says_24_pins, "The version register says 11h or 20h and pins up to 23.";
    id_keeps_four_bits, "The id has bits 27:24.";
    arbitration_id_is_not_writable, "The arbitration register is read-only.";
    select_reads_back, "IOREGSEL reads back.";
    select_takes_a_byte, "IOREGSEL can be written and read by one byte.";
    every_pin_keeps_its_entry, "All 24 entries keep vector, modes, mask and destination of their own.";
    status_bits_ignore_writes, "Delivery status and remote IRR cannot be written.";
    entry_above_the_last_pin_does_nothing, "An index above the last entry's takes nothing and changes nothing.";
    edge_is_delivered, "A rising edge sends the entry's vector.";
    each_edge_is_delivered_once, "Each edge is one interrupt; the level after it is none.";
    edge_on_a_masked_pin_is_lost, "An edge while masked is not made up for by unmasking.";
    edge_leaves_tmr_and_remote_irr_clear, "An edge-triggered interrupt sets neither TMR nor remote IRR.";
    edges_while_pending_are_one_interrupt, "Two edges before the vector is taken are one interrupt.";
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
    logical_destination_is_delivered, "An entry with logical destination fits LDR.";
    lowest_priority_is_delivered, "An entry with lowest priority is delivered.";
    foreign_destination_is_not_delivered, "An entry to an id nobody has is not delivered here.";
    nmi_entry_sends_nmi, "Delivery mode NMI sends an NMI whatever the vector.";
    new_vector_is_used, "An entry's vector can be changed between two edges.";
    two_pins_by_priority, "Of two pins pending the higher vector is taken first.";
    timer_comes_by_pin_2, "The PIT's IRQ 0 is at pin 2 (MADT override).";
    timer_does_not_come_by_pin_0, "Pin 0 does not see the PIT.";
    window_reads_as_the_selected_register, "The window at 10h reads what IOREGSEL says.";
    absent_register_of_the_page_is_harmless, "Offsets without a register take writes without effect.";
    every_test_line_delivers_an_edge, "With pc-testdev: an edge on each ISA pin is delivered.";
    test_line_level_is_seen_at_its_pin, "With pc-testdev: a level on pins 5 and 10 is delivered until it ends.";
}

fn edge(context: &Context) -> u64 {
    to(context.me, VECTOR)
}

fn level(context: &Context) -> u64 {
    to(context.me, VECTOR) | LEVEL
}

fn version_says_24_pins(_: &mut Context) -> Outcome {
    let version = read(VERSION);
    equal("last pin", version >> 16 & 0xFF, u32::from(PINS) - 1)?;
    holds("version 11h or 20h", matches!(version & 0xFF, 0x11 | 0x20))
}

fn id_keeps_four_bits(_: &mut Context) -> Outcome {
    let before = read(ID);
    write(ID, u32::MAX);
    let ones = read(ID);
    write(ID, before);
    equal("ID after ones", ones, 0x0F00_0000_u32)?;
    equal("ID", read(ID), before)
}

fn arbitration_id_is_not_writable(_: &mut Context) -> Outcome {
    let before = read(ARBITRATION);
    write(ARBITRATION, !before);
    equal("arbitration", read(ARBITRATION), before)
}

fn select_reads_back(_: &mut Context) -> Outcome {
    write32(SELECT, 0x12);
    equal("IOREGSEL", read32(SELECT) & 0xFF, 0x12_u32)
}

fn select_takes_a_byte(_: &mut Context) -> Outcome {
    write32(SELECT, 0x10);
    write8(SELECT, 1);
    equal("IOREGSEL", read8(SELECT), 1_u8)?;
    equal("version", read32(WINDOW) >> 16 & 0xFF, u32::from(PINS) - 1)
}

fn every_pin_keeps_its_entry(_: &mut Context) -> Outcome {
    let value = |pin: u8| to(0xF0 ^ pin, 0x40 + pin) | MASKED | LOGICAL | LOWEST;
    for pin in 0..PINS {
        set_entry(pin, value(pin));
    }
    for pin in 0..PINS {
        equal("entry", entry(pin), value(pin))?;
    }
    set_entry(PIN, to(0, 0x41) | MASKED | LEVEL | ioapic::ACTIVE_LOW);
    equal("level and polarity", entry(PIN), to(0, 0x41) | MASKED | LEVEL | ioapic::ACTIVE_LOW)
}

fn status_bits_ignore_writes(_: &mut Context) -> Outcome {
    set_entry(PIN, to(0, 0x41) | MASKED | LEVEL | PENDING | REMOTE_IRR);
    equal("entry", entry(PIN), to(0, 0x41) | MASKED | LEVEL)
}

fn entry_above_the_last_pin_does_nothing(_: &mut Context) -> Outcome {
    let before = entry(PINS - 1);
    write(0x40, 0x1_0055);
    write(0xFF, 0x1_0055);
    equal("last entry", entry(PINS - 1), before)?;
    equal("last pin", read(VERSION) >> 16 & 0xFF, u32::from(PINS) - 1)
}

fn edge_is_delivered(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context));
    pulse_line();
    open();
    taken("vector", &[VECTOR])
}

fn each_edge_is_delivered_once(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context));
    raise_line();
    open();
    open();
    lower_line();
    open();
    taken("vector after the first edge", &[VECTOR])?;
    pulse_line();
    open();
    taken("vector", &[VECTOR, VECTOR])
}

fn edge_on_a_masked_pin_is_lost(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context) | MASKED);
    pulse_line();
    set_entry(PIN, edge(context));
    open();
    taken("vector", &[])
}

fn edge_leaves_tmr_and_remote_irr_clear(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context));
    raise_line();
    let during = entry(PIN);
    let trigger = bit(TMR, VECTOR);
    lower_line();
    open();
    equal("remote IRR", during & REMOTE_IRR, 0_u64)?;
    equal("TMR", trigger, false)?;
    taken("vector", &[VECTOR])
}

fn edges_while_pending_are_one_interrupt(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context));
    pulse_line();
    pulse_line();
    open();
    open();
    taken("vector", &[VECTOR])
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
    equal("remote IRR after the other EOI", noted(1) & REMOTE_IRR, REMOTE_IRR)?;
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
    needs("the version has no EOI register", read(VERSION) & 0xFF >= 0x20)
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
    equal("remote IRR after another vector", other & REMOTE_IRR, REMOTE_IRR)?;
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

fn logical_destination_is_delivered(_: &mut Context) -> Outcome {
    apic::write(LDR, 0x40 << 24);
    set_entry(PIN, to(0xC0, VECTOR) | LOGICAL);
    pulse_line();
    open();
    taken("vector", &[VECTOR])
}

fn lowest_priority_is_delivered(_: &mut Context) -> Outcome {
    apic::write(LDR, 0x40 << 24);
    set_entry(PIN, to(0x40, VECTOR) | LOGICAL | LOWEST);
    pulse_line();
    open();
    taken("vector", &[VECTOR])
}

fn foreign_destination_is_not_delivered(_: &mut Context) -> Outcome {
    set_entry(PIN, to(0xE7, VECTOR));
    pulse_line();
    open();
    taken("vector", &[])
}

fn nmi_entry_sends_nmi(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context) | NMI);
    pulse_line();
    open();
    taken("vector", &[trap::NMI])
}

fn new_vector_is_used(context: &mut Context) -> Outcome {
    set_entry(PIN, edge(context));
    pulse_line();
    open();
    set_entry(PIN, to(context.me, 0x71));
    pulse_line();
    open();
    taken("vector", &[VECTOR, 0x71])
}

fn two_pins_by_priority(context: &mut Context) -> Outcome {
    set_entry(PIN, to(context.me, 0x51));
    set_entry(2, to(context.me, 0x81));
    pulse_line();
    pit::program(0, 0, 100);
    holds("both pending", crate::machine::time::until(2_000_000, || bit(IRR, 0x81)))?;
    open();
    open();
    taken("vector", &[0x81, 0x51])
}

fn timer_comes_by_pin_2(context: &mut Context) -> Outcome {
    set_entry(2, edge(context));
    pit::program(0, 0, 1_000);
    until_interrupted(2_000_000, || cpu::current().taken() > 0);
    taken("vector", &[VECTOR])
}

fn timer_does_not_come_by_pin_0(context: &mut Context) -> Outcome {
    set_entry(0, edge(context));
    pit::program(0, 2, 1_000);
    crate::machine::time::wait_interrupted(5_000);
    taken("vector", &[])
}

fn window_reads_as_the_selected_register(_: &mut Context) -> Outcome {
    set_entry(3, to(0x12, 0x77) | MASKED);
    write32(SELECT, 0x16);
    let low = read32(WINDOW);
    write32(SELECT, 0x17);
    let high = read32(WINDOW);
    equal("low half", low, 0x1_0077_u32)?;
    equal("high half", high, 0x1200_0000_u32)
}

fn absent_register_of_the_page_is_harmless(_: &mut Context) -> Outcome {
    write32(SELECT, 0x10);
    let before = read32(WINDOW);
    for offset in [0x04, 0x20, 0x30, 0x100, 0x800] {
        trap::catch(|| {
            write32(ioapic::BASE + offset, 0x1_0099);
            read32(ioapic::BASE + offset)
        })?;
    }
    write32(SELECT, 0x10);
    equal("entry 0", read32(WINDOW), before)
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
