use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_backend::block::{Block, MIN_MEMORY};
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_boot::manifest::DiskAccess;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::VirtioDevice;
use stockade_devices::virtio::blk::Blk;

use super::Plain;
use crate::virtio::fake_guest::{
    DATA, DISCARD, FLUSH, FakeGuest, IN, OPEN, OUT, RANGES, WRITE_ZEROES, segment, settle_counting,
};
use crate::virtio::{Engine, Turn};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};
const SECTORS: u64 = 4096;

/// A guest with a ready driver, a host's disk, and the engine between them.
struct Rig<'m> {
    guest: FakeGuest<'m>,
    blk: Blk,
    engine: Plain,
    host: FakeHost,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory) -> Self {
        let shared = SharedFake::new(MIN_MEMORY.max(1 << 20));
        let mut host = FakeHost::disk(shared.clone(), SECTORS);
        let shared: AnyShared = Box::new(shared);
        let block = Block::open(&mut host, FakeHost::function(), shared, DOORBELL).unwrap();
        let (mut blk, engine) = Plain::new(block, DiskAccess::ReadWrite, [0; 20], 1);
        Self {
            guest: FakeGuest::start(memory, &mut blk),
            blk,
            engine,
            host,
        }
    }

    fn turn(&mut self) -> Turn {
        let memory = self.guest.memory;
        self.engine.turn(&mut self.blk, memory, &mut self.host)
    }

    fn gathers(&self) -> bool {
        self.engine.gathers(&self.blk)
    }

    /// Turns, and a host that answers, until neither has anything to do.
    fn settle(&mut self) {
        let is_settled = |rig: &mut Self| rig.turn() == Turn::Done && rig.host.serve_disk() == 0;
        assert!((0..100).any(|_| is_settled(self)));
    }

    /// The same; returns how often the turns allocated memory. The fake host may.
    fn settle_counting(&mut self) -> u64 {
        let Self {
            guest,
            blk,
            engine,
            host,
        } = self;
        settle_counting(host, 100, |host| engine.turn(blk, guest.memory, host))
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 253).unwrap()).collect()
}

/// What a guest can ask for at will costs no memory: none can run out.
#[test]
fn requests_of_a_disk_in_use_allocate_nothing() {
    let memory = FakeMemory::new(0x20_0000);
    let mut rig = Rig::new(&memory);
    let all = |rig: &mut Rig<'_>| {
        let asked = [
            rig.guest.ask_range(DISCARD, 16, 32),
            rig.guest.ask(OUT, 8, &[segment(DATA, 300 << 10)], &[]),
            rig.guest.ask(IN, 8, &[], &[segment(DATA, 300 << 10)]),
            rig.guest.ask(FLUSH, 0, &[], &[]),
        ];
        let allocated = rig.settle_counting();
        assert_eq!(asked.map(|number| rig.guest.status(number)), [0; 4]);
        allocated
    };
    all(&mut rig);
    assert_eq!(all(&mut rig), 0);
}

/// What a guest is told to last does: the host has answered a flush, not only the write before it.
#[test]
fn a_flush_is_open_until_the_host_has_answered_its_own() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    let written = rig.guest.ask(OUT, 8, &[segment(DATA, 512)], &[]);
    let flushed = rig.guest.ask(FLUSH, 0, &[], &[]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        rig.turn();
        seen.push([written, flushed].map(|number| rig.guest.status(number)));
        rig.host.serve_disk_requests(1);
    }
    assert_eq!(seen, [[OPEN, OPEN], [0, OPEN], [0, 0]]);
    assert_eq!(rig.host.asked, [(OUT, 8), (FLUSH, 0)]);
}

#[test]
fn a_flush_the_host_fails_is_an_error() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    rig.host.failing = Some(FLUSH);
    let number = rig.guest.ask(FLUSH, 0, &[], &[]);
    rig.settle();
    assert_eq!(rig.guest.status(number), 1);
}

/// A driver that does not know of the cache never flushes it: a write that is over must last (Virtio 1.2, 5.2.6.2).
#[test]
fn without_flushes_of_the_drivers_each_write_is_followed_by_one_of_ours() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    rig.blk.reset();
    rig.guest = FakeGuest::start_with(&memory, &mut rig.blk, RANGES);
    let written = rig.guest.ask(OUT, 8, &[segment(DATA, 512)], &[]);
    rig.turn();
    assert_eq!(rig.host.serve_disk(), 1);
    rig.turn();
    assert_eq!(rig.guest.status(written), OPEN, "the flush is missing");
    assert_eq!(rig.host.serve_disk(), 1);
    rig.turn();
    assert_eq!(rig.guest.status(written), 0);
    let zeroed = rig.guest.ask_range(WRITE_ZEROES, 16, 32);
    rig.settle();
    assert_eq!(rig.guest.status(zeroed), 0);
    let kinds: Vec<u32> = rig.host.asked.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [OUT, FLUSH, WRITE_ZEROES, FLUSH]);
}

