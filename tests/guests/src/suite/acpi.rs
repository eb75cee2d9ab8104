//! ACPI fixed hardware: the timer, PM1 events and the SCI (ACPI 6.5, 4.8; ICH9 data sheet, 13.8).

use super::{Context, Outcome, Stop, equal, holds, taken, tests, within};
use crate::machine::acpi::{PM1_CONTROL, PM1_ENABLE, PM1_STATUS, TIMER, timer};
use crate::machine::port::{inb, inw, outb, outl, outw};
use crate::machine::processor::rdtsc;
use crate::machine::time::{until, until_interrupted, wait, wait_interrupted};
use crate::machine::{cpu, ioapic, pit, trap};

const SCI: u8 = 9;
const VECTOR: u8 = 0x91;
/// The FADT's SMI_CMD and ACPI_ENABLE on a Q35.
const SMI_COMMAND: u16 = 0xB2;
const ACPI_ENABLE: u8 = 2;
const PATIENCE_US: u64 = 100_000;
const TIMER_STATUS: u16 = 1;
const POWER_BUTTON: u16 = 1 << 8;

tests! {
    timer_runs, "The ACPI timer runs.";
    timer_is_as_fast_as_the_pit_says, "3579545 counts are a second by the 8254.";
    timer_ignores_writes, "The timer is read-only.";
    timer_does_not_go_back, "Of two reads the second is not lower, but for its wrap.";
    timer_reads_by_bytes, "The timer's low byte is read by one byte.";
    acpi_mode_can_be_entered, "SCI_EN is set, or becomes so by ACPI_ENABLE, 2 to port B2h.";
    enable_register_reads_back, "PM1 enable keeps timer, global lock, power button and RTC.";
    status_clears_by_ones, "Writing ones clears PM1 status, writing zeros does not set it.";
    power_button_is_not_pressed, "No power button event is pending.";
    timer_overflow_raises_the_sci, "The timer's top bit changing sets TMR_STS and, enabled, raises the SCI by pin 9.";
    disabled_event_raises_no_sci, "With PM1 enable clear nothing comes by pin 9.";
    sleep_type_without_enable_is_kept, "SLP_TYP reads back and without SLP_EN nothing happens.";
}

fn timer_runs(_: &mut Context) -> Outcome {
    let first = timer();
    wait(100);
    holds("it changes", timer() != first)
}

