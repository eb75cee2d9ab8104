//! A vCPU that looks for a host's answer before it sleeps.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use stockade_backend::HostBus;
use stockade_bus::{AccessError, Level, PciConfig};
use stockade_devices::pci::{BARS, Bar, BarRange, MsiMessage, PciFunction};

use super::*;
use crate::machine::{Fittings, Functions};
use crate::vigil::{self, Kept};
use crate::virtio::{Bays, Fitted, Turn};

/// What a look takes here.
const LOOK_NS: u64 = 1_000;

/// A clock that a device sets on.
#[derive(Clone, Default)]
struct Moving(Arc<AtomicU64>);

impl Clock for Moving {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Timekeeper for Moving {
    fn now(&self) -> Time {
        Time {
            ns: self.now_ns(),
            tsc: self.now_ns(),
        }
    }

    fn tsc(&self) -> u64 {
        self.now_ns()
    }

    fn tsc_at(&self, ns: u64) -> u64 {
        ns
    }
}

#[derive(Default)]
struct Counts {
    turns: AtomicU32,
    looks: AtomicU32,
    /// Looks until the host has answered.
    left: AtomicU32,
    /// How soon it is to be watched.
    interval_ns: AtomicU64,
}

/// A device whose host always has something.
struct Device(Arc<Counts>, Moving);

impl Fitted for Device {
    fn turn(&mut self, _: &mut dyn HostBus) -> Turn {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        Turn::Done
    }

    fn hush(&mut self) -> bool {
        true
    }

    fn has_news(&self) -> bool {
        self.1.0.fetch_add(LOOK_NS, Ordering::Relaxed);
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        let left = self.0.left.load(Ordering::Relaxed);
        self.0.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    fn check(&mut self, _: &mut dyn HostBus) {}

    fn watch(&mut self, _: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        Some(now_ns + self.0.interval_ns.load(Ordering::Relaxed))
    }
}

impl PciConfig for Device {
    fn config_read(&mut self, _: u16) -> u32 {
        0
    }

    fn config_write(&mut self, _: u16, _: u32, _: u32) {}
}

impl PciFunction for Device {
    fn bar_read(&mut self, _: Bar, _: u64, _: &mut [u8]) -> Result<(), AccessError> {
        Err(AccessError::NoRegister)
    }

    fn bar_write(&mut self, _: Bar, _: u64, _: &[u8]) -> Result<(), AccessError> {
        Err(AccessError::NoRegister)
    }

    fn decoded(&self) -> [Option<BarRange>; BARS] {
        [None; BARS]
    }

    fn interrupt(&self) -> Level {
        Level::Low
    }

    fn take_messages(&mut self, _: &mut dyn FnMut(MsiMessage)) {}

    fn reset(&mut self) {}
}

struct Vigilant {
    machine: Machine<Moving>,
    vcpu: Vcpu,
    host: FakeHost,
    counts: Arc<Counts>,
    clock: Moving,
}

/// A vCPU that is halted on a machine with a device, whose host answers after so many looks. A call of the host takes 10 µs.
fn rig(looks: u32) -> Vigilant {
    let (clock, counts) = (Moving::default(), Arc::new(Counts::default()));
    counts.left.store(looks, Ordering::Relaxed);
    counts.interval_ns.store(5_000_000_000, Ordering::Relaxed);
    let (mut bays, mut functions) = (Bays::default(), Functions::default());
    let device = Device(Arc::clone(&counts), clock.clone());
    bays.fit(Box::new(device), &mut functions).unwrap();
    bays.look_at_all();
    let fittings = Fittings {
        bays,
        functions,
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(1, clock.clone(), 0, fittings);
    let elsewhere = FakeClock::default();
    let mut vcpu = vcpu(&Machine::new(1, &elsewhere, 0), 0);
    vcpu.apic.publish(&machine.mailboxes()[0]);
    vcpu.activity = Activity::Halted;
    for _ in 0..100 {
        vcpu.patience.note_call(10_000);
    }
    Vigilant {
        machine,
        vcpu,
        host: FakeHost::default(),
        counts,
        clock,
    }
}

impl Vigilant {
    fn turn(&mut self) {
        let mut processor = FakeProcessor::new(&[]);
        let memory = FakeMemory::new(0x10_0000);
        let Self {
            machine,
            vcpu,
            host,
            ..
        } = self;
        turn(vcpu, machine, &mut processor, host, &memory).unwrap();
    }

    fn turns(&self) -> u32 {
        self.counts.turns.load(Ordering::Relaxed)
    }

    fn looks(&self) -> u32 {
        self.counts.looks.load(Ordering::Relaxed)
    }
}

/// To sleep and be woken costs more than to look for a while.
#[test]
fn an_answer_that_comes_soon_is_taken_without_a_sleep_or_a_timer() {
    let mut rig = rig(20);
    rig.turn();
    assert_eq!((rig.turns(), rig.looks()), (1, 21));
    assert_eq!((rig.host.waits, rig.host.armed.len()), (0, 0));
    rig.turn();
    assert_eq!(rig.turns(), 2, "it gets its turn");
}

#[test]
fn a_vigil_in_vain_is_as_long_as_a_sleep_costs_and_then_the_vcpu_sleeps() {
    let mut rig = rig(u32::MAX);
    rig.turn();
    let vigil = rig.clock.now_ns();
    assert!((70_000..=81_000).contains(&vigil), "{vigil}");
    assert_eq!(rig.host.waits, 0);
    rig.turn();
    assert_eq!((rig.host.waits, rig.turns()), (1, 2));
    assert_eq!(rig.clock.now_ns(), vigil);
}

/// Nobody is kicked who is awake, so who is awake looks at his mail.
#[test]
fn mail_ends_a_vigil() {
    let mut rig = rig(u32::MAX);
    let _ = rig.machine.serve_bays(&mut rig.host, 0);
    let _ = rig.machine.mailboxes()[0].post_vector(0x40, stockade_apic::Trigger::Edge);
    let kept = vigil::keep(&mut rig.vcpu, &rig.machine, &mut rig.host).unwrap();
    assert_eq!((kept, rig.looks()), (Kept::Yes, 1));
}

#[test]
fn a_signal_of_the_host_ends_a_vigil() {
    let mut rig = rig(u32::MAX);
    rig.host.signals = alloc::vec![Signals::default(), Signals::default()];
    rig.turn();
    assert_eq!((rig.looks(), rig.host.waits), (1, 0));
}

/// No timer is set for what is due meanwhile.
#[test]
fn what_is_due_ends_a_vigil() {
    let mut rig = rig(u32::MAX);
    let interval = &rig.counts.interval_ns;
    interval.store(3 * LOOK_NS, Ordering::Relaxed);
    rig.turn();
    assert_eq!((rig.looks(), rig.host.armed.len()), (3, 0));
}