/// A request of 512 KiB is four chunks, and its buffers end nowhere near theirs.
#[test]
fn what_was_written_in_chunks_is_read_back_from_other_buffers() {
    let memory = FakeMemory::new(0x20_0000);
    let mut rig = Rig::new(&memory);
    let bytes = pattern(512 << 10);
    memory.write(Gpa(DATA), &bytes).unwrap();
    let parts = [
        segment(DATA, 512 * 700),
        segment(DATA + 512 * 700, 512 * 324),
    ];
    let written = rig.guest.ask(OUT, 8, &parts, &[]);
    rig.settle();
    assert_eq!(rig.guest.status(written), 0);
    assert_eq!(rig.host.disk[8 * 512..][..bytes.len()], bytes);
    memory.write(Gpa(DATA), &vec![0; bytes.len()]).unwrap();
    let parts = [segment(DATA, 512 * 3), segment(DATA + 512 * 3, 512 * 1021)];
    let read = rig.guest.ask(IN, 8, &[], &parts);
    rig.settle();
    let mut back = vec![0; bytes.len()];
    memory.read(Gpa(DATA), &mut back).unwrap();
    assert!(rig.guest.status(read) == 0 && back == bytes);
}

/// A guest that asks one after the other notifies once: the end of the first finds the others.
#[test]
fn nobody_notifies_of_requests_while_one_is_with_the_host() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    rig.guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
    assert!(rig.guest.driver.should_kick());
    assert_eq!((rig.turn(), rig.gathers()), (Turn::Done, true));
    for _ in 0..2 {
        rig.guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
        assert!(!rig.guest.driver.should_kick());
    }
    assert_eq!(rig.host.serve_disk(), 1);
    assert_eq!(rig.turn(), Turn::Done);
    assert_eq!(rig.host.serve_disk(), 2);
    assert_eq!((rig.turn(), rig.gathers()), (Turn::Done, false));
    rig.guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
    assert!(rig.guest.driver.should_kick());
    rig.settle();
    assert!((0..4).all(|number| rig.guest.status(number) == 0));
}

/// What is looked at before the host would signal is taken.
#[test]
fn completions_are_gathered_and_one_that_is_there_is_not_kept_back() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    for _ in 0..4 {
        rig.guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
    }
    assert_eq!(
        (rig.turn(), rig.engine.host.gathering.awaited()),
        (Turn::Done, 4)
    );
    rig.host.serve_disk_requests(1);
    assert_eq!(
        (rig.turn(), rig.engine.host.gathering.awaited()),
        (Turn::Done, 3)
    );
    let answered: Vec<u8> = (0..4).map(|number| rig.guest.status(number)).collect();
    assert_eq!(answered, [0, OPEN, OPEN, OPEN]);
    rig.settle();
    assert!(!rig.gathers());
}

#[test]
fn ranges_the_guest_gives_up_or_zeroes_are_the_hosts_to_forget() {
    for (kind, name) in [(DISCARD, "discard"), (WRITE_ZEROES, "zeroes")] {
        let memory = FakeMemory::new(0x4_0000);
        let mut rig = Rig::new(&memory);
        rig.host.disk.fill(7);
        let number = rig.guest.ask_range(kind, 16, 32);
        rig.settle();
        assert_eq!(rig.guest.status(number), 0, "{name}");
        let (before, rest) = rig.host.disk.split_at(16 * 512);
        let (range, behind) = rest.split_at(32 * 512);
        assert!(range.iter().all(|byte| *byte == 0), "{name}");
        assert!(before.iter().chain(behind).all(|byte| *byte == 7), "{name}");
    }
}

/// Also what waits in the ring: nobody waits for a host that is gone.
#[test]
fn requests_of_a_disk_that_goes_offline_are_errors() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    let sent = rig.guest.ask(IN, 0, &[], &[segment(DATA, 512)]);
    rig.turn();
    assert_eq!(rig.guest.status(sent), OPEN);
    rig.host.finish(0, 9999, 1);
    let waiting = rig.guest.ask(FLUSH, 0, &[], &[]);
    let written = rig.guest.ask(OUT, 0, &[segment(DATA, 512)], &[]);
    for _ in 0..5 {
        rig.turn();
    }
    assert_eq!(
        [sent, waiting, written].map(|number| rig.guest.status(number)),
        [1; 3]
    );
}

/// What the host read for the driver before lands nowhere.
#[test]
fn answers_to_a_driver_that_was_reset_change_no_memory() {
    let memory = FakeMemory::new(0x4_0000);
    let mut rig = Rig::new(&memory);
    rig.host.disk.fill(7);
    rig.guest.ask(IN, 0, &[], &[segment(DATA, 4096)]);
    rig.turn();
    rig.blk.reset();
    rig.settle();
    let mut bytes = [9; 4096];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    assert_eq!((bytes, rig.guest.status(0)), ([0; 4096], OPEN));
}
