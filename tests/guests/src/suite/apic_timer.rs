//! The local APIC's timer (SDM 11.5.4, APM vol. 2, 16.4.1).

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Context, Outcome, Stop, equal, holds, needs, refuses, taken, tests, within};
use crate::machine::apic::{
    DIVIDE_1, IRR, LVT_TIMER, MASKED, PERIODIC, SVR, TIMER_CURRENT, TIMER_DIVIDE, TIMER_INITIAL,
    TSC_DEADLINE, TSC_DEADLINE_MSR, bit, read, start_timer, write,
};
use crate::machine::cpu;
use crate::machine::processor::{halt, has_feature_ecx, open, rdmsr, rdtsc, wrmsr};
use crate::machine::time::{cycles, tsc_hz, until, until_interrupted, wait, wait_interrupted};

const VECTOR: u8 = 0x41;
const UNMASKED: u32 = VECTOR as u32;
/// How long something that must come may take on a busy host.
const PATIENCE_US: u64 = 2_000_000;

tests! {
    one_shot_fires_once, "A one-shot count raises its vector exactly once.";
    one_shot_is_not_early, "A one-shot count never ends before its time.";
    periodic_fires_again_and_again, "A periodic count raises its vector each time it gets to zero.";
    periodic_never_fires_too_often, "In n periods a periodic timer fires at most n + 1 times.";
    current_count_falls, "TMCCT counts down from TMICT.";
    current_count_is_zero_after_one_shot, "TMCCT is 0 once a one-shot count has ended.";
    current_count_reloads_when_periodic, "TMCCT goes on from TMICT after a periodic count has ended.";
    current_count_ignores_writes, "TMCCT is read-only.";
    initial_count_reads_back, "TMICT reads back.";
    zero_initial_count_stops, "Writing 0 to TMICT stops a periodic timer.";
    writing_the_initial_count_restarts, "Writing TMICT restarts the count.";
    masked_timer_counts_but_does_not_fire, "A masked timer counts and raises nothing.";
    unmasking_after_the_end_does_not_fire, "What ended while masked is not made up for.";
    new_vector_is_used, "The vector that stands in the LVT when the count ends is raised.";
    missed_periods_are_one_interrupt, "Periods that end while the vector is pending are one interrupt.";
    timer_wakes_from_halt, "A timer interrupt ends HLT.";
    software_disabled_timer_does_not_fire, "A software-disabled APIC's timer raises nothing.",
        known_qemu: "SVR leaves the LVT alone";
    divide_register_keeps_three_bits, "TDCR has bits 0, 1 and 3.";
    divide_by_1 = divide::<0b1011, 1>, "TDCR 1011b divides by 1.";
    divide_by_2 = divide::<0b0000, 2>, "TDCR 0000b divides by 2.";
    divide_by_4 = divide::<0b0001, 4>, "TDCR 0001b divides by 4.";
    divide_by_8 = divide::<0b0010, 8>, "TDCR 0010b divides by 8.";
    divide_by_16 = divide::<0b0011, 16>, "TDCR 0011b divides by 16.";
    divide_by_32 = divide::<0b1000, 32>, "TDCR 1000b divides by 32.";
    divide_by_64 = divide::<0b1001, 64>, "TDCR 1001b divides by 64.";
    divide_by_128 = divide::<0b1010, 128>, "TDCR 1010b divides by 128.";
    tsc_deadline_fires, "A TSC deadline raises the vector when the TSC gets there, not before.";
    tsc_deadline_in_the_past_fires_at_once, "A TSC deadline in the past fires at once.";
    tsc_deadline_zero_disarms, "Writing 0 to the deadline disarms it.";
    tsc_deadline_reads_back_while_armed, "The deadline reads back while armed.";
    tsc_deadline_reads_zero_when_fired, "The deadline reads 0 once it fired.";
    tsc_deadline_mode_ignores_the_initial_count, "In TSC-deadline mode TMICT is ignored and TMCCT is 0.";
    tsc_deadline_is_ignored_in_other_modes, "In one-shot mode a write of the deadline is ignored and it reads 0.";
    leaving_tsc_deadline_mode_disarms, "Switching to one-shot mode disarms the deadline.";
    tsc_deadline_can_be_rearmed_in_its_handler, "Each write of the deadline is one interrupt.";
    tsc_deadline_without_cpuid_bit_faults, "Without CPUID 1 ECX[24] the deadline is #GP.",
        known_qemu: "unknown MSRs read 0 and ignore writes";
}

/// Returns timer ticks, at divisor 1, of some microseconds.
fn ticks(us: u64) -> Result<u32, Stop> {
    static HZ: AtomicU64 = AtomicU64::new(0);
    if HZ.load(Ordering::Relaxed) == 0 {
        HZ.store(rate(DIVIDE_1), Ordering::Relaxed);
    }
    let hz = HZ.load(Ordering::Relaxed);
    holds("the timer counts", hz != 0)?;
    Ok((us * hz / 1_000_000) as u32)
}

