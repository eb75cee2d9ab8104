use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};

use super::*;
use crate::virtio::driver::Driver;
use crate::virtio::queue::Segment;

const FEATURES: Features = Features::VERSION_1.union(Features::EVENT_IDX);
const DATA: u64 = 0x8000;

/// Counts up, and may run dry.
#[derive(Debug)]
struct Counter {
    next: u8,
    draws: usize,
}

impl Entropy for Counter {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        self.draws = self.draws.checked_sub(1).ok_or(NoEntropy)?;
        for byte in buffer {
            self.next = self.next.wrapping_add(1);
            *byte = self.next;
        }
        Ok(())
    }
}

fn buffer(len: u32) -> [Segment; 1] {
    let gpa = Gpa(DATA);
    [Segment { gpa, len }]
}

fn rig(memory: &FakeMemory, draws: usize) -> (Driver<'_>, Rng<Counter>) {
    let driver = Driver::new(memory, 0x1000, 16, FEATURES);
    let mut rng = Rng::new(Counter { next: 0, draws });
    rng.negotiate(FEATURES).unwrap();
    rng.activate(&[Some(driver.config)], memory);
    (driver, rng)
}

#[test]
fn buffers_are_filled_and_no_byte_is_given_twice() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 100);
    driver.ask_for_next();
    driver.add(&[], &buffer(70), None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::Done);
    assert_eq!(driver.take_used().unwrap().1, 70);
    assert_eq!(rng.take_interrupts(&memory).queues, 1);
    let mut bytes = [0; 71];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    assert!((1..=70).eq(bytes[..70].iter().copied()));
    assert_eq!(bytes[70], 0);
    driver.add(&[], &buffer(1), None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::Done);
    memory.read(Gpa(DATA), &mut bytes[..1]).unwrap();
    // The rest of the second draw went nowhere.
    assert_eq!(bytes[0], 129);
}

#[test]
fn a_large_buffer_gets_a_part() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 100);
    driver.add(&[], &buffer(0x4000), None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::Done);
    assert_eq!(driver.take_used().unwrap().1, 1024);
}

#[test]
fn many_requests_take_several_turns() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 100);
    for _ in 0..10 {
        driver.add(&[], &buffer(8), None).unwrap();
    }
    assert_eq!(rng.notify(0, &memory), Work::More);
    assert_eq!(core::iter::from_fn(|| driver.take_used()).count(), 8);
    assert_eq!(rng.work(&memory), Work::Done);
    assert_eq!(core::iter::from_fn(|| driver.take_used()).count(), 2);
}

#[test]
fn a_dry_source_keeps_requests_waiting() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 0);
    driver.add(&[], &buffer(8), None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::More);
    assert_eq!(driver.take_used(), None);
    rng.entropy.draws = 1;
    assert_eq!(rng.work(&memory), Work::Done);
    assert_eq!(driver.take_used().unwrap().1, 8);
}

#[test]
fn a_request_without_room_breaks_the_rules() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 1);
    driver.add(&buffer(8), &[], None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::Done);
    assert_eq!(rng.violation(), Some(Violation::ShortRequest));
    assert!(rng.take_interrupts(&memory).config);
}

#[test]
fn a_restored_source_goes_on() {
    let memory = FakeMemory::new(0x1_0000);
    let (mut driver, mut rng) = rig(&memory, 100);
    driver.add(&[], &buffer(8), None).unwrap();
    assert_eq!(rng.notify(0, &memory), Work::Done);
    let state = rng.save();
    let mut other = Rng::new(Counter { next: 9, draws: 9 });
    other.restore(&state, &memory).unwrap();
    assert_eq!(other.save(), state);
    driver.add(&[], &buffer(8), None).unwrap();
    assert_eq!(other.notify(0, &memory), Work::Done);
    assert_eq!(core::iter::from_fn(|| driver.take_used()).count(), 2);
    let late = RngState {
        version: 2,
        ..state
    };
    assert_eq!(other.restore(&late, &memory), Err(RestoreError::Version(2)));
}
