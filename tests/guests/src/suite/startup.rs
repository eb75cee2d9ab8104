//! INIT, SIPI and what a processor is after them (APM vol. 2, 14.1 and 16.5; SDM 9.4 and 11.4.7).

use super::smp::{
    FIXED, PATIENCE_US, READY, VECTOR, came, doze, enable_apic, listen, ready, start, start_ready,
};
use super::{Context, Outcome, Stop, equal, holds, note, noted, tests};
use crate::machine::apic::{
    self, ASSERT, BASE_BOOTSTRAP, DFR, INIT, IRR, LDR, LEVEL, NMI, SVR, TPR, bits, cpuid_id, read,
    send, send_self, write,
};
use crate::machine::processor::{cpuid, open, rdmsr};
use crate::machine::smp;
use crate::machine::time::{until, wait};

tests! {
    expected_cpus_start, "As many CPUs start by INIT and SIPI broadcast as the command line says.";
    each_cpu_has_its_own_id, "Every CPU's local APIC and CPUID have its own id.";
    only_one_is_the_bootstrap_cpu, "The other CPUs' APIC_BASE has the bootstrap bit clear.";
    sipi_starts_at_its_page, "A SIPI with vector V starts at CS V00h, base V000h.";
    start_finds_cr0_reset, "A started CPU finds only ET in CR0; CD and NW, which INIT leaves alone, may be set.";
    start_finds_the_signature, "A started CPU finds its signature in EDX.";
    init_resets_the_apic, "After INIT: SVR FFh, LVTs masked, TPR and LDR 0, DFR ones.";
    init_forgets_what_was_pending, "After INIT, IRR is empty.";
    init_stops_a_running_cpu, "INIT stops a running CPU.";
    init_stops_a_halted_cpu, "INIT parks a halted CPU: an interrupt does not wake it, a SIPI starts it.";
    init_deassert_is_ignored, "INIT with level deasserted does not stop a CPU.";
    sipi_to_a_running_cpu_is_ignored, "A SIPI to a running CPU does nothing.";
    parked_cpu_ignores_fixed_interrupts, "A CPU waiting for SIPI takes no fixed interrupt, nor later.";
    parked_cpu_is_not_started_by_nmi, "NMI does not start a CPU waiting for SIPI.";
    restarted_cpu_takes_interrupts, "A CPU parked and started again takes IPIs as before.";
    restart_under_fire, "A CPU that is sent IPIs can be parked and started ten times.";
}

fn expected_cpus_start(context: &mut Context) -> Outcome {
    let expected = context
        .expected_cpus
        .ok_or(Stop::Skip("no cpus=N on the command line"))?;
    equal("CPUs", context.cpus.count_ones(), expected as u64)
}

fn each_cpu_has_its_own_id(context: &mut Context) -> Outcome {
    context.other()?;
    for index in context.others() {
        start(index, || {
            note(1, read(apic::ID) >> 24);
            note(2, cpuid_id());
        })?;
        holds("the job ends", smp::wait_done(index))?;
        equal("ID", noted(1), index as u64)?;
        equal("CPUID 1 EBX[31:24]", noted(2), index as u64)?;
    }
    Ok(())
}

fn only_one_is_the_bootstrap_cpu(context: &mut Context) -> Outcome {
    let index = context.other()?;
    start(index, || note(1, rdmsr(apic::APIC_BASE)))?;
    holds("the job ends", smp::wait_done(index))?;
    equal("bootstrap bit", noted(1) & BASE_BOOTSTRAP, 0_u64)
}

fn sipi_starts_at_its_page(context: &mut Context) -> Outcome {
    let index = context.other()?;
    smp::place_trampoline(0x0A);
    let cpu = smp::prepare(index, || {});
    smp::park(index);
    smp::startup(index, 0x0A);
    holds("the CPU starts", smp::wait_done(index))?;
    equal("CS", cpu.found()[0], 0x0A00_u32)
}

fn start_finds_cr0_reset(context: &mut Context) -> Outcome {
    let cpu = start(context.other()?, || {})?;
    equal(
        "CR0 less CD and NW",
        cpu.found()[1] & !0x6000_0000,
        0x10_u32,
    )
}

fn start_finds_the_signature(context: &mut Context) -> Outcome {
    let cpu = start(context.other()?, || {})?;
    equal("EDX", cpu.found()[2], cpuid(1, 0).eax)
}