/// Returns how often TMCCT counts a second.
fn rate(divide: u32) -> u64 {
    start_timer(MASKED | UNMASKED, divide, u32::MAX);
    // The longest pause between reading the two clocks spoils it; so the shortest of several is taken.
    let sample = || {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..8 {
            let before = rdtsc();
            let count = read(TIMER_CURRENT);
            let pause = rdtsc() - before;
            if pause < best.0 {
                best = (pause, before + pause / 2, count);
            }
        }
        best
    };
    let (_, from, first) = sample();
    wait(3_000);
    let (_, to, last) = sample();
    write(TIMER_INITIAL, 0);
    let counted = u128::from(first.saturating_sub(last));
    (counted * u128::from(tsc_hz()) / u128::from(to - from)) as u64
}

fn fires() -> bool {
    until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) > 0)
}

fn one_shot_fires_once(_: &mut Context) -> Outcome {
    let count = ticks(500)?;
    start_timer(UNMASKED, DIVIDE_1, count);
    holds("it fires", fires())?;
    wait_interrupted(3_000);
    taken("vector", &[VECTOR])
}

fn one_shot_is_not_early(_: &mut Context) -> Outcome {
    let count = ticks(4_000)?;
    let start = rdtsc();
    start_timer(UNMASKED, DIVIDE_1, count);
    holds("it fires", fires())?;
    holds(
        "after nine tenths of its time",
        rdtsc() - start >= cycles(3_600),
    )
}

fn periodic_fires_again_and_again(_: &mut Context) -> Outcome {
    start_timer(PERIODIC | UNMASKED, DIVIDE_1, ticks(500)?);
    let many = until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) >= 5);
    write(TIMER_INITIAL, 0);
    holds("it fires five times", many)
}

fn periodic_never_fires_too_often(_: &mut Context) -> Outcome {
    let count = ticks(1_000)?;
    let start = rdtsc();
    start_timer(PERIODIC | UNMASKED, DIVIDE_1, count);
    wait_interrupted(20_000);
    write(TIMER_INITIAL, 0);
    let periods = (rdtsc() - start) / cycles(1_000);
    // The clocks were compared to within some percent.
    let most = periods + periods / 10 + 1;
    within("times", u64::from(cpu::current().count(VECTOR)), 1, most)
}

fn current_count_falls(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, u32::MAX);
    let first = read(TIMER_CURRENT);
    wait(50);
    let second = read(TIMER_CURRENT);
    holds("a running count", first != 0 && second != 0)?;
    holds("the second is lower", second < first)
}

fn current_count_is_zero_after_one_shot(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, ticks(100)?);
    until(PATIENCE_US, || read(TIMER_CURRENT) == 0);
    wait(300);
    equal("TMCCT", read(TIMER_CURRENT), 0_u32)
}

fn current_count_reloads_when_periodic(_: &mut Context) -> Outcome {
    let count = ticks(1_000)?;
    start_timer(MASKED | PERIODIC | UNMASKED, DIVIDE_1, count);
    let mut seen = 0;
    for _ in 0..5 {
        wait(1_100);
        let now = read(TIMER_CURRENT);
        holds("not above TMICT", now <= count)?;
        seen += u32::from(now != 0);
    }
    within("reads that are not zero", u64::from(seen), 3, 5)
}

fn current_count_ignores_writes(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, u32::MAX);
    write(TIMER_CURRENT, 5);
    within(
        "TMCCT",
        u64::from(read(TIMER_CURRENT)),
        1 << 31,
        u64::from(u32::MAX),
    )
}

fn initial_count_reads_back(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, 0xFEDC_BA98);
    equal("TMICT", read(TIMER_INITIAL), 0xFEDC_BA98_u32)
}

fn zero_initial_count_stops(_: &mut Context) -> Outcome {
    start_timer(PERIODIC | UNMASKED, DIVIDE_1, ticks(500)?);
    write(TIMER_INITIAL, 0);
    // One may be pending from before.
    open();
    cpu::current().forget();
    wait_interrupted(2_000);
    equal("TMCCT", read(TIMER_CURRENT), 0_u32)?;
    taken("vector", &[])
}

fn writing_the_initial_count_restarts(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, u32::MAX);
    wait(200);
    write(TIMER_INITIAL, u32::MAX);
    let fresh = read(TIMER_CURRENT);
    let gone = u64::from(u32::MAX - fresh);
    wait(200);
    let later = u64::from(u32::MAX - read(TIMER_CURRENT));
    holds(
        "less gone right after the restart than 200 us later",
        gone < later,
    )
}

fn masked_timer_counts_but_does_not_fire(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, ticks(200)?);
    let ended = until_interrupted(PATIENCE_US, || read(TIMER_CURRENT) == 0);
    holds("it counts to zero", ended)?;
    wait_interrupted(500);
    equal("IRR", bit(IRR, VECTOR), false)?;
    taken("vector", &[])
}

fn unmasking_after_the_end_does_not_fire(_: &mut Context) -> Outcome {
    start_timer(MASKED | UNMASKED, DIVIDE_1, ticks(100)?);
    holds(
        "it counts to zero",
        until(PATIENCE_US, || read(TIMER_CURRENT) == 0),
    )?;
    wait(500);
    write(LVT_TIMER, UNMASKED);
    wait_interrupted(1_000);
    taken("vector", &[])
}

