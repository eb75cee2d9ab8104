//! The clock, its memory and its interrupts (MC146818 data sheet; ICH9 data sheet, 13.6).

use super::{Context, Outcome, equal, holds, taken, tests, within};
use crate::machine::processor::rdtsc;
use crate::machine::rtc::{A, ALARM, B, C, D, IRQ, PERIODIC, QUIET, SET, UPDATE, read, write};
use crate::machine::time::{cycles, until, until_interrupted, wait, wait_interrupted};
use crate::machine::trap::{self, Frame};
use crate::machine::{cpu, ioapic};

const VECTOR: u8 = 0x71;
const PATIENCE_US: u64 = 5_000_000;
const INTERRUPT: u8 = 0x80;
const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;

tests! {
    time_is_valid_bcd, "Seconds, minutes, hours, day, month and year are decimal and in range.";
    register_d_says_valid, "Register D has bit 7 set and is read-only.";
    register_a_keeps_rate_and_divider, "Register A keeps bits 6:0; bit 7 is read-only.";
    register_b_reads_back, "Register B reads back.";
    memory_reads_back, "A byte of the clock's memory reads back.";
    index_ignores_the_nmi_bit, "Bit 7 of the index is no part of it.";
    periodic_interrupt_comes, "The periodic interrupt comes by IRQ 8.";
    periodic_flag_is_set_without_interrupt, "The periodic flag is set with the interrupt disabled.",
        known_qemu: "no periods while PIE is clear";
    reading_c_clears_it, "A read of register C clears it.";
    no_further_interrupt_until_c_is_read, "Without a read of C the line stays up: one edge, one interrupt.",
        known_qemu: "the IOAPIC takes each raise of a high line for an edge";
    periodic_comes_again_after_reading_c, "After each read of C the next period interrupts again.";
    periodic_rate_is_as_selected, "Rate 6 is 1024 a second.";
    disabled_periodic_does_not_interrupt, "With PIE clear nothing comes.";
    update_interrupt_comes_each_second, "The update-ended interrupt comes once a second.";
    alarm_with_wildcards_comes_each_second, "An alarm of wildcards fits each second.";
    alarm_of_another_second_does_not_come, "An alarm half a minute away does not come now.";
    set_stops_the_update, "With SET the time stands; writing it is what the clock goes on from.";
    seconds_go_on, "Seconds go on by one in a second.";
}

fn decimal(value: u8) -> u64 {
    u64::from(value >> 4) * 10 + u64::from(value & 0xF)
}

fn time_is_valid_bcd(_: &mut Context) -> Outcome {
    let bounds = [
        (SECONDS, 0, 59),
        (MINUTES, 0, 59),
        (HOURS, 0, 23),
        (7, 1, 31),
        (8, 1, 12),
        (9, 0, 99),
    ];
    // The time must not change between the reads of one register only, so no care is needed but for the update itself.
    until(PATIENCE_US, || read(A) & 0x80 == 0);
    for (register, low, high) in bounds {
        let value = read(register);
        within("low digit", u64::from(value & 0xF), 0, 9)?;
        within("register", decimal(value), low, high)?;
    }
    Ok(())
}

fn register_d_says_valid(_: &mut Context) -> Outcome {
    write(D, 0);
    equal("register D", read(D), 0x80_u8)
}

fn register_a_keeps_rate_and_divider(_: &mut Context) -> Outcome {
    write(A, 0xAF);
    let seen = read(A) & 0x7F;
    write(A, 0x26);
    equal("register A after AFh", seen, 0x2F_u8)?;
    equal("register A", read(A) & 0x7F, 0x26_u8)
}

fn register_b_reads_back(_: &mut Context) -> Outcome {
    write(B, SET | QUIET);
    let set = read(B);
    write(B, QUIET);
    equal("register B with SET", set, SET | QUIET)?;
    equal("register B", read(B), QUIET)
}

fn memory_reads_back(_: &mut Context) -> Outcome {
    let before = read(0x50);
    write(0x50, 0xA5);
    let first = read(0x50);
    write(0x50, 0x5A);
    let second = read(0x50);
    write(0x50, before);
    equal("A5h", first, 0xA5_u8)?;
    equal("5Ah", second, 0x5A_u8)
}

fn index_ignores_the_nmi_bit(_: &mut Context) -> Outcome {
    let before = read(0x50);
    write(0xD0, 0x3C);
    let seen = read(0x50);
    write(0x50, before);
    equal("byte written by index D0h", seen, 0x3C_u8)
}

/// Opens IRQ 8 by the IOAPIC.
fn wire(context: &Context) {
    ioapic::set_entry(IRQ, ioapic::to(context.me, VECTOR));
    read(C);
}

fn arrives(count: u32) -> bool {
    until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) >= count)
}