fn init_resets_the_apic(context: &mut Context) -> Outcome {
    let index = context.other()?;
    start(index, || {
        enable_apic();
        write(TPR, 0x50);
        write(LDR, 0x1200_0000);
        write(DFR, 0);
        write(apic::LVT_ERROR, 0x71);
        write(apic::LVT_TIMER, 0x72);
    })?;
    holds("the first job ends", smp::wait_done(index))?;
    start(index, || {
        let registers = [SVR, TPR, LDR, DFR, apic::LVT_ERROR, apic::LVT_TIMER];
        for (place, register) in registers.iter().enumerate() {
            note(1 + place, read(*register));
        }
    })?;
    holds("the second job ends", smp::wait_done(index))?;
    equal("SVR", noted(1), 0xFF_u64)?;
    equal("TPR", noted(2), 0_u64)?;
    equal("LDR", noted(3), 0_u64)?;
    equal("DFR", noted(4), 0xFFFF_FFFF_u64)?;
    equal("LVT error", noted(5), apic::MASKED)?;
    equal("LVT timer", noted(6), apic::MASKED)
}

fn init_forgets_what_was_pending(context: &mut Context) -> Outcome {
    let index = context.other()?;
    start(index, || {
        enable_apic();
        send_self(VECTOR);
        note(1, bits(IRR));
    })?;
    holds("the first job ends", smp::wait_done(index))?;
    equal("pending before", noted(1), 1_u64)?;
    start(index, || note(2, bits(IRR)))?;
    holds("the second job ends", smp::wait_done(index))?;
    equal("pending after", noted(2), 0_u64)
}

/// Job: counts in note 1 for ever.
fn count() {
    ready();
    until(10 * PATIENCE_US, || {
        note(1, noted(1) + 1);
        false
    });
}

fn init_stops_a_running_cpu(context: &mut Context) -> Outcome {
    let (index, _) = start_ready(context, count)?;
    smp::park(index);
    wait(2_000);
    let before = noted(1);
    wait(5_000);
    equal("count 5 ms later", noted(1), before)
}

fn init_stops_a_halted_cpu(context: &mut Context) -> Outcome {
    let (index, _) = start_ready(context, doze)?;
    smp::park(index);
    send(index as u32, FIXED);
    wait(5_000);
    equal("progress after an IPI", noted(0), READY)?;
    start(index, ready)?;
    holds("it starts again", smp::wait_done(index))
}

fn still_counts(what: &'static str) -> Outcome {
    let before = noted(1);
    holds(what, until(PATIENCE_US, || noted(1) > before + 10))
}

fn init_deassert_is_ignored(context: &mut Context) -> Outcome {
    let (index, _) = start_ready(context, count)?;
    send(index as u32, INIT | LEVEL);
    wait(1_000);
    still_counts("the CPU goes on")
}

fn sipi_to_a_running_cpu_is_ignored(context: &mut Context) -> Outcome {
    let (index, _) = start_ready(context, count)?;
    smp::forget_start(index);
    smp::startup(index, smp::TRAMPOLINE);
    wait(20_000);
    equal("started again", smp::is_started(index), false)?;
    still_counts("the CPU goes on")
}

fn parked_cpu_ignores_fixed_interrupts(context: &mut Context) -> Outcome {
    let index = context.other()?;
    smp::park(index);
    send(index as u32, FIXED);
    wait(1_000);
    let cpu = start(index, || {
        enable_apic();
        note(1, bits(IRR));
        open();
    })?;
    holds("the job ends", smp::wait_done(index))?;
    equal("IRR", noted(1), 0_u64)?;
    equal("interrupts taken", cpu.taken() as u64, 0_u64)
}

fn parked_cpu_is_not_started_by_nmi(context: &mut Context) -> Outcome {
    let index = context.other()?;
    smp::place_trampoline(smp::TRAMPOLINE);
    smp::prepare(index, || {});
    smp::park(index);
    send(index as u32, NMI | ASSERT);
    wait(10_000);
    equal("started by NMI", smp::is_started(index), false)?;
    smp::startup(index, smp::TRAMPOLINE);
    holds(
        "started by SIPI",
        until(PATIENCE_US, || smp::is_started(index)),
    )
}

fn restarted_cpu_takes_interrupts(context: &mut Context) -> Outcome {
    for _ in 0..3 {
        let (index, cpu) = start_ready(context, listen)?;
        send(index as u32, FIXED);
        holds("it comes", came(cpu, VECTOR, 1))?;
        smp::park(index);
    }
    Ok(())
}

fn restart_under_fire(context: &mut Context) -> Outcome {
    for _ in 0..10 {
        let (index, cpu) = start_ready(context, listen)?;
        for _ in 0..20 {
            send(index as u32, FIXED);
        }
        holds("it comes", came(cpu, VECTOR, 1))?;
        send(index as u32, FIXED);
        smp::park(index);
        send(index as u32, FIXED);
    }
    Ok(())
}
