use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_backend::console::{BUFFER_BYTES, Console as Wire, MEMORY};
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_backend::watch::{INTERVAL_NS, LOOKS};
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::console::{Console, SIZE};
use stockade_devices::virtio::driver::Driver;
use stockade_devices::virtio::queue::Segment;
use stockade_devices::virtio::{Features, VirtioDevice};

use super::Characters;
use crate::virtio::{Engine, Turn};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};
const WRITTEN: u64 = 0x8000;
const READ: u64 = 0xC000;

/// A guest with a ready driver, a host's console, and the engine between them.
struct Rig<'m> {
    memory: &'m FakeMemory,
    receive: Driver<'m>,
    transmit: Driver<'m>,
    console: Console,
    engine: Characters,
    host: FakeHost,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory) -> Self {
        let shared = SharedFake::new(MEMORY);
        let mut host = FakeHost::console(shared.clone());
        host.config[..4].copy_from_slice(&[132, 0, 43, 0]);
        let shared: AnyShared = Box::new(shared);
        let wire = Wire::open(&mut host, FakeHost::function(), shared, DOORBELL).unwrap();
        let (mut console, engine) = Characters::new(wire);
        let chosen = Features::VERSION_1 | SIZE;
        console.negotiate(chosen).unwrap();
        let receive = Driver::new(memory, 0x1000, 64, chosen);
        let transmit = Driver::new(memory, 0x4000, 64, chosen);
        console.activate(&[Some(receive.config), Some(transmit.config)], memory);
        Self {
            memory,
            receive,
            transmit,
            console,
            engine,
            host,
        }
    }

    fn turn(&mut self) -> Turn {
        self.engine
            .turn(&mut self.console, self.memory, &mut self.host)
    }

    /// Looks after the host's console at a time; returns when the next turn is due.
    fn look(&mut self, looks: u32) -> u64 {
        let now_ns = u64::from(looks) * INTERVAL_NS;
        let next = self.engine.watch(&mut self.host, now_ns);
        next.unwrap_or(u64::MAX)
    }

    fn lost(&self) -> u64 {
        self.engine.refusals(&self.console).lost_characters
    }

    fn write(&mut self, bytes: &[u8]) {
        self.memory.write(Gpa(WRITTEN), bytes).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let gpa = Gpa(WRITTEN);
        self.transmit
            .add(&[Segment { gpa, len }], &[], None)
            .unwrap();
    }

    /// Takes what the guest wrote, as the host's device does.
    fn printed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((head, buffers)) = self.host.next_chain(1) {
            let (address, len) = (buffers[0].address, buffers[0].len);
            all.extend(self.host.memory.device_read(address, len));
            self.host.finish(1, head.into(), 0);
        }
        all
    }

    fn typed(&mut self, bytes: &[u8]) {
        let (head, buffers) = self.host.next_chain(0).unwrap();
        self.host.memory.device_write(buffers[0].address, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.host.finish(0, head.into(), len);
    }

    fn offer(&mut self, len: u32) {
        let gpa = Gpa(READ);
        self.receive
            .add(&[], &[Segment { gpa, len }], None)
            .unwrap();
    }

    /// What the guest finds in the buffer it offered last.
    fn read(&mut self) -> Option<Vec<u8>> {
        let (_, len) = self.receive.take_used()?;
        let mut bytes = vec![0; len as usize];
        self.memory.read(Gpa(READ), &mut bytes).unwrap();
        Some(bytes)
    }

    fn size(&self) -> [u8; 4] {
        let mut size = [0; 4];
        self.console.read_config(0, &mut size);
        size
    }
}

#[test]
fn what_the_guest_writes_is_printed_in_order() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    let long: Vec<u8> = (0..2000_u16).map(|at| at.to_le_bytes()[0]).collect();
    rig.write(&long);
    while rig.turn() == Turn::More {}
    assert!(rig.printed() == long);
    assert!(rig.transmit.take_used().is_some());
}

