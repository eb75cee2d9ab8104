//! The engine between a guest's driver, a fake host's disk and a store on another.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_backend::block::MIN_MEMORY;
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::transport::Doorbell;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::VirtioDevice;
use stockade_storage::disk::format::Header;
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::{Access, Anchoring, Config, Freshness, RootSecret, Trust};

use super::*;
use crate::records::tests::{empty, open, settle};
use crate::virtio::fake_guest::{
    DATA, DISCARD, FLUSH, FakeGuest, IN, OPEN, OUT, WRITE_ZEROES, segment, settle_counting,
};
use crate::virtio::{Bays, Engine};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};
const BLOCKS: u64 = 600;
const MEMORY: usize = 0x20_0000;
const WORD: &[u8; 16] = b"a word to look a";
/// Superblocks, in sectors.
const SUPERBLOCKS: [u64; 2] = [8, 16];

/// Returns an empty sealed disk's file.
fn file() -> Vec<u8> {
    let geometry = Geometry::try_new(BLOCKS).unwrap();
    let mut file = vec![0; usize::try_from(geometry.total_blocks()).unwrap() * BLOCK_BYTES];
    file[..BLOCK_BYTES].copy_from_slice(&Header::new(&geometry, [7; 16]).to_block());
    file
}

/// A guest with a ready driver, the engine, and the hosts of the disk and of the store, if there is one.
struct Rig<'m> {
    guest: FakeGuest<'m>,
    blk: Blk,
    engine: Sealed,
    host: FakeHost,
    store: Option<(FakeHost, Bays)>,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory) -> Self {
        Self::of_file(memory, file(), None)
    }

    /// A disk whose newest state is kept.
    fn remembered(memory: &'m FakeMemory) -> Self {
        Self::of_file(memory, file(), Some(empty()))
    }

    fn of_file(memory: &'m FakeMemory, file: Vec<u8>, store: Option<Vec<u8>>) -> Self {
        let shared = SharedFake::new(MIN_MEMORY.max(1 << 20));
        let mut host = FakeHost::disk(shared.clone(), file.len() as u64 / 512);
        let host_blocks = (file.len() / BLOCK_BYTES) as u64;
        host.disk = file;
        let block = Block::open(
            &mut host,
            FakeHost::function(),
            Box::new(shared) as AnyShared,
            DOORBELL,
        );
        let block = block.unwrap();
        let mut bays = Bays::default();
        let store = store.map(|file| open(file, &mut bays));
        let anchors = store
            .as_ref()
            .map(|(_, records)| Anchors::new(records.clone(), 0));
        let trust = anchors.as_ref().map_or(Trust::FirstUse, |anchors| {
            anchors.trust().expect("nobody else is at the store")
        });
        let config = Config {
            slots: block.slot_count(),
            access: Access::ReadWrite,
            anchoring: match &anchors {
                Some(_) => Anchoring::Strict,
                None => Anchoring::Lazy,
            },
            ..Config::default()
        };
        let key = RootSecret::new([3; 32]).disk_key("0");
        let disk = SealedDisk::new(key, [4; 32], trust, host_blocks, config).unwrap();
        let mut engine = Sealed::new(disk, block, anchors);
        let mut store = store.map(|(host, _)| (host, bays));
        for _ in 0..100 {
            engine.open(&mut host);
            host.serve_disk();
            if let Some((host, bays)) = &mut store {
                settle(host, bays);
            }
        }
        assert!(matches!(engine.state(), State::Open(_)) && engine.is_anchored());
        let mut blk = engine.front(DiskAccess::ReadWrite, [0; 20], 1).unwrap();
        host.asked.clear();
        Self {
            guest: FakeGuest::start(memory, &mut blk),
            blk,
            engine,
            host,
            store,
        }
    }

    fn turn(&mut self) -> Turn {
        let memory = self.guest.memory;
        self.engine.turn(&mut self.blk, memory, &mut self.host)
    }

    /// Turns, and a host of the disk that answers, until neither has anything to do. The store is left alone.
    fn settle_disk(&mut self) {
        let is_settled = |rig: &mut Self| rig.turn() == Turn::Done && rig.host.serve_disk() == 0;
        assert!((0..1000).any(|_| is_settled(self)));
    }

    /// The same; returns how often the turns allocated memory. The fake host may.
    fn settle_counting(&mut self) -> u64 {
        let Self {
            guest,
            blk,
            engine,
            host,
            ..
        } = self;
        settle_counting(host, 1000, |host| engine.turn(blk, guest.memory, host))
    }

    /// The same with the store.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.settle_disk();
            if let Some((host, bays)) = &mut self.store {
                settle(host, bays);
            }
        }
    }

    /// Writes blocks of this byte, begun with a word.
    fn write(&mut self, block: u64, blocks: u32, byte: u8) -> u64 {
        let mut bytes = vec![byte; blocks as usize * BLOCK_BYTES];
        bytes[..16].copy_from_slice(WORD);
        self.guest.memory.write(Gpa(DATA), &bytes).unwrap();
        let data = segment(DATA, blocks * 4096);
        self.guest.ask(OUT, block * 8, &[data], &[])
    }

    /// Reads blocks; returns the status and the bytes.
    fn read(&mut self, block: u64, blocks: u32) -> (u8, Vec<u8>) {
        let data = segment(DATA, blocks * 4096);
        let number = self.guest.ask(IN, block * 8, &[], &[data]);
        self.settle();
        let bytes = self.guest.bytes(DATA, blocks as usize * BLOCK_BYTES);
        (self.guest.status(number), bytes)
    }

    fn flush(&mut self) -> u64 {
        self.guest.ask(FLUSH, 0, &[], &[])
    }

    fn statuses<const N: usize>(&self, numbers: [u64; N]) -> [u8; N] {
        numbers.map(|number| self.guest.status(number))
    }
}