fn timer_is_as_fast_as_the_pit_says(_: &mut Context) -> Outcome {
    let mut outcome = Ok(());
    for _ in 0..5 {
        pit::close_gate();
        pit::program(2, 0, 0);
        pit::open_gate();
        pit::wait_loaded(2);
        let (first, first_count) = (timer(), pit::count(2));
        wait(10_000);
        let (last_count, last) = (pit::count(2), timer());
        let passed = u64::from(first_count.wrapping_sub(last_count)) * 3;
        outcome = within(
            "counts",
            u64::from(last.wrapping_sub(first) & 0xFF_FFFF),
            passed * 9 / 10,
            passed * 11 / 10,
        );
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn timer_ignores_writes(_: &mut Context) -> Outcome {
    let first = timer();
    outl(TIMER, first.wrapping_add(0x80_0000));
    let moved = timer().wrapping_sub(first) & 0xFF_FFFF;
    within("counts since", u64::from(moved), 0, 0x40_0000)
}

fn timer_does_not_go_back(_: &mut Context) -> Outcome {
    let mut last = timer();
    for _ in 0..200 {
        let now = timer();
        within(
            "step",
            u64::from(now.wrapping_sub(last) & 0xFF_FFFF),
            0,
            0x7F_FFFF,
        )?;
        last = now;
    }
    Ok(())
}

fn timer_reads_by_bytes(_: &mut Context) -> Outcome {
    let mut seen = 0;
    let mut others = 0;
    for _ in 0..16 {
        seen |= inb(TIMER);
        others |= !inb(TIMER);
        wait(10);
    }
    holds("bits are seen set", seen != 0)?;
    holds("bits are seen clear", others != 0)
}

fn acpi_mode_can_be_entered(_: &mut Context) -> Outcome {
    if inw(PM1_CONTROL) & 1 == 0 {
        outb(SMI_COMMAND, ACPI_ENABLE);
        until(PATIENCE_US, || inw(PM1_CONTROL) & 1 != 0);
    }
    equal("SCI_EN", inw(PM1_CONTROL) & 1, 1_u16)
}

fn enable_register_reads_back(_: &mut Context) -> Outcome {
    outw(PM1_ENABLE, 0x0521);
    let seen = inw(PM1_ENABLE);
    outw(PM1_ENABLE, 0);
    equal("PM1 enable", seen & 0x0521, 0x0521_u16)?;
    equal("PM1 enable after 0", inw(PM1_ENABLE) & 0x0521, 0_u16)
}

fn status_clears_by_ones(_: &mut Context) -> Outcome {
    outw(PM1_STATUS, 0xFFFF);
    let cleared = inw(PM1_STATUS);
    outw(PM1_STATUS, 0);
    equal("status after ones", cleared & 0x0520, 0_u16)?;
    equal("status after zeros", inw(PM1_STATUS) & 0x0520, 0_u16)
}

fn power_button_is_not_pressed(_: &mut Context) -> Outcome {
    equal("PWRBTN_STS", inw(PM1_STATUS) & POWER_BUTTON, 0_u16)
}

/// Whether the timer has 32 bits and so overflows after minutes only.
fn overflow_wait() -> Result<u64, Stop> {
    // Bit 23 changes every 2.34 s; a longer counter shows bits above it once it has counted for 4.7 s.
    if until(4_900_000, || timer() >> 24 != 0) {
        return Err(Stop::Skip(
            "the timer has 32 bits and overflows after ten minutes",
        ));
    }
    Ok(2_800_000)
}

fn timer_overflow_raises_the_sci(context: &mut Context) -> Outcome {
    let patience = overflow_wait()?;
    acpi_mode_can_be_entered(context)?;
    ioapic::set_entry(SCI, ioapic::to(context.me, VECTOR) | ioapic::LEVEL);
    trap::hook(VECTOR, |frame| {
        super::note(0, inw(PM1_STATUS));
        outw(PM1_STATUS, TIMER_STATUS);
        trap::record_and_end(frame);
    });
    outw(PM1_STATUS, TIMER_STATUS);
    outw(PM1_ENABLE, TIMER_STATUS);
    let start = (rdtsc(), timer());
    let came = until_interrupted(patience, || cpu::current().taken() > 0);
    outw(PM1_ENABLE, 0);
    if !came && (timer() ^ start.1) >> 24 != 0 {
        return Err(Stop::Skip(
            "the timer has 32 bits and overflows after ten minutes",
        ));
    }
    holds("time went on", rdtsc() > start.0)?;
    holds("the SCI comes", came)?;
    equal("TMR_STS in the handler", super::noted(0) & 1, 1_u64)?;
    wait_interrupted(1_000);
    taken("vector", &[VECTOR])
}

fn disabled_event_raises_no_sci(context: &mut Context) -> Outcome {
    ioapic::set_entry(SCI, ioapic::to(context.me, VECTOR) | ioapic::LEVEL);
    wait_interrupted(1_000);
    taken("vector", &[])
}

fn sleep_type_without_enable_is_kept(_: &mut Context) -> Outcome {
    let before = inw(PM1_CONTROL);
    outw(PM1_CONTROL, before & !0x1C00 | 3 << 10);
    let seen = inw(PM1_CONTROL);
    outw(PM1_CONTROL, before);
    equal("SLP_TYP", seen >> 10 & 7, 3_u16)?;
    equal("PM1 control", inw(PM1_CONTROL), before)
}