/// A terminal somebody reads slowly.
#[test]
fn a_console_that_prints_now_and_then_makes_the_guest_wait_and_loses_nothing() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    let long: Vec<u8> = (0..0x3000_u16)
        .map(|at| (at % 251).to_le_bytes()[0])
        .collect();
    rig.write(&long);
    let mut printed = Vec::new();
    for looks in 0..10 * LOOKS {
        let _ = rig.turn();
        rig.look(looks);
        if looks % LOOKS == 0 {
            assert!(looks != 0 || rig.transmit.take_used().is_none());
            printed.extend(rig.printed());
        }
    }
    assert!(printed == long);
    assert!(rig.transmit.take_used().is_some());
    assert_eq!(rig.lost(), 0);
}

/// The guest's driver would wait on the spot for ever.
#[test]
fn a_console_that_prints_nothing_keeps_the_guest_for_a_minute_and_loses_what_is_written_then() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    rig.write(&[b'x'; 0x3000]);
    for looks in 0..=LOOKS {
        while rig.turn() == Turn::More {}
        assert!(rig.look(looks) > u64::from(looks) * INTERVAL_NS);
        assert!(rig.transmit.take_used().is_none(), "look {looks}");
    }
    let last = LOOKS + 1;
    assert_eq!(rig.look(last), u64::from(last) * INTERVAL_NS);
    while rig.turn() == Turn::More {}
    assert!(rig.transmit.take_used().is_some());
    let held = 16 * BUFFER_BYTES;
    assert_eq!(rig.lost(), 0x3000 - held as u64);
    assert_eq!(rig.engine.refusals(&rig.console).offline_devices, 0);
    // Whoever reads again reads what comes from now on.
    assert_eq!(rig.printed().len(), held);
    rig.write(b"again");
    while rig.turn() == Turn::More {}
    assert_eq!(rig.printed(), b"again");
}

/// Nobody would come to take what the guest still has.
#[test]
fn a_console_that_goes_offline_in_a_turn_gets_another() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    rig.write(&[b'x'; 0x1000]);
    while rig.turn() == Turn::More {}
    assert!(rig.transmit.take_used().is_some());
    // The host holds that, so a turn finds it full, and then that it is not to be notified.
    while rig.host.next_chain(1).is_some() {}
    rig.host.listen(1);
    rig.host.is_refusing = true;
    rig.write(&[b'x'; 0x2000]);
    while rig.turn() == Turn::More {}
    assert!(rig.transmit.take_used().is_some());
    assert_eq!(rig.lost(), 0x1000);
}

#[test]
fn what_is_typed_waits_for_buffers_of_the_guests() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    rig.typed(b"hello");
    rig.typed(b"there");
    assert_eq!(rig.turn(), Turn::Done);
    assert_eq!(rig.read(), None);
    for expected in [&b"hel"[..], b"lo", b"the", b"re"] {
        rig.offer(3);
        let _ = rig.turn();
        assert_eq!(rig.read().as_deref(), Some(expected));
    }
}

#[test]
fn a_console_that_is_offline_takes_all_the_guest_writes() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    rig.host.finish(0, 999, 12);
    let _ = rig.turn();
    for _ in 0..10 {
        rig.write(&[b'x'; 3 * BUFFER_BYTES]);
        while rig.turn() == Turn::More {}
        assert!(rig.transmit.take_used().is_some());
    }
    assert!(rig.printed().is_empty());
}

#[test]
fn the_guest_is_told_a_new_size_once() {
    let memory = FakeMemory::new(0x1_0000);
    let mut rig = Rig::new(&memory);
    assert_eq!(rig.size(), [132, 0, 43, 0]);
    rig.host.config[..4].copy_from_slice(&[80, 0, 25, 0]);
    rig.engine.check(&mut rig.host);
    for is_told in [true, false] {
        let _ = rig.turn();
        assert_eq!(rig.size(), [80, 0, 25, 0]);
        assert_eq!(rig.console.take_interrupts(&memory).config, is_told);
    }
}
