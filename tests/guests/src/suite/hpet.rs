//! The HPET (IA-PC HPET specification 1.0a), where there is one.

use super::{Context, Outcome, equal, holds, needs, taken, tests, within};
use crate::machine::memory::{read32, read64, write32, write64};
use crate::machine::processor::rdtsc;
use crate::machine::time::{tsc_hz, until, until_interrupted, wait, wait_interrupted};
use crate::machine::trap;
use crate::machine::{cpu, ioapic};

const BASE: u64 = 0xFED0_0000;
const CONFIGURATION: u64 = BASE + 0x10;
const STATUS: u64 = BASE + 0x20;
const COUNTER: u64 = BASE + 0xF0;
const ENABLE: u64 = 1;
const LEGACY: u64 = 2;
const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const VECTOR: u8 = 0x81;
const PATIENCE_US: u64 = 2_000_000;

tests! {
    period_is_legal, "The period is 1 to 100000000 fs and there are three timers at least.";
    counter_runs_when_enabled, "The counter runs at the period it says.";
    counter_stands_when_disabled, "The counter stands while disabled and can be written.";
    counter_reads_by_halves, "The counter reads by two double words too.";
    reserved_configuration_bits_read_zero, "Configuration has bits 1:0 only.";
    one_shot_fires_once, "A one-shot comparator interrupts once, by its IOAPIC pin.";
    periodic_fires_again_and_again, "A periodic comparator goes on by its period.";
    level_status_holds_the_line, "A level comparator holds its line until its status bit is written.";
    legacy_replacement_takes_irq_0, "With legacy replacement timer 0 is at pin 2.";
    disabled_interrupt_does_not_come, "A comparator with its interrupt disabled raises nothing.";
}

fn there() -> Outcome {
    let capabilities = read64(BASE);
    let period = capabilities >> 32;
    needs("no HPET", capabilities != u64::MAX && period != 0)?;
    write64(CONFIGURATION, 0);
    write64(COUNTER, 0);
    for timer in 0..3 {
        write64(configuration(timer), 0);
    }
    write64(STATUS, 7);
    Ok(())
}

fn configuration(timer: u64) -> u64 {
    BASE + 0x100 + timer * 0x20
}

fn comparator(timer: u64) -> u64 {
    configuration(timer) + 8
}

/// Returns counts of some microseconds.
fn counts(us: u64) -> u64 {
    us * 1_000_000_000 / (read64(BASE) >> 32)
}

/// Finds a pin from 16 on that timer 0 can reach.
fn pin() -> Result<u8, super::Stop> {
    let routes = read64(configuration(0)) >> 32;
    let free = (16..24).find(|pin| routes >> pin & 1 != 0);
    free.ok_or(super::Stop::Skip("timer 0 has no pin from 16 on"))
}

fn period_is_legal(_: &mut Context) -> Outcome {
    there()?;
    let capabilities = read64(BASE);
    within("period", capabilities >> 32, 1, 100_000_000)?;
    within("last timer", capabilities >> 8 & 0x1F, 2, 31)
}

fn counter_runs_when_enabled(_: &mut Context) -> Outcome {
    there()?;
    let period = read64(BASE) >> 32;
    write64(CONFIGURATION, ENABLE);
    let mut outcome = Ok(());
    for _ in 0..5 {
        let (first, start) = (read64(COUNTER), rdtsc());
        wait(5_000);
        let (last, end) = (read64(COUNTER), rdtsc());
        let ns = (last - first) * period / 1_000_000;
        let passed = (u128::from(end - start) * 1_000_000_000 / u128::from(tsc_hz())) as u64;
        outcome = within("nanoseconds", ns, passed * 9 / 10, passed * 11 / 10);
        if outcome.is_ok() {
            break;
        }
    }
    write64(CONFIGURATION, 0);
    outcome
}

