//! Several processors: INIT and SIPI, interrupts between them, each one's own state (APM vol. 2, 14.1 and 16.5; SDM 9.4, 11.6).
//!
//! Another processor runs a job from [`smp::start`] to its end and then halts with interrupts off. It says how far it is in
//! note 0, or in the note of its number.

use super::{Context, Outcome, Stop, equal, holds, note, noted, taken, tests, within};
use crate::machine::apic::{self, ASSERT, IRR, NMI, SVR, TPR, bit, bits, send, write};
use crate::machine::cpu::{self, Cpu};
use crate::machine::processor::{open, rdmsr, rdtsc, sti, wrmsr};
use crate::machine::smp::{self, Job};
use crate::machine::time::{cycles, until, until_interrupted, wait};
use crate::machine::uart::{self, lower_line, raise_line};
use crate::machine::{ioapic, trap};

pub(super) const VECTOR: u8 = 0x61;
pub(super) const FIXED: u32 = ASSERT | VECTOR as u32;
pub(super) const PATIENCE_US: u64 = 3_000_000;
/// What a job says when it is ready for the first processor's part.
pub(super) const READY: u64 = 1;
const ENDED: u64 = 2;
const PAT: u32 = 0x277;

tests! {
    ipi_wakes_a_halted_cpu, "A fixed IPI wakes a CPU in HLT.";
    ipi_does_not_wake_with_interrupts_off, "A fixed IPI does not wake CLI; HLT, and stays pending.";
    nmi_wakes_with_interrupts_off, "NMI wakes CLI; HLT.";
    ipi_below_the_task_priority_does_not_wake, "A vector below TPR does not wake HLT.";
    ping_pong_loses_nothing, "Two hundred IPIs to and fro are each taken once.";
    storm_ends_with_an_empty_irr, "A thousand IPIs at once: some are taken, none is left over, none is made up.";
    ioapic_reaches_another_cpu, "An IOAPIC pin's interrupt goes to the CPU it names.";
    level_is_ended_by_the_cpu_that_took_it, "A level interrupt taken by another CPU is ended there.";
    timers_are_each_cpus_own, "Two CPUs' timers run at once with vectors of their own.";
    task_priority_is_each_cpus_own, "CR8 of one CPU does not block another.";
    registers_are_each_cpus_own, "PAT written on one CPU does not change another's.";
    tsc_is_consistent, "The TSC never goes back from one CPU to another.";
    locked_increments_are_exact, "Locked increments of two CPUs add up.";
}

pub(super) fn start(index: usize, job: Job) -> Result<&'static Cpu, Stop> {
    let cpu = smp::start(index, job);
    holds("the CPU starts", cpu.is_some())?;
    Ok(cpu::of(index))
}

/// Starts a job on another CPU and waits until it is ready.
pub(super) fn start_ready(context: &Context, job: Job) -> Result<(usize, &'static Cpu), Stop> {
    let index = context.other()?;
    note(0, 0_u64);
    let cpu = start(index, job)?;
    holds("the job is ready", until(PATIENCE_US, || noted(0) >= READY))?;
    // Ready is said before HLT.
    wait(1_000);
    Ok((index, cpu))
}

pub(super) fn enable_apic() {
    write(SVR, 0x1FF);
}

pub(super) fn ready() {
    note(0, READY);
}

/// Job: takes interrupts for ever.
pub(super) fn listen() {
    enable_apic();
    ready();
    sti();
    until(10 * PATIENCE_US, || false);
}

pub(super) fn came(cpu: &Cpu, vector: u8, count: u32) -> bool {
    until(PATIENCE_US, || cpu.count(vector) >= count)
}

/// Job: halts with interrupts on, and says when it wakes.
pub(super) fn doze() {
    enable_apic();
    ready();
    unsafe { core::arch::asm!("sti", "hlt", "cli") };
    note(0, ENDED);
}

fn ipi_wakes_a_halted_cpu(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, doze)?;
    equal("progress before", noted(0), READY)?;
    send(index as u32, FIXED);
    holds("it wakes", until(PATIENCE_US, || noted(0) == ENDED))?;
    equal("times", cpu.count(VECTOR), 1_u32)
}

/// Job: halts with interrupts off; says when it wakes and whether VECTOR is pending then.
fn sleep() {
    enable_apic();
    ready();
    unsafe { core::arch::asm!("cli", "hlt") };
    note(1, bit(IRR, VECTOR));
    note(0, ENDED);
}

fn ipi_does_not_wake_with_interrupts_off(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, sleep)?;
    send(index as u32, FIXED);
    wait(5_000);
    equal("progress after an IPI", noted(0), READY)?;
    send(index as u32, NMI | ASSERT);
    holds("NMI wakes it", until(PATIENCE_US, || noted(0) == ENDED))?;
    equal("pending", noted(1), 1_u64)?;
    equal("taken", cpu.count(VECTOR), 0_u32)
}

fn nmi_wakes_with_interrupts_off(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, sleep)?;
    send(index as u32, NMI | ASSERT);
    holds("it wakes", until(PATIENCE_US, || noted(0) == ENDED))?;
    equal("NMIs", cpu.count(trap::NMI), 1_u32)
}

fn ipi_below_the_task_priority_does_not_wake(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, || {
        write(TPR, 0x70);
        doze();
    })?;
    send(index as u32, FIXED);
    wait(5_000);
    equal("progress after a low vector", noted(0), READY)?;
    send(index as u32, ASSERT | 0x81);
    holds(
        "a high one wakes it",
        until(PATIENCE_US, || noted(0) == ENDED),
    )?;
    equal("low vector taken", cpu.count(VECTOR), 0_u32)
}

