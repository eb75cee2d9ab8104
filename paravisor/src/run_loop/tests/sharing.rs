//! A vCPU beside modules: how long a slice it sets the host's timer for, and whom it leaves them to.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::machine::Fittings;
use crate::module::Modules;
use crate::module::channel::Channel;
use crate::module::runtime::{Body, Turn};
use crate::module::set::{IDLE_SLICE_NS, Rest, SLICE_NS};

/// A module that is never through, and how many turns it had.
#[derive(Clone, Default)]
struct Busy(Arc<AtomicUsize>);

impl Body for Busy {
    fn turn(&mut self, _: u64) -> Turn {
        self.0.fetch_add(1, Ordering::Relaxed);
        Turn::More
    }
}

impl Busy {
    fn turns(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn rig<'a>(clock: &'a FakeClock, script: &[Scene]) -> Rig<'a> {
    rig_of(clock, 1, &Busy::default(), script)
}

/// The first of so many vCPUs.
fn rig_of<'a>(clock: &'a FakeClock, vcpus: usize, module: &Busy, script: &[Scene]) -> Rig<'a> {
    let mut modules = Modules::default();
    let channel = Arc::new(Channel::new(modules.bell().clone()));
    modules.add("busy", channel, Box::new(module.clone()));
    let fittings = Fittings {
        modules: Arc::new(modules),
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(vcpus, clock, 0, fittings);
    Rig {
        vcpu: vcpu(&machine, 0),
        machine,
        processor: FakeProcessor::new(script),
        host: FakeHost::default(),
        memory: FakeMemory::new(0x10_0000),
    }
}

/// A module that wants a processor is overdue for one from the moment it has it: as a deadline of the vCPU that would end its slice before it
/// began.
#[test]
fn slice_of_an_idle_vcpu_lasts_until_something_else_is_due() {
    let clock = FakeClock::default();
    clock.advance(1_000_000_000);
    let mut rig = rig(&clock, &[]);
    rig.vcpu.activity = Activity::Halted;
    rig.turn().unwrap();
    let until = clock.now_ns() + IDLE_SLICE_NS;
    let beside = rig.vcpu.deadline_tsc(&rig.machine);
    assert!(beside > clock.now_ns());
    assert_eq!(rig.host.armed, [until.min(beside)]);
    assert_eq!(rig.host.waits, 0);
}

#[test]
fn slice_of_a_busy_vcpu_is_a_whole_one() {
    let clock = FakeClock::default();
    clock.advance(1_000_000_000);
    let mut rig = rig(&clock, &[host_interrupt]);
    rig.turn().unwrap();
    let until = clock.now_ns() + SLICE_NS;
    let beside = rig.vcpu.deadline_tsc(&rig.machine);
    assert_eq!(rig.host.armed[0], until.min(beside));
    assert!(rig.host.armed[0] > clock.now_ns());
}

/// Runs a turn of another vCPU of the machine, whose guest waits for an interrupt.
fn sleep_as(rig: &mut Rig<'_>, index: usize) -> FakeHost {
    let mut other = vcpu(&rig.machine, index);
    other.activity = Activity::Halted;
    let (mut processor, mut host) = (FakeProcessor::new(&[]), FakeHost::default());
    let outcome = turn(
        &mut other,
        &rig.machine,
        &mut processor,
        &mut host,
        &rig.memory,
    );
    outcome.unwrap();
    host
}

/// A vCPU that sleeps has time for modules; it is woken, and the busy one goes on with its guest.
#[test]
fn a_busy_vcpu_leaves_modules_to_one_that_sleeps() {
    let clock = FakeClock::default();
    clock.advance(1_000_000_000);
    let module = Busy::default();
    let mut rig = rig_of(&clock, 2, &module, &[host_interrupt, host_interrupt]);
    // Asleep since before the module wanted anything, and not looking.
    rig.machine.modules().note(1, Rest::Asleep);
    assert!(rig.machine.crew().depart(1));
    rig.turn().unwrap();
    assert_eq!((rig.host.kicked.as_slice(), module.turns()), (&[1][..], 0));
    // It is given time to get up.
    rig.turn().unwrap();
    assert_eq!((rig.host.kicked.as_slice(), module.turns()), (&[1][..], 0));
    // There it is, and gives the module its time instead of going back to sleep.
    rig.machine.crew().back(1);
    let host = sleep_as(&mut rig, 1);
    assert_eq!((host.waits, module.turns()), (0, 1));
}
