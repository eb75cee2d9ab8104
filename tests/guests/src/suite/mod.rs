//! The checks: a file a group, and the run over all of them.

mod acpi;
mod apic_base;
mod apic_delivery;
mod apic_registers;
mod apic_timer;
mod check;
mod control;
mod cpuid;
mod debug;
mod destinations;
mod exceptions;
mod forms;
mod hpet;
mod ioapic;
mod ioapic_level;
mod legacy;
mod memory_map;
mod mmio;
mod mmio_faults;
mod msr;
mod nmi;
mod pic;
mod pic_priority;
mod pit;
mod ports;
mod rtc;
mod shadow;
mod smp;
mod startup;
mod user;
mod x2apic;

use crate::machine::console::say;
use crate::machine::exit::Ending;
use crate::machine::memory;
use crate::machine::options::Options;
use crate::machine::{self, apic, cpu, port, processor, trap, uart};
pub(crate) use check::{
    Context, Outcome, Stop, equal, faults, holds, hooked, needs, note, noted, refuses, taken,
    tests, within,
};
use check::{Test, forget_notes};

/// The groups in the order they run, by name. The last leaves some machines without a local APIC.
const GROUPS: &[(&str, &[Test])] = &[
    ("apic", apic_registers::TESTS),
    ("delivery", apic_delivery::TESTS),
    ("timer", apic_timer::TESTS),
    ("x2apic", x2apic::TESTS),
    ("ioapic", ioapic::TESTS),
    ("level", ioapic_level::TESTS),
    ("pic", pic::TESTS),
    ("nesting", pic_priority::TESTS),
    ("pit", pit::TESTS),
    ("rtc", rtc::TESTS),
    ("hpet", hpet::TESTS),
    ("acpi", acpi::TESTS),
    ("shadow", shadow::TESTS),
    ("nmi", nmi::TESTS),
    ("exceptions", exceptions::TESTS),
    ("debug", debug::TESTS),
    ("mmio", mmio::TESTS),
    ("forms", forms::TESTS),
    ("faults", mmio_faults::TESTS),
    ("map", memory_map::TESTS),
    ("ports", ports::TESTS),
    ("user", user::TESTS),
    ("cpuid", cpuid::TESTS),
    ("msr", msr::TESTS),
    ("control", control::TESTS),
    ("legacy", legacy::TESTS),
    ("startup", startup::TESTS),
    ("destinations", destinations::TESTS),
    ("smp", smp::TESTS),
    ("apic_base", apic_base::TESTS),
];

/// Runs what the options select, and says how it went.
pub(crate) fn run(options: &Options) -> Ending {
    if options.is_list() {
        for (group, test) in selected(options) {
            say_known(group, test);
            say!("test {group}.{}: {}", test.name, test.claim);
        }
        return Ending::Passed;
    }
    settle();
    let mut context = Context {
        me: apic::cpuid_id(),
        cpus: machine::smp::find(options.cpus()),
        expected_cpus: options.cpus(),
        is_risky: options.is_risky(),
    };
    say!("cpus {}", context.cpus.count_ones());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (group, test) in selected(options) {
        if options.is_trace() {
            say!("begin {group}.{}", test.name);
        }
        let outcome = run_one(test, &mut context);
        say_outcome(group, test, outcome);
        match outcome {
            Ok(()) => passed += 1,
            Err(Stop::Skip(_)) => skipped += 1,
            Err(_) => failed += 1,
        }
    }
    say!("done: {passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 {
        Ending::Passed
    } else {
        Ending::Failed
    }
}

fn selected(options: &Options) -> impl Iterator<Item = (&'static str, &'static Test)> {
    let tests = GROUPS
        .iter()
        .flat_map(|(group, tests)| tests.iter().map(|test| (*group, test)));
    tests.filter(|(group, test)| options.selects(group, test.name))
}

fn say_outcome(group: &str, test: &Test, outcome: Outcome) {
    say_known(group, test);
    match outcome {
        Ok(()) => say!("pass {group}.{}", test.name),
        Err(Stop::Skip(why)) => say!("skip {group}.{}: {why}", test.name),
        Err(stop) => say!("fail {group}.{}: {stop}", test.name),
    }
}

fn say_known(group: &str, test: &Test) {
    if let Some(why) = test.known_qemu {
        say!("known {group}.{}: {why}", test.name);
    }
}

fn run_one(test: &Test, context: &mut Context) -> Outcome {
    let outcome = trap::catch(|| (test.run)(context)).unwrap_or_else(|fault| Err(fault.into()));
    processor::cli();
    trap::restore();
    apic::follow_mode();
    let settled = trap::catch(|| {
        for other in context.others() {
            machine::smp::park(other);
        }
        settle();
    });
    outcome.and(settled.map_err(Stop::Fault))
}

/// Brings every chip to the state each check starts from: interrupts off everywhere, nothing pending.
fn settle() {
    processor::cli();
    cpu::current().clear();
    forget_notes();
    memory::unmap_all();
    uart::lower_line();
    machine::rtc::reset();
    machine::pit::reset();
    port::outw(machine::acpi::PM1_ENABLE, 0);
    machine::ioapic::reset();
    machine::pic::init();
    apic::reset();
    cpu::current().clear();
}
