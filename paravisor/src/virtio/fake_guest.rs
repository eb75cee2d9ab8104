//! A guest with a ready block driver, for tests of what is behind the front-end.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::Mutex;
use stockade_backend::fake::FakeHost;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory, MemoryError};
use stockade_devices::virtio::blk::Blk;
use stockade_devices::virtio::driver::Driver;
use stockade_devices::virtio::queue::Segment;
use stockade_devices::virtio::{Features, VirtioDevice};

use super::Turn;

const HEADERS: u64 = 0x8000;
/// Where the statuses of requests are, a byte each.
pub(super) const STATUSES: u64 = 0x9000;
/// Where a test's data may lie.
pub(super) const DATA: u64 = 0x1_0000;
/// Types of requests (Virtio 1.2, 5.2.6).
pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;
/// A request that is not answered.
pub(super) const OPEN: u8 = 0xFF;
/// Ranges to give up and to zero.
pub(super) const RANGES: Features = Features::from_bits_retain(1 << 13 | 1 << 14);
/// What a driver takes of what is offered: a cache that it flushes, and ranges.
const WANTED: Features = Features::from_bits_retain(1 << 9 | RANGES.bits());

/// Turns, and a host of the disk that answers, until neither has anything to do, in so many rounds at most. Returns how often the turns allocated
/// memory. The fake host may.
pub(super) fn settle_counting(
    host: &mut FakeHost,
    rounds: u32,
    mut turn: impl FnMut(&mut FakeHost) -> Turn,
) -> u64 {
    let mut count = 0;
    let mut is_settled = || {
        // Emptied, it has room.
        host.notified.clear();
        let mut done = Turn::More;
        count += allocation_counter::measure(|| done = turn(host)).count_total;
        done == Turn::Done && host.serve_disk() == 0
    };
    assert!((0..rounds).any(|_| is_settled()));
    count
}

/// The guest's side of a disk.
pub(super) struct FakeGuest<'m> {
    pub(super) memory: &'m FakeMemory,
    pub(super) driver: Driver<'m>,
    asked: u64,
}

impl<'m> FakeGuest<'m> {
    /// Starts a driver of `blk`.
    pub(super) fn start(memory: &'m FakeMemory, blk: &mut Blk) -> Self {
        Self::start_with(memory, blk, WANTED)
    }

    /// The same for a driver that takes these features, if they are offered.
    pub(super) fn start_with(memory: &'m FakeMemory, blk: &mut Blk, wanted: Features) -> Self {
        let chosen = Features::VERSION_1 | (blk.device_features() & wanted);
        blk.negotiate(chosen).unwrap();
        let driver = Driver::new(memory, 0x1000, 128, chosen);
        blk.activate(&[Some(driver.config)], memory);
        assert!(!blk.needs_reset());
        Self {
            memory,
            driver,
            asked: 0,
        }
    }

    /// Asks for something; returns the number of the request.
    pub(super) fn ask(
        &mut self,
        kind: u32,
        sector: u64,
        readable: &[Segment],
        writable: &[Segment],
    ) -> u64 {
        let number = self.asked;
        self.asked += 1;
        let header = HEADERS + 16 * number;
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.write(Gpa(header), &bytes).unwrap();
        let status = STATUSES + number;
        self.memory.write(Gpa(status), &[OPEN]).unwrap();
        let readable = [&[segment(header, 16)], readable].concat();
        let writable = [writable, &[segment(status, 1)]].concat();
        self.driver.add(&readable, &writable, None).unwrap();
        number
    }

    /// Asks for something to be done to a range, which lies where data may.
    pub(super) fn ask_range(&mut self, kind: u32, sector: u64, count: u32) -> u64 {
        let range = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat();
        self.memory.write(Gpa(DATA), &range).unwrap();
        self.ask(kind, 0, &[segment(DATA, 16)], &[])
    }

    /// Returns the status of a request.
    pub(super) fn status(&self, number: u64) -> u8 {
        self.bytes(STATUSES + number, 1)[0]
    }

    /// Returns what is in its memory.
    pub(super) fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; len];
        self.memory.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }
}

/// Returns a stretch of guest memory.
pub(super) fn segment(gpa: u64, len: u32) -> Segment {
    Segment { gpa: Gpa(gpa), len }
}

/// Guest memory that vCPUs share.
pub(super) struct Locked(Mutex<FakeMemory>);

impl Locked {
    pub(super) fn leak(memory: FakeMemory) -> &'static Self {
        Box::leak(Box::new(Self(Mutex::new(memory))))
    }
}

impl GuestMemory for Locked {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.0.lock().read(gpa, buffer)
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0.lock().write(gpa, bytes)
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.0.lock().is_ram(gpa)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        self.0.lock().compare_exchange(gpa, width, expected, new)
    }
}