/// What a guest can ask for at will costs no memory: none can run out.
#[test]
fn requests_of_a_disk_in_use_allocate_nothing() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    let mut all = || {
        let asked = [
            rig.write(5, 40, 0x5A),
            rig.flush(),
            rig.guest.ask(IN, 40, &[], &[segment(DATA, 40 * 4096)]),
        ];
        let mut allocated = 0;
        for _ in 0..8 {
            allocated += rig.settle_counting();
            let (host, bays) = rig.store.as_mut().unwrap();
            settle(host, bays);
        }
        assert_eq!(rig.statuses(asked), [0; 3]);
        allocated
    };
    all();
    assert_eq!(all(), 0);
}

fn holds(file: &[u8], word: &[u8]) -> bool {
    file.windows(word.len()).any(|window| window == word)
}

#[test]
fn what_was_written_is_read_back_and_the_host_has_none_of_it() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    let written = rig.write(5, 40, 0x5A);
    rig.settle();
    assert_eq!(rig.guest.status(written), 0);
    memory.write(Gpa(DATA), &[0; 40 * BLOCK_BYTES]).unwrap();
    let (status, bytes) = rig.read(5, 40);
    assert_eq!((status, &bytes[..16]), (0, &WORD[..]));
    assert!(bytes[16..].iter().all(|byte| *byte == 0x5A));
    assert!(!holds(&rig.host.disk, WORD) && !holds(&rig.host.disk, &[0x5A; 16]));
    assert_eq!(rig.read(100, 1), (0, vec![0; BLOCK_BYTES]));
}

/// Between the two flushes of a commit is its superblock alone: whatever the power cut leaves, a whole tree is there.
#[test]
fn a_flush_is_answered_behind_the_blocks_the_superblock_and_a_flush_after_each() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    let written = rig.write(0, 3, 1);
    let flush = rig.flush();
    while rig.guest.status(flush) == OPEN {
        let flushes = rig.host.asked.iter().filter(|(kind, _)| *kind == FLUSH);
        assert!(flushes.count() <= 2);
        rig.turn();
        rig.host.serve_disk_requests(1);
    }
    assert_eq!(rig.statuses([written, flush]), [0, 0]);
    let asked = &rig.host.asked;
    let (before, commit) = asked.split_at(asked.len() - 3);
    assert!(matches!(commit, [(FLUSH, _), (OUT, at), (FLUSH, _)] if SUPERBLOCKS.contains(at)));
    assert!(before.len() > 1);
    assert!(
        before
            .iter()
            .all(|(kind, at)| *kind == OUT && !SUPERBLOCKS.contains(at))
    );
}