fn new_vector_is_used(_: &mut Context) -> Outcome {
    start_timer(0x51, DIVIDE_1, ticks(10_000)?);
    write(LVT_TIMER, UNMASKED);
    holds("it fires", fires())?;
    taken("vector", &[VECTOR])
}

fn missed_periods_are_one_interrupt(_: &mut Context) -> Outcome {
    start_timer(PERIODIC | UNMASKED, DIVIDE_1, ticks(200)?);
    wait(5_000);
    write(TIMER_INITIAL, 0);
    equal("IRR", bit(IRR, VECTOR), true)?;
    open();
    open();
    taken("vector", &[VECTOR])
}

fn timer_wakes_from_halt(_: &mut Context) -> Outcome {
    start_timer(UNMASKED, DIVIDE_1, ticks(1_000)?);
    halt();
    taken("vector", &[VECTOR])
}

fn software_disabled_timer_does_not_fire(_: &mut Context) -> Outcome {
    let count = ticks(10_000)?;
    start_timer(UNMASKED, DIVIDE_1, count);
    write(SVR, 0xFF);
    let pending = until(30_000, || bit(IRR, VECTOR));
    write(SVR, 0x1FF);
    equal("IRR", pending, false)
}

fn divide_register_keeps_three_bits(_: &mut Context) -> Outcome {
    write(TIMER_DIVIDE, u32::MAX);
    equal("TDCR", read(TIMER_DIVIDE), 0b1011_u32)
}

fn divide<const BITS: u32, const BY: u64>(_: &mut Context) -> Outcome {
    // A busy host spoils a measurement now and then.
    let mut outcome = Ok(());
    for _ in 0..6 {
        let (undivided, divided) = (rate(DIVIDE_1), rate(BITS));
        holds("the timer counts", divided != 0)?;
        outcome = within("percent", divided * BY * 100 / undivided, 90, 110);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn tsc_deadline() -> Outcome {
    needs("no TSC deadline in CPUID", has_feature_ecx(24))?;
    write(LVT_TIMER, TSC_DEADLINE | UNMASKED);
    Ok(())
}

fn set_deadline(us: u64) -> u64 {
    let deadline = rdtsc() + cycles(us);
    wrmsr(TSC_DEADLINE_MSR, deadline);
    deadline
}

fn tsc_deadline_fires(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    let deadline = set_deadline(2_000);
    holds("it fires", fires())?;
    holds("not before the deadline", rdtsc() >= deadline)?;
    wait_interrupted(2_000);
    taken("vector", &[VECTOR])
}

fn tsc_deadline_in_the_past_fires_at_once(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    wrmsr(TSC_DEADLINE_MSR, rdtsc().saturating_sub(1_000_000).max(1));
    holds("it fires", fires())?;
    wait_interrupted(500);
    taken("vector", &[VECTOR])
}

fn tsc_deadline_zero_disarms(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    set_deadline(50_000);
    wrmsr(TSC_DEADLINE_MSR, 0);
    wait_interrupted(60_000);
    taken("vector", &[])
}

fn tsc_deadline_reads_back_while_armed(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    let deadline = set_deadline(1_000_000);
    let seen = rdmsr(TSC_DEADLINE_MSR);
    wrmsr(TSC_DEADLINE_MSR, 0);
    equal("deadline", seen, deadline)
}

fn tsc_deadline_reads_zero_when_fired(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    set_deadline(200);
    holds("it fires", fires())?;
    equal("deadline", rdmsr(TSC_DEADLINE_MSR), 0_u64)
}

fn tsc_deadline_mode_ignores_the_initial_count(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    write(TIMER_INITIAL, 100_000);
    equal("TMCCT", read(TIMER_CURRENT), 0_u32)?;
    wait_interrupted(2_000);
    taken("vector", &[])
}

fn tsc_deadline_is_ignored_in_other_modes(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    write(LVT_TIMER, UNMASKED);
    set_deadline(100);
    equal("deadline", rdmsr(TSC_DEADLINE_MSR), 0_u64)?;
    wait_interrupted(2_000);
    taken("vector", &[])
}

fn leaving_tsc_deadline_mode_disarms(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    set_deadline(20_000);
    write(LVT_TIMER, UNMASKED);
    wait_interrupted(30_000);
    taken("vector", &[])
}

fn tsc_deadline_can_be_rearmed_in_its_handler(_: &mut Context) -> Outcome {
    tsc_deadline()?;
    for round in 1..=5 {
        set_deadline(100);
        let came = until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) >= round);
        holds("it fires", came)?;
    }
    wait_interrupted(500);
    equal("times", cpu::current().count(VECTOR), 5_u32)
}

fn tsc_deadline_without_cpuid_bit_faults(_: &mut Context) -> Outcome {
    needs("CPUID has TSC deadline", !has_feature_ecx(24))?;
    refuses("RDMSR", || rdmsr(TSC_DEADLINE_MSR))?;
    refuses("WRMSR", || wrmsr(TSC_DEADLINE_MSR, 0))
}