/// Ends the interrupt after reading register C.
fn served(frame: &mut Frame) {
    super::note(0, read(C));
    trap::record_and_end(frame);
}

fn periodic_interrupt_comes(context: &mut Context) -> Outcome {
    wire(context);
    write(B, QUIET | PERIODIC);
    holds("it comes", arrives(1))?;
    let flags = read(C);
    equal(
        "IRQF and PF",
        flags & (INTERRUPT | PERIODIC),
        INTERRUPT | PERIODIC,
    )
}

fn periodic_flag_is_set_without_interrupt(context: &mut Context) -> Outcome {
    wire(context);
    let set = until(PATIENCE_US, || read(C) & PERIODIC != 0);
    holds("PF", set)?;
    taken("vector", &[])
}

fn reading_c_clears_it(context: &mut Context) -> Outcome {
    wire(context);
    // The slowest rate, so that the next period is not there yet.
    write(A, 0x2F);
    write(B, QUIET | PERIODIC);
    holds("it comes", arrives(1))?;
    let first = read(C);
    let second = read(C);
    write(B, QUIET);
    holds("flags the first time", first & PERIODIC != 0)?;
    equal(
        "flags the second time",
        second & (INTERRUPT | PERIODIC),
        0_u8,
    )
}

fn no_further_interrupt_until_c_is_read(context: &mut Context) -> Outcome {
    wire(context);
    write(A, 0x23);
    write(B, QUIET | PERIODIC);
    holds("it comes", arrives(1))?;
    wait_interrupted(5_000);
    taken("vector", &[VECTOR])
}

fn periodic_comes_again_after_reading_c(context: &mut Context) -> Outcome {
    wire(context);
    trap::hook(VECTOR, served);
    write(A, 0x24);
    write(B, QUIET | PERIODIC);
    let came = arrives(5);
    write(B, QUIET);
    holds("five times", came)
}

fn periodic_rate_is_as_selected(context: &mut Context) -> Outcome {
    wire(context);
    trap::hook(VECTOR, served);
    write(A, 0x26);
    write(B, QUIET | PERIODIC);
    let start = rdtsc();
    let came = arrives(20);
    let passed = rdtsc() - start;
    write(B, QUIET);
    holds("twenty times", came)?;
    // A period may be missed on a busy host, none may be too many: 19 whole ones at least.
    holds("not faster than 1024 a second", passed >= cycles(18_000))
}

fn disabled_periodic_does_not_interrupt(context: &mut Context) -> Outcome {
    wire(context);
    wait_interrupted(3_000);
    taken("vector", &[])
}

fn update_interrupt_comes_each_second(context: &mut Context) -> Outcome {
    wire(context);
    trap::hook(VECTOR, served);
    write(B, QUIET | UPDATE);
    let first = arrives(1);
    let flags = super::noted(0) as u8;
    write(B, QUIET);
    holds("it comes", first)?;
    equal(
        "IRQF and UF",
        flags & (INTERRUPT | UPDATE),
        INTERRUPT | UPDATE,
    )
}

fn set_alarm(seconds: u8) {
    write(SECONDS_ALARM, seconds);
    write(3, 0xC0);
    write(5, 0xC0);
}

fn alarm_with_wildcards_comes_each_second(context: &mut Context) -> Outcome {
    wire(context);
    trap::hook(VECTOR, served);
    set_alarm(0xC0);
    write(B, QUIET | ALARM);
    let came = arrives(1);
    let flags = super::noted(0) as u8;
    write(B, QUIET);
    holds("it comes", came)?;
    equal(
        "IRQF and AF",
        flags & (INTERRUPT | ALARM),
        INTERRUPT | ALARM,
    )
}

fn alarm_of_another_second_does_not_come(context: &mut Context) -> Outcome {
    wire(context);
    trap::hook(VECTOR, served);
    let away = (decimal(read(SECONDS)) + 30) % 60;
    set_alarm(u8::try_from(away / 10 * 16 + away % 10).unwrap_or(0));
    write(B, QUIET | ALARM);
    wait_interrupted(100_000);
    write(B, QUIET);
    taken("vector", &[])
}

fn set_stops_the_update(_: &mut Context) -> Outcome {
    write(B, SET | QUIET);
    let before = read(SECONDS);
    write(SECONDS, 0x21);
    wait(1_100_000);
    let after = read(SECONDS);
    write(SECONDS, before);
    write(B, QUIET);
    equal("seconds with SET", after, 0x21_u8)
}

fn seconds_go_on(_: &mut Context) -> Outcome {
    let first = read(SECONDS);
    holds("they change", until(PATIENCE_US, || read(SECONDS) != first))?;
    until(PATIENCE_US, || read(A) & 0x80 == 0);
    let second = read(SECONDS);
    within(
        "seconds",
        (decimal(second) + 60 - decimal(first)) % 60,
        1,
        2,
    )
}
