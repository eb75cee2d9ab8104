//! The IOAPIC (82093AA data sheet; ICH9 data sheet, 13.5). COM1's transmit interrupt is the wire to pin 4.

use super::{Context, Outcome, equal, holds, taken, tests};
use crate::machine::apic::{self, IRR, LDR, TMR, bit};
use crate::machine::ioapic::{
    self, ARBITRATION, ID, LEVEL, LOGICAL, MASKED, PENDING, PINS, REMOTE_IRR, SELECT, VERSION,
    WINDOW, entry, read, set_entry, to, write,
};
use crate::machine::memory::{read8, read32, write8, write32};
use crate::machine::processor::open;
use crate::machine::time::until_interrupted;
use crate::machine::trap::{self};
use crate::machine::uart::{lower_line, pulse_line, raise_line};
use crate::machine::{cpu, pit, uart};

pub(super) const PIN: u8 = uart::IRQ;
pub(super) const VECTOR: u8 = 0x61;
/// Delivery mode NMI.
const NMI: u64 = 4 << 8;
const LOWEST: u64 = 1 << 8;

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
}

pub(super) fn edge(context: &Context) -> u64 {
    to(context.me, VECTOR)
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
    equal(
        "level and polarity",
        entry(PIN),
        to(0, 0x41) | MASKED | LEVEL | ioapic::ACTIVE_LOW,
    )
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
    holds(
        "both pending",
        crate::machine::time::until(2_000_000, || bit(IRR, 0x81)),
    )?;
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
