use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use stockade_backend::HostBus;
use stockade_backend::block::{Block, MIN_MEMORY};
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_boot::manifest::DiskAccess;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{AccessError, Gpa, GuestMemory, Level, PciConfig};
use stockade_devices::pci::{BARS, Bar, BarRange, MsiMessage, PciFunction};

use super::{Bays, DEVICE_VECTORS, Gathering, Moment};
use crate::machine::{Functions, SlotFunction};
use crate::virtio::fake_guest::{DATA, FakeGuest, IN, Locked, segment};
use crate::virtio::{Card, Fitted, Memory, Plain, Turn};

#[derive(Default)]
struct Counts {
    turns: AtomicU32,
    checks: AtomicU32,
    /// Turns that still leave something over.
    left: AtomicU32,
    /// How soon it wants to be watched; 0: not at all.
    interval_ns: AtomicU64,
    gathers: AtomicBool,
    is_hushed: AtomicBool,
    has_news: AtomicBool,
}

struct Device(Arc<Counts>);

impl Fitted for Device {
    fn turn(&mut self, _: &mut dyn HostBus) -> Turn {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        match self.0.left.load(Ordering::Relaxed) {
            0 => Turn::Done,
            left => {
                self.0.left.store(left - 1, Ordering::Relaxed);
                Turn::More
            }
        }
    }

    fn gathers(&mut self) -> bool {
        self.0.gathers.load(Ordering::Relaxed)
    }

    fn hush(&mut self) -> bool {
        self.0.is_hushed.store(true, Ordering::Relaxed);
        self.0.interval_ns.load(Ordering::Relaxed) != 0
    }

    fn has_news(&self) -> bool {
        self.0.has_news.load(Ordering::Relaxed)
    }

    fn check(&mut self, _: &mut dyn HostBus) {
        self.0.checks.fetch_add(1, Ordering::Relaxed);
    }

