use alloc::boxed::Box;

use stockade_backend::block::{Block, MIN_MEMORY};
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_backend::watch::{INTERVAL_NS, LOOKS};
use stockade_boot::manifest::DiskAccess;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory, PciConfig};
use stockade_devices::pci::{Bar, PciFunction};
use stockade_devices::virtio::queue::QueueConfig;

use super::Card;
use crate::virtio::fake_guest::{DATA, FakeGuest, IN, Locked, OPEN, STATUSES, segment};
use crate::virtio::{Fitted, Plain, Turn};

const REGISTERS: Bar = Bar::try_new(4).unwrap();
const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};

/// A plain disk of sevens whose driver has asked for a sector.
struct Rig {
    card: Card<Plain>,
    host: FakeHost,
    memory: &'static Locked,
}

impl Rig {
    fn new() -> Self {
        let shared = SharedFake::new(MIN_MEMORY);
        let mut host = FakeHost::disk(shared.clone(), 64);
        host.disk.fill(7);
        let shared: AnyShared = Box::new(shared);
        let block = Block::open(&mut host, FakeHost::function(), shared, DOORBELL).unwrap();
        let (mut blk, engine) = Plain::new(block, DiskAccess::ReadWrite, [0; 20], 1);
        let memory = FakeMemory::new(0x2_0000);
        let mut guest = FakeGuest::start(&memory, &mut blk);
        guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
        let queue = guest.driver.config;
        let memory = Locked::leak(memory);
        let mut rig = Self {
            card: Card::new((blk, engine), memory),
            host,
            memory,
        };
        rig.start(queue);
        rig
    }

    /// Does what a driver does (Virtio 1.2, 3.1.1), but does not let the device master the bus.
    fn start(&mut self, queue: QueueConfig) {
        // VERSION_1 alone.
        let mut write = |offset, value: u64, len: usize| {
            let bytes = value.to_le_bytes();
            let card = &mut self.card;
            card.bar_write(REGISTERS, offset, &bytes[..len]).unwrap();
        };
        write(0x14, 3, 1);
        write(0x08, 1, 4);
        write(0x0C, 1, 4);
        write(0x14, 0xB, 1);
        write(0x18, queue.size.into(), 2);
        write(0x20, queue.descriptors.0, 8);
        write(0x28, queue.driver.0, 8);
        write(0x30, queue.device.0, 8);
        write(0x1C, 1, 2);
        write(0x14, 0xF, 1);
        assert_eq!(self.status(), 0xF);
    }

    fn set_master(&mut self, is_on: bool) {
        let command = if is_on { 6 } else { 2 };
        self.card.config_write(4, command, 0xFFFF);
    }

    /// Turns, until there is nothing to do.
    fn turns(&mut self) {
        while self.card.turn(&mut self.host) == Turn::More {}
    }

    fn status(&mut self) -> u8 {
        let mut status = [0];
        self.card.bar_read(REGISTERS, 0x14, &mut status).unwrap();
        status[0]
    }

    /// The first byte of what the guest asked for, and the status of its request.
    fn answer(&self) -> [u8; 2] {
        [DATA, STATUSES].map(|gpa| {
            let mut byte = [0];
            self.memory.read(Gpa(gpa), &mut byte).unwrap();
            byte[0]
        })
    }
}

/// A guest that keeps a device from memory takes it back from there, and may have it go on.
#[test]
fn a_device_cut_off_from_memory_stands_still_and_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.turns();
    assert_eq!(rig.host.serve_disk(), 0, "the ring is not read");
    rig.set_master(true);
    rig.turns();
    assert_eq!(rig.host.serve_disk(), 1);

    rig.set_master(false);
    rig.turns();
    assert_eq!(rig.answer(), [0, OPEN]);
    assert!(!rig.card.gathers());
    for looks in 0..=2 * LOOKS {
        let now_ns = u64::from(looks) * INTERVAL_NS;
        assert_eq!(rig.card.watch(&mut rig.host, now_ns), None);
    }

    rig.set_master(true);
    rig.turns();
    assert_eq!(rig.answer(), [7, 0]);
    assert_eq!(rig.status(), 0xF, "it needs no reset");
    assert_eq!(rig.card.refusals().offline_devices, 0);
}

/// Else what the host still has would be its for good.
#[test]
fn a_device_cut_off_is_let_go_on_by_a_reset() {
    let mut rig = Rig::new();
    rig.set_master(true);
    rig.turns();
    rig.set_master(false);
    rig.card.reset();
    assert_eq!(rig.host.serve_disk(), 1);
    rig.turns();
    assert_eq!(rig.card.watch(&mut rig.host, 0), None, "none is left");
    assert_eq!(rig.answer(), [0, OPEN]);
}