fn counter_stands_when_disabled(_: &mut Context) -> Outcome {
    there()?;
    write64(COUNTER, 0x1234_5678_9ABC);
    let first = read64(COUNTER);
    wait(100);
    equal("counter", first, 0x1234_5678_9ABC_u64)?;
    equal("counter later", read64(COUNTER), first)
}

fn counter_reads_by_halves(_: &mut Context) -> Outcome {
    there()?;
    write64(COUNTER, 0x1234_5678_9ABC_DEF0);
    equal("low half", read32(COUNTER), 0x9ABC_DEF0_u32)?;
    equal("high half", read32(COUNTER + 4), 0x1234_5678_u32)?;
    write32(COUNTER, 0x1111_1111);
    equal(
        "after a write of the low half",
        read64(COUNTER),
        0x1234_5678_1111_1111_u64,
    )
}

fn reserved_configuration_bits_read_zero(_: &mut Context) -> Outcome {
    there()?;
    write64(CONFIGURATION, !ENABLE & !LEGACY);
    equal("configuration", read64(CONFIGURATION), 0_u64)
}

/// Arms timer 0 on a pin, `us` from now.
fn arm(context: &Context, flags: u64, us: u64) -> Result<u8, super::Stop> {
    there()?;
    let pin = pin()?;
    let entry = ioapic::to(context.me, VECTOR);
    ioapic::set_entry(
        pin,
        if flags & LEVEL == 0 {
            entry
        } else {
            entry | ioapic::LEVEL
        },
    );
    write64(configuration(0), u64::from(pin) << 9 | flags);
    write64(comparator(0), counts(us));
    if flags & PERIODIC != 0 {
        write64(configuration(0), u64::from(pin) << 9 | flags | SET_VALUE);
        write64(comparator(0), counts(us));
        write64(comparator(0), counts(us));
    }
    write64(CONFIGURATION, ENABLE);
    Ok(pin)
}

fn stop() {
    write64(configuration(0), 0);
    write64(CONFIGURATION, 0);
    write64(STATUS, 1);
}

fn one_shot_fires_once(context: &mut Context) -> Outcome {
    arm(context, INTERRUPT, 1_000)?;
    let came = until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    wait_interrupted(2_000);
    stop();
    holds("it comes", came)?;
    taken("vector", &[VECTOR])
}

fn periodic_fires_again_and_again(context: &mut Context) -> Outcome {
    arm(context, INTERRUPT | PERIODIC, 500)?;
    let came = until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) >= 4);
    stop();
    holds("four times", came)
}

fn level_status_holds_the_line(context: &mut Context) -> Outcome {
    trap::hook(VECTOR, |frame| {
        super::note(0, read64(STATUS) & 1);
        if cpu::current().taken() > 0 {
            write64(STATUS, 1);
        }
        trap::record_and_end(frame);
    });
    arm(context, INTERRUPT | LEVEL, 500)?;
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 1);
    wait_interrupted(500);
    let left = read64(STATUS) & 1;
    stop();
    taken("vector", &[VECTOR, VECTOR])?;
    equal("status in the handler", super::noted(0), 1_u64)?;
    equal("status after it was written", left, 0_u64)
}

fn legacy_replacement_takes_irq_0(context: &mut Context) -> Outcome {
    there()?;
    needs("no legacy replacement", read64(BASE) >> 15 & 1 != 0)?;
    ioapic::set_entry(2, ioapic::to(context.me, VECTOR));
    write64(configuration(0), INTERRUPT);
    write64(comparator(0), counts(500));
    write64(CONFIGURATION, ENABLE | LEGACY);
    until_interrupted(PATIENCE_US, || cpu::current().taken() > 0);
    stop();
    taken("vector", &[VECTOR])
}

fn disabled_interrupt_does_not_come(context: &mut Context) -> Outcome {
    arm(context, 0, 200)?;
    until(PATIENCE_US, || read64(COUNTER) > counts(400));
    wait_interrupted(500);
    stop();
    taken("vector", &[])
}