#[test]
fn a_flush_is_answered_when_the_store_has_its_anchor_for_good() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    let written = rig.write(0, 1, 1);
    let flush = rig.flush();
    rig.settle_disk();
    assert_eq!(rig.statuses([written, flush]), [0, OPEN]);
    assert!(!rig.engine.is_anchored() && rig.engine.keeps_records());
    // The store has been given it, and its host has not flushed: still nothing.
    let (store, bays) = rig.store.as_mut().unwrap();
    let _ = bays.serve(store, crate::virtio::Moment::default(), |_, _| {});
    rig.settle_disk();
    assert_eq!(rig.guest.status(flush), OPEN);
    rig.settle();
    assert_eq!(rig.guest.status(flush), 0);
    assert!(rig.engine.is_anchored());
}

/// One commit ahead of the store is what a power cut leaves; two would be a host's doing, so there never are.
#[test]
fn no_commit_is_begun_before_the_anchor_of_the_one_before_is_safe() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    let before = rig.engine.disk.generation().unwrap();
    let mut flushes = Vec::new();
    for byte in 0..3 {
        rig.write(0, 1, byte);
        flushes.push(rig.flush());
        rig.settle_disk();
    }
    assert_eq!(rig.engine.disk.generation(), Some(before + 1));
    assert!(flushes.iter().all(|flush| rig.guest.status(*flush) == OPEN));
    rig.settle();
    assert!(flushes.iter().all(|flush| rig.guest.status(*flush) == 0));
}

#[test]
fn what_the_guest_was_told_is_there_the_next_time_and_is_the_newest() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    rig.write(9, 2, 7);
    let flush = rig.flush();
    rig.settle();
    assert_eq!(rig.guest.status(flush), 0);
    let (store, _) = rig.store.unwrap();
    let memory = FakeMemory::new(MEMORY);
    let mut again = Rig::of_file(&memory, rig.host.disk, Some(store.disk));
    assert_eq!(again.engine.state(), State::Open(Freshness::Newest));
    assert_eq!(again.read(9, 1).1[..16], WORD[..]);
}

/// Nothing is acknowledged that the host could take back.
#[test]
fn a_disk_whose_store_fails_can_only_be_read_from_then_on() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    rig.write(0, 1, 1);
    let kept = rig.flush();
    rig.settle();
    rig.store.as_mut().unwrap().0.failing = Some(OUT);
    rig.write(1, 1, 2);
    let lost = rig.flush();
    rig.settle();
    let late = rig.write(2, 1, 3);
    let later = rig.flush();
    rig.settle();
    assert_eq!(rig.statuses([kept, lost, late, later]), [0, 1, 1, 1]);
    let (status, bytes) = rig.read(0, 1);
    assert_eq!((status, &bytes[..16]), (0, &WORD[..]));
}

#[test]
fn a_read_the_host_fails_is_an_error_of_that_request_alone() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    rig.write(0, 2, 1);
    rig.settle();
    rig.host.failing = Some(IN);
    assert_eq!(rig.read(0, 1).0, 1);
    rig.host.failing = None;
    assert_eq!(rig.read(0, 1).0, 0);
}

/// The old content is still what the disk has.
#[test]
fn a_write_the_host_fails_is_an_error_and_changes_nothing() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    rig.write(0, 1, 1);
    rig.settle();
    rig.host.failing = Some(OUT);
    let failed = rig.write(0, 1, 2);
    rig.settle();
    assert_eq!(rig.guest.status(failed), 1);
    rig.host.failing = None;
    let (status, bytes) = rig.read(0, 1);
    assert_eq!((status, bytes[BLOCK_BYTES - 1]), (0, 1));
}