    fn watch(&mut self, _: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        match self.0.interval_ns.load(Ordering::Relaxed) {
            0 => None,
            interval => Some(now_ns + interval),
        }
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

struct NoBus;
stockade_backend::no_devices!(NoBus);

fn rig<const N: usize>() -> (Bays, [Arc<Counts>; N]) {
    let mut bays = Bays::default();
    let mut functions = Functions::default();
    let counts = [(); N].map(|()| Arc::new(Counts::default()));
    for counts in &counts {
        let device = Box::new(Device(Arc::clone(counts)));
        bays.fit(device, &mut functions).unwrap();
    }
    (bays, counts)
}

fn serve(bays: &Bays, now_ns: u64) -> Gathering {
    let moment = Moment {
        now_ns,
        patience_ns: 50,
    };
    bays.serve(&mut NoBus, moment, |_, _| {})
}

fn turns<const N: usize>(counts: &[Arc<Counts>; N]) -> [u32; N] {
    counts
        .each_ref()
        .map(|counts| counts.turns.load(Ordering::Relaxed))
}

#[test]
fn only_the_device_that_was_signalled_gets_a_turn() {
    let (bays, counts) = rig::<3>();
    assert!(!bays.want_attention());
    bays.signal(1 << 1);
    assert!(bays.want_attention());
    let _ = serve(&bays, 0);
    assert_eq!(turns(&counts), [0, 1, 0]);
    assert!(!bays.want_attention());
}

/// The guest runs between two turns of a device that has much to do.
#[test]
fn what_a_turn_leaves_over_keeps_the_attention() {
    let (bays, counts) = rig::<1>();
    counts[0].left.store(2, Ordering::Relaxed);
    bays.signal(1);
    for expected in [true, true, false] {
        let _ = serve(&bays, 0);
        assert_eq!(bays.want_attention(), expected);
    }
    assert_eq!(turns(&counts), [3]);
}

/// A vCPU that waited here would wait for another one's copying.
#[test]
fn a_device_in_use_elsewhere_is_left_alone_and_not_forgotten() {
    let (bays, counts) = rig::<1>();
    bays.signal(1);
    let bay = Arc::clone(&bays.bays[0].1);
    bay.with(&mut |_| {
        let _ = serve(&bays, 0);
    });
    assert_eq!(turns(&counts), [0]);
    assert!(bays.want_attention());
    let _ = serve(&bays, 0);
    assert_eq!(turns(&counts), [1]);
}

#[test]
fn a_change_has_every_device_checked_once() {
    let (bays, counts) = rig::<2>();
    bays.signal(1 << DEVICE_VECTORS);
    let _ = serve(&bays, 0);
    bays.signal(0b11);
    let _ = serve(&bays, 0);
    for counts in counts {
        assert_eq!(counts.checks.load(Ordering::Relaxed), 1);
    }
}

/// Each comparison is a dozen calls to the host, who may report a change after each of them.
#[test]
fn changes_without_end_are_looked_at_now_and_then() {
    let (bays, counts) = rig::<1>();
    for _ in 0..1000 {
        bays.signal(1 << DEVICE_VECTORS);
        let _ = serve(&bays, 0);
    }
    assert_eq!(counts[0].checks.load(Ordering::Relaxed), 4);
}

#[test]
fn devices_beyond_the_vectors_share_them() {
    let (bays, counts) = rig::<14>();
    assert_eq!(bays.vector_of_next(), 2);
    bays.signal(1 << 1);
    let _ = serve(&bays, 0);
    let served: alloc::vec::Vec<usize> = turns(&counts)
        .iter()
        .enumerate()
        .filter_map(|(index, turns)| (*turns != 0).then_some(index))
        .collect();
    assert_eq!(served, [1, 13]);
}

/// Nobody signals for a host that says nothing.
#[test]
fn a_device_whose_host_has_something_gets_a_turn_when_it_is_due() {
    let (bays, counts) = rig::<2>();
    assert_eq!(bays.due_ns(), u64::MAX);
    counts[0].interval_ns.store(500, Ordering::Relaxed);
    counts[1].interval_ns.store(700, Ordering::Relaxed);
    bays.signal(0b11);
    let _ = serve(&bays, 100);
    assert_eq!(bays.due_ns(), 600);
    bays.call_due(599);
    assert!(!bays.want_attention());
    bays.call_due(600);
    assert!(bays.want_attention());
    assert_eq!(bays.due_ns(), 800);
    counts[0].interval_ns.store(0, Ordering::Relaxed);
    let _ = serve(&bays, 650);
    assert_eq!(turns(&counts), [2, 1]);
    bays.call_due(800);
    let _ = serve(&bays, 800);
    assert_eq!(turns(&counts), [2, 2]);
    assert_eq!(bays.due_ns(), 1500);
}

/// One processor that hears all devices would do all their work.
#[test]
fn devices_signal_one_processor_after_the_other() {
    let (bays, counts) = rig::<3>();
    assert_eq!(
        [1, 2, 4].map(|vcpus| bays.processor_of_next(vcpus)),
        [0, 1, 3]
    );
    assert_eq!(bays.processor_of_next(0), 0);
    bays.look_at_all();
    let _ = serve(&bays, 0);
    assert_eq!(turns(&counts), [1; 3]);
}

/// Nobody signals for what it waits for.
#[test]
fn a_device_that_gathers_gets_a_turn_soon_and_before_a_processor_sleeps() {
    let (bays, counts) = rig::<2>();
    counts[0].gathers.store(true, Ordering::Relaxed);
    bays.look_at_all();
    assert_eq!(serve(&bays, 100), Gathering::Yes);
    assert_eq!(bays.look_ns(), 150);
    bays.call_due(149);
    assert!(!bays.want_attention());
    bays.call_due(150);
    assert_eq!(serve(&bays, 160), Gathering::Yes);
    assert_eq!(turns(&counts), [2, 1]);
    bays.look_early();
    assert!(bays.want_attention());
    counts[0].gathers.store(false, Ordering::Relaxed);
    assert_eq!(serve(&bays, 170), Gathering::No);
    assert_eq!(turns(&counts), [3, 1]);
    bays.look_early();
    bays.call_due(u64::MAX - 1);
    assert!(!bays.want_attention());
    assert_eq!(bays.look_ns(), u64::MAX);
}

/// A turn of a device does not put off the look another one waits for.
#[test]
fn each_device_is_looked_at_after_its_own_turn() {
    let (bays, counts) = rig::<2>();
    for (index, now) in [(0, 100), (1, 120)] {
        counts[index].gathers.store(true, Ordering::Relaxed);
        bays.signal(1 << index);
        let _ = serve(&bays, now);
    }
    assert_eq!(bays.look_ns(), 150);
    counts[0].gathers.store(false, Ordering::Relaxed);
    bays.call_due(150);
    let _ = serve(&bays, 150);
    assert_eq!((turns(&counts), bays.look_ns()), ([2, 1], 170));
}

/// Whoever looks instead of being signalled ends with a turn, which asks for signals again.
#[test]
fn a_vigil_is_for_devices_whose_hosts_have_something_and_ends_with_their_turns() {
    let (bays, counts) = rig::<3>();
    counts[1].interval_ns.store(500, Ordering::Relaxed);
    bays.look_at_all();
    let _ = serve(&bays, 0);
    assert!(bays.are_expecting());
    let watched = bays.begin_vigil();
    assert!(!watched.is_empty() && !bays.are_expecting());
    let hushed = counts
        .each_ref()
        .map(|it| it.is_hushed.load(Ordering::Relaxed));
    assert_eq!(hushed, [false, true, false]);
    counts[2].has_news.store(true, Ordering::Relaxed);
    assert!(!bays.have_news(watched));
    counts[1].has_news.store(true, Ordering::Relaxed);
    assert!(bays.have_news(watched));
    bays.end_vigil(watched);
    let _ = serve(&bays, 0);
    assert_eq!(turns(&counts), [1, 2, 1]);
    assert!(bays.are_expecting());
}

/// Two vCPUs that look for the same would be in each other's way.
#[test]
fn one_vcpu_keeps_a_vigil_and_none_for_a_device_in_use() {
    let (bays, counts) = rig::<1>();
    counts[0].interval_ns.store(500, Ordering::Relaxed);
    bays.look_at_all();
    let _ = serve(&bays, 0);
    let watched = bays.begin_vigil();
    assert!(bays.begin_vigil().is_empty());
    bays.end_vigil(watched);
    let _ = serve(&bays, 0);
    let bay = Arc::clone(&bays.bays[0].1);
    bay.with(&mut |_| assert!(bays.begin_vigil().is_empty()));
}

/// A plain disk whose driver has asked to read a sector of sevens, in memory of its own.
fn disk(work: impl FnOnce(&mut FakeGuest<'_>)) -> (Card<Plain>, FakeHost, &'static Locked) {
    let shared = SharedFake::new(MIN_MEMORY.max(1 << 20));
    let mut host = FakeHost::disk(shared.clone(), 64);
    host.disk.fill(7);
    let doorbell = Doorbell {
        apic_id: 0,
        vector: 0xE4,
        change_vector: 0xEF,
    };
    let shared: AnyShared = Box::new(shared);
    let block = Block::open(&mut host, FakeHost::function(), shared, doorbell).unwrap();
    let (mut blk, engine) = Plain::new(block, DiskAccess::ReadWrite, [0; 20], 1);
    let memory = FakeMemory::new(0x2_0000);
    let mut guest = FakeGuest::start(&memory, &mut blk);
    guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
    work(&mut guest);
    let memory = Locked::leak(memory);
    let mut card = Card::new((blk, engine), memory as Memory);
    // It may master the bus.
    card.config_write(4, 6, 0xFFFF);
    (card, host, memory)
}

const REGISTERS: Bar = Bar::try_new(4).unwrap();
/// Its place among the registers, and what it says of a device that is broken (Virtio 1.2, 2.1 and 4.1.4.3).
const DEVICE_STATUS: u64 = 0x14;
const NEEDS_RESET: u8 = 64;

#[test]
fn a_driver_that_breaks_the_rules_stops_its_own_device_and_no_other() {
    let mut functions = Functions::default();
    let mut bays = Bays::default();
    let (broken, mut host, _) = disk(|guest| {
        // More than its ring has room for.
        let index = guest.driver.config.driver.0 + 2;
        guest.driver.put_u16(index, 1000);
    });
    bays.fit(Box::new(broken), &mut functions).unwrap();
    let (good, mut other, memory) = disk(|_| {});
    bays.fit(Box::new(good), &mut functions).unwrap();
    bays.look_at_all();
    for _ in 0..4 {
        let _ = bays.serve(&mut host, Moment::default(), |_, _| {});
        let served = [host.serve_disk(), other.serve_disk()];
        assert_eq!(served[0], 0, "nothing of the broken ring is asked for");
        bays.signal(0b11);
    }
    let mut statuses = [0; 2];
    for (status, (_, bay)) in statuses.iter_mut().zip(&bays.bays) {
        bay.with(&mut |card| {
            let byte = core::slice::from_mut(status);
            card.bar_read(REGISTERS, DEVICE_STATUS, byte).unwrap();
        });
    }
    assert_eq!(
        statuses.map(|status| status & NEEDS_RESET),
        [NEEDS_RESET, 0]
    );
    let mut sector = [0; 512];
    memory.read(Gpa(DATA), &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
}
