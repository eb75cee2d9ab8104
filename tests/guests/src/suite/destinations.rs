//! Whom an interprocessor interrupt reaches: ids, shorthands, logical destinations, lowest priority (APM vol. 2, 16.5; SDM 11.6).

use super::smp::{
    FIXED, PATIENCE_US, READY, VECTOR, came, enable_apic, listen, start, start_ready,
};
use super::{Context, Outcome, Stop, equal, holds, needs, note, noted, taken, tests};
use crate::machine::apic::{
    self, ASSERT, DFR, LDR, LOGICAL, LOWEST, NMI, TO_ALL, TO_OTHERS, TPR, send, write,
};
use crate::machine::cpu::{self, Cpu};
use crate::machine::processor::{open, rdmsr, sti};
use crate::machine::smp::{self, Job};
use crate::machine::time::{until, until_interrupted, wait};
use crate::machine::{trap, x2apic};

tests! {
    physical_ipi_reaches_one, "A physical IPI reaches its CPU and no other.";
    all_but_self_reaches_the_others, "The shorthand all but self reaches every other CPU and not this one.";
    all_reaches_everyone, "The shorthand all including self reaches every CPU.";
    broadcast_id_reaches_everyone, "Physical destination FFh reaches every CPU.";
    nmi_reaches_all_others, "NMI to all but self reaches every other CPU.";
    flat_logical_reaches_each_match, "Flat model: a destination of two bits reaches both CPUs.";
    flat_logical_spares_the_others, "Flat model: a destination of one bit reaches that CPU only.";
    cluster_logical_reaches_its_cluster, "Cluster model: two CPUs of one cluster, one of them addressed.";
    lowest_priority_reaches_exactly_one, "Lowest priority to two CPUs reaches one of them, each time.";
    lowest_priority_prefers_the_idle_cpu, "Lowest priority goes to the CPU with the lower TPR.",
        known_qemu: "takes the first CPU that fits";
    x2apic_ipi_by_id, "x2APIC: an IPI by 32-bit id reaches its CPU.";
    x2apic_logical_reaches_both, "x2APIC: a logical destination of two CPUs of a cluster reaches both.";
    x2apic_mode_survives_init, "x2APIC mode is kept over INIT.";
}

/// Job: takes interrupts for ever, and says so in the note of its number.
fn listen_each() {
    enable_apic();
    note(cpu::current().index(), READY);
    sti();
    until(10 * PATIENCE_US, || false);
}

fn start_all(context: &Context, job: Job) -> Outcome {
    context.other()?;
    for index in context.others() {
        start(index, job)?;
        holds(
            "the job is ready",
            until(PATIENCE_US, || noted(index) == READY),
        )?;
    }
    Ok(())
}

fn physical_ipi_reaches_one(context: &mut Context) -> Outcome {
    start_all(context, listen_each)?;
    let index = context.other()?;
    send(index as u32, FIXED);
    holds("it comes", came(cpu::of(index), VECTOR, 1))?;
    wait(1_000);
    open();
    taken("vector here", &[])?;
    for other in context.others().filter(|other| *other != index) {
        equal(
            "interrupts of a third CPU",
            cpu::of(other).taken() as u64,
            0_u64,
        )?;
    }
    Ok(())
}

/// Sends to all, and holds if each other CPU got it once and this one as often as `here`.
fn reaches_all(
    context: &Context,
    destination: u32,
    command: u32,
    vector: u8,
    here: &[u8],
) -> Outcome {
    start_all(context, listen_each)?;
    send(destination, command);
    for index in context.others() {
        holds("it comes", came(cpu::of(index), vector, 1))?;
    }
    wait(1_000);
    open();
    for index in context.others() {
        equal("times", cpu::of(index).count(vector), 1_u32)?;
    }
    taken("vector here", here)
}

fn all_but_self_reaches_the_others(context: &mut Context) -> Outcome {
    reaches_all(context, 0, FIXED | TO_OTHERS, VECTOR, &[])
}

fn all_reaches_everyone(context: &mut Context) -> Outcome {
    reaches_all(context, 0, FIXED | TO_ALL, VECTOR, &[VECTOR])
}

fn broadcast_id_reaches_everyone(context: &mut Context) -> Outcome {
    reaches_all(context, 0xFF, FIXED, VECTOR, &[VECTOR])
}

