//! A vCPU beside modules: how long a slice it sets the host's timer for.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::*;
use crate::machine::Fittings;
use crate::module::Modules;
use crate::module::channel::Channel;
use crate::module::runtime::{Body, Turn};
use crate::module::set::{IDLE_SLICE_NS, SLICE_NS};

/// A module that is never through.
struct Busy;

impl Body for Busy {
    fn turn(&mut self, _: u64) -> Turn {
        Turn::More
    }
}

fn rig<'a>(clock: &'a FakeClock, script: &[Scene]) -> Rig<'a> {
    let mut modules = Modules::default();
    let channel = Arc::new(Channel::new(modules.bell().clone()));
    modules.add("busy", channel, Box::new(Busy));
    let fittings = Fittings {
        modules: Arc::new(modules),
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(1, clock, 0, fittings);
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