#[test]
fn a_block_the_host_changed_is_an_error_and_its_neighbours_are_not() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    for block in 0..3 {
        rig.write(block, 1, 1);
        rig.settle();
    }
    let second = rig.host.asked[1].1;
    let at = usize::try_from(second * 512).unwrap();
    rig.host.disk[at + 77] ^= 1;
    let statuses = [0, 1, 2].map(|block| rig.read(block, 1).0);
    assert_eq!(statuses, [0, 1, 0]);
}

/// Nobody waits for a host that is gone, neither what it had nor what comes later.
#[test]
fn requests_of_a_disk_whose_host_lies_are_errors() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::remembered(&memory);
    rig.write(0, 1, 1);
    rig.settle();
    let sent = rig.write(1, 1, 1);
    rig.turn();
    assert_eq!(rig.guest.status(sent), OPEN);
    rig.host.finish(0, 9999, 1);
    let flush = rig.flush();
    let read = rig.guest.ask(IN, 0, &[], &[segment(DATA, 4096)]);
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!(rig.turn(), Turn::Done);
    assert_eq!(rig.statuses([sent, flush, read]), [1; 3]);
    assert!(!rig.engine.gathers(&rig.blk));
}

/// A freed block's ciphertext stays in the file, which the host is not asked to touch.
#[test]
fn ranges_given_up_or_zeroed_read_as_zeros_and_leave_the_file_alone() {
    for kind in [DISCARD, WRITE_ZEROES] {
        let memory = FakeMemory::new(MEMORY);
        let mut rig = Rig::new(&memory);
        rig.write(4, 8, 9);
        rig.settle();
        rig.host.asked.clear();
        let number = rig.guest.ask_range(kind, 5 * 8, 6 * 8);
        rig.settle();
        assert_eq!(rig.guest.status(number), 0, "{kind}");
        assert!(rig.host.asked.iter().all(|(asked, _)| *asked != kind));
        let (status, bytes) = rig.read(4, 8);
        assert_eq!(status, 0);
        assert!(bytes[16..BLOCK_BYTES].iter().all(|byte| *byte == 9));
        let (middle, last) = bytes[BLOCK_BYTES..].split_at(6 * BLOCK_BYTES);
        assert!(middle.iter().all(|byte| *byte == 0), "{kind}");
        assert!(last.iter().all(|byte| *byte == 9), "{kind}");
    }
}

/// What was read for the driver before lands nowhere, and the disk takes requests again.
#[test]
fn answers_to_a_driver_that_was_reset_change_no_memory() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    rig.write(0, 1, 7);
    rig.settle();
    memory.write(Gpa(DATA), &[0; BLOCK_BYTES]).unwrap();
    let read = rig.guest.ask(IN, 0, &[], &[segment(DATA, 4096)]);
    rig.turn();
    rig.blk.reset();
    rig.settle();
    assert_eq!(rig.guest.bytes(DATA, BLOCK_BYTES), [0; BLOCK_BYTES]);
    assert_eq!(rig.guest.status(read), OPEN);
    rig.guest = FakeGuest::start(&memory, &mut rig.blk);
    assert_eq!(rig.read(0, 1).0, 0);
}

/// A driver that waits for each request would wait for ever.
#[test]
fn after_the_last_answer_the_driver_is_asked_to_notify() {
    let memory = FakeMemory::new(MEMORY);
    let mut rig = Rig::new(&memory);
    for block in 0..3 {
        rig.guest.ask(IN, block, &[], &[segment(DATA, 512)]);
        assert!(rig.guest.driver.should_kick());
        rig.settle();
    }
    rig.write(0, 1, 1);
    rig.turn();
    rig.write(1, 1, 1);
    assert!(!rig.guest.driver.should_kick());
    assert!(rig.engine.gathers(&rig.blk));
    rig.settle();
    assert!(!rig.engine.gathers(&rig.blk));
}