fn nmi_reaches_all_others(context: &mut Context) -> Outcome {
    reaches_all(context, 0, NMI | ASSERT | TO_OTHERS, trap::NMI, &[])
}

/// Job: listens as logical CPU 2 of the flat model.
fn listen_flat() {
    write(LDR, 2 << 24);
    listen();
}

fn flat_logical_reaches_each_match(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, listen_flat)?;
    write(LDR, 1 << 24);
    send(3, FIXED | LOGICAL);
    holds("it comes there", came(cpu, VECTOR, 1))?;
    open();
    taken("vector here", &[VECTOR])
}

fn flat_logical_spares_the_others(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, listen_flat)?;
    write(LDR, 1 << 24);
    send(2, FIXED | LOGICAL);
    holds("it comes there", came(cpu, VECTOR, 1))?;
    open();
    taken("vector here", &[])
}

fn cluster_logical_reaches_its_cluster(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, || {
        write(DFR, 0);
        write(LDR, 0x32 << 24);
        listen();
    })?;
    write(DFR, 0);
    write(LDR, 0x31 << 24);
    send(0x32, FIXED | LOGICAL);
    holds("it comes there", came(cpu, VECTOR, 1))?;
    send(0x42, FIXED | LOGICAL);
    open();
    taken("vector here", &[])?;
    send(0x33, FIXED | LOGICAL);
    holds("it comes there again", came(cpu, VECTOR, 2))?;
    open();
    taken("vector here for both", &[VECTOR])
}

fn lowest_priority_reaches_exactly_one(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, listen_flat)?;
    write(LDR, 1 << 24);
    for round in 1..=10_u32 {
        send(3, FIXED | LOGICAL | LOWEST);
        let both = || cpu.count(VECTOR) + cpu::current().count(VECTOR);
        until_interrupted(PATIENCE_US, || both() >= round);
        wait(200);
        open();
        equal("deliveries", both(), round)?;
    }
    Ok(())
}

fn lowest_priority_prefers_the_idle_cpu(context: &mut Context) -> Outcome {
    let (_, cpu) = start_ready(context, listen_flat)?;
    write(LDR, 1 << 24);
    write(TPR, 0x50);
    for round in 1..=5_u32 {
        send(3, FIXED | LOGICAL | LOWEST);
        let both = || cpu.count(VECTOR) + cpu::current().count(VECTOR);
        until_interrupted(PATIENCE_US, || both() >= round);
    }
    equal("taken by the idle one", cpu.count(VECTOR), 5_u32)
}

/// Job: listens in x2APIC mode and says its LDR in note 1.
fn listen_x2apic() {
    x2apic::enable();
    note(1, rdmsr(x2apic::LDR));
    listen();
}

fn x2apic_pair(context: &Context) -> Result<(usize, &'static Cpu), Stop> {
    needs("no x2APIC in CPUID", x2apic::is_offered())?;
    let pair = start_ready(context, listen_x2apic)?;
    x2apic::enable();
    Ok(pair)
}

/// Turns the other CPU's APIC back to xAPIC mode, which INIT does not.
fn leave_x2apic(index: usize) -> Outcome {
    start(index, apic::reset)?;
    holds("the other CPU leaves x2APIC mode", smp::wait_done(index))
}

fn x2apic_ipi_by_id(context: &mut Context) -> Outcome {
    let (index, cpu) = x2apic_pair(context)?;
    send(index as u32, FIXED);
    let there = came(cpu, VECTOR, 1);
    leave_x2apic(index)?;
    holds("it comes", there)
}

fn x2apic_logical_reaches_both(context: &mut Context) -> Outcome {
    let (index, cpu) = x2apic_pair(context)?;
    let both = rdmsr(x2apic::LDR) | noted(1);
    send(both as u32, FIXED | LOGICAL);
    let there = came(cpu, VECTOR, 1);
    open();
    let here = taken("vector here", &[VECTOR]);
    leave_x2apic(index)?;
    holds("it comes there", there)?;
    here
}

fn x2apic_mode_survives_init(context: &mut Context) -> Outcome {
    let (index, _) = x2apic_pair(context)?;
    let started = start(index, || note(3, rdmsr(apic::APIC_BASE)));
    let ended = smp::wait_done(index);
    let seen = noted(3);
    leave_x2apic(index)?;
    started?;
    holds("the job ends", ended)?;
    equal("APIC_BASE[10]", seen >> 10 & 1, 1_u64)
}