fn ping_pong_loses_nothing(context: &mut Context) -> Outcome {
    note(2, context.me);
    let (index, cpu) = start_ready(context, || {
        trap::hook(VECTOR, |frame| {
            trap::record_and_end(frame);
            send(noted(2) as u32, FIXED);
        });
        listen();
    })?;
    for round in 1..=200 {
        send(index as u32, FIXED);
        let back = until_interrupted(PATIENCE_US, || cpu::current().count(VECTOR) >= round);
        equal(
            "rounds before one was lost",
            if back { round } else { round - 1 },
            round,
        )?;
    }
    equal("taken here", cpu::current().count(VECTOR), 200_u32)?;
    equal("taken there", cpu.count(VECTOR), 200_u32)
}

fn storm_ends_with_an_empty_irr(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, || {
        enable_apic();
        ready();
        until_interrupted(10 * PATIENCE_US, || noted(1) != 0);
        open();
        note(2, bits(IRR));
        note(0, ENDED);
    })?;
    for _ in 0..1_000 {
        send(index as u32, FIXED);
    }
    note(1, 1_u64);
    holds("the job ends", until(PATIENCE_US, || noted(0) == ENDED))?;
    equal("left pending", noted(2), 0_u64)?;
    within("taken", u64::from(cpu.count(VECTOR)), 1, 1_000)
}

fn ioapic_reaches_another_cpu(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, listen)?;
    ioapic::set_entry(uart::IRQ, ioapic::to(index as u8, VECTOR));
    uart::pulse_line();
    holds("it comes there", came(cpu, VECTOR, 1))?;
    open();
    taken("vector here", &[])
}

fn level_is_ended_by_the_cpu_that_took_it(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, || {
        trap::hook(VECTOR, |frame| {
            if cpu::current().taken() == 4 {
                lower_line();
            }
            trap::record_and_end(frame);
        });
        listen();
    })?;
    ioapic::set_entry(uart::IRQ, ioapic::to(index as u8, VECTOR) | ioapic::LEVEL);
    raise_line();
    holds("five times", came(cpu, VECTOR, 5))?;
    wait(2_000);
    let entry = ioapic::entry(uart::IRQ);
    equal("times", cpu.count(VECTOR), 5_u32)?;
    equal("remote IRR", entry & ioapic::REMOTE_IRR, 0_u64)
}

fn timers_are_each_cpus_own(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, || {
        enable_apic();
        apic::start_timer(apic::PERIODIC | 0x71, apic::DIVIDE_1, 500_000);
        listen();
    })?;
    apic::start_timer(apic::PERIODIC | 0x72, apic::DIVIDE_1, 500_000);
    let both = until_interrupted(PATIENCE_US, || {
        cpu.count(0x71) >= 5 && cpu::current().count(0x72) >= 5
    });
    write(apic::TIMER_INITIAL, 0);
    holds("five each", both)?;
    equal("the other's vector here", cpu::current().count(0x71), 0_u32)?;
    equal("this one's vector there", cpu.count(0x72), 0_u32)
}

fn task_priority_is_each_cpus_own(context: &mut Context) -> Outcome {
    let (index, cpu) = start_ready(context, listen)?;
    crate::machine::processor::set_cr8(15);
    send(index as u32, FIXED);
    let there = came(cpu, VECTOR, 1);
    crate::machine::processor::set_cr8(0);
    holds("it comes there", there)
}

fn registers_are_each_cpus_own(context: &mut Context) -> Outcome {
    let index = context.other()?;
    let before = rdmsr(PAT);
    start(index, || {
        let before = rdmsr(PAT);
        wrmsr(PAT, 0x0606_0606_0606_0606);
        note(1, rdmsr(PAT));
        wrmsr(PAT, before);
    })?;
    let mut same = true;
    until(PATIENCE_US, || {
        same &= rdmsr(PAT) == before;
        smp::is_done(index)
    });
    equal("PAT there", noted(1), 0x0606_0606_0606_0606_u64)?;
    holds("PAT here unchanged", same)
}

fn tsc_is_consistent(context: &mut Context) -> Outcome {
    // Each waits for the other's newer stamp in note 1 or 2 and answers with its own.
    start_ready(context, || {
        ready();
        let mut last = 0;
        until(10 * PATIENCE_US, || {
            let seen = noted(1);
            if seen != last {
                last = seen;
                let own = rdtsc();
                note(3, noted(3) + u64::from(own < seen));
                note(2, own);
            }
            noted(4) != 0
        });
    })?;
    let mut back = 0_u64;
    // On a host with fewer CPUs than this machine a round takes as long as its scheduler likes.
    let start = rdtsc();
    for _ in 0..500 {
        if rdtsc() - start > cycles(1_000_000) {
            break;
        }
        let before = noted(2);
        note(1, rdtsc());
        holds("an answer", until(PATIENCE_US, || noted(2) != before))?;
        back += u64::from(rdtsc() < noted(2));
    }
    note(4, 1_u64);
    equal("steps back there", noted(3), 0_u64)?;
    equal("steps back here", back, 0_u64)
}

static SUM: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn add_up() {
    for _ in 0..50_000 {
        SUM.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}

fn locked_increments_are_exact(context: &mut Context) -> Outcome {
    SUM.store(0, core::sync::atomic::Ordering::SeqCst);
    let index = context.other()?;
    start(index, add_up)?;
    add_up();
    holds("the job ends", smp::wait_done(index))?;
    equal(
        "sum",
        SUM.load(core::sync::atomic::Ordering::SeqCst),
        100_000_u64,
    )
}
