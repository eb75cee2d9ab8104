use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::fake::{FakeMemory, FickleMemory};
use stockade_bus::{Gpa, GuestMemory};

use super::*;
use crate::RestoreError;
use crate::virtio::Features;
use crate::virtio::driver::Driver;

const RAM: usize = 0x2_0000;
const RING: u64 = 0x1000;
const TABLES: u64 = 0x8000;
const BUFFERS: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;

const SPLIT: Features = Features::VERSION_1.union(Features::INDIRECT_DESC);
const PACKED: Features = SPLIT.union(Features::RING_PACKED);
const KINDS: [Features; 4] = [
    SPLIT,
    SPLIT.union(Features::EVENT_IDX),
    PACKED,
    PACKED.union(Features::EVENT_IDX),
];

fn segment(gpa: u64, len: u32) -> Segment {
    Segment { gpa: Gpa(gpa), len }
}

fn queue(driver: &Driver<'_>) -> Queue {
    Queue::try_new(driver.config, 256, driver.features, driver.memory).unwrap()
}

/// Tries one pop and returns the rule that was broken.
fn violation(driver: &Driver<'_>, capacity: usize) -> Violation {
    queue(driver)
        .pop(driver.memory, &mut Chain::new(capacity))
        .unwrap_err()
}

/// Makes one descriptor chain available that is written by hand.
fn offer(driver: &Driver<'_>, descriptors: &[(Segment, u16)]) {
    let is_packed = driver.features.contains(Features::RING_PACKED);
    for (index, (segment, flags)) in (0..).zip(descriptors) {
        let words = if is_packed {
            [7, flags | AVAIL]
        } else {
            [*flags, index + 1]
        };
        let at = driver.config.descriptors.0 + 16 * u64::from(index);
        driver.put_descriptor(at, *segment, words);
    }
    if !is_packed {
        driver.put_u16(driver.config.driver.0 + 4, 0);
        driver.put_u16(driver.config.driver.0 + 2, 1);
    }
}

/// Checks that a chain of these descriptors breaks the rule, in either ring.
fn breaks(descriptors: &[(Segment, u16)], rule: Violation) {
    for features in KINDS {
        let memory = FakeMemory::new(RAM);
        let driver = Driver::new(&memory, RING, 8, features);
        offer(&driver, descriptors);
        assert_eq!(violation(&driver, 16), rule, "{features:?}");
    }
}

/// Offers a chain of three buffers in either ring, with a table and without one; the test gets its number, what is to be read and what to be written.
fn with_three_buffers(
    test: impl Fn(&FakeMemory, &mut Driver<'_>, (u16, [Segment; 2], [Segment; 1])),
) {
    for (features, table) in KINDS
        .into_iter()
        .flat_map(|kind| [(kind, None), (kind, Some(Gpa(TABLES)))])
    {
        let memory = FakeMemory::new(RAM);
        let mut driver = Driver::new(&memory, RING, 8, features);
        let readable = [segment(BUFFERS, 16), segment(BUFFERS + 0x100, 1)];
        let writable = [segment(BUFFERS + 0x200, 512)];
        let id = driver.add(&readable, &writable, table).unwrap();
        test(&memory, &mut driver, (id, readable, writable));
    }
}

#[test]
fn a_chain_has_its_buffers_in_order() {
    with_three_buffers(|memory, driver, (id, readable, writable)| {
        let (mut queue, mut chain) = (queue(driver), Chain::new(4));
        assert_eq!(queue.pop(memory, &mut chain), Ok(true));
        assert_eq!(chain.readable(), readable);
        assert_eq!(chain.writable(), writable);
        let used = Used {
            head: chain.head(),
            written: 512,
        };
        assert_eq!(queue.pop(memory, &mut chain), Ok(false));
        queue.push(memory, &[used]).unwrap();
        assert_eq!(driver.take_used(), Some((id, 512)));
        assert_eq!(queue.in_flight(), 0);
    });
}

/// Another processor of the guest may write a descriptor between a check of it and its use.
#[test]
fn each_descriptor_is_copied_once() {
    with_three_buffers(|memory, driver, (id, readable, writable)| {
        let (mut queue, mut chain) = (queue(driver), Chain::new(4));
        let fickle = FickleMemory::new(memory);
        let popped = queue.pop(&fickle, &mut chain);
        assert_eq!(popped, Ok(true), "{:?}", driver.features);
        assert_eq!(
            (chain.readable(), chain.writable()),
            (&readable[..], &writable[..])
        );
        let used = Used {
            head: chain.head(),
            written: 512,
        };
        queue.push(&fickle, &[used]).unwrap();
        assert_eq!(driver.take_used(), Some((id, 512)));
    });
}

#[test]
fn a_table_may_end_a_chain_in_a_split_ring_only() {
    let memory = FakeMemory::new(RAM);
    let table = [
        (segment(BUFFERS, 16), NEXT),
        (segment(TABLES, 32), INDIRECT),
    ];
    for features in KINDS {
        let driver = Driver::new(&memory, RING, 8, features);
        driver.put_descriptor(TABLES, segment(BUFFERS + 64, 1), [NEXT, 1]);
        driver.put_descriptor(TABLES + 16, segment(BUFFERS + 65, 1), [WRITE, 0]);
        offer(&driver, &table);
        if features.contains(Features::RING_PACKED) {
            assert_eq!(violation(&driver, 8), Violation::Indirect);
        } else {
            let mut chain = Chain::new(8);
            assert_eq!(queue(&driver).pop(&memory, &mut chain), Ok(true));
            assert_eq!((chain.readable().len(), chain.writable().len()), (2, 1));
        }
    }
}

#[test]
fn a_buffer_of_no_bytes_breaks_the_rules() {
    breaks(
        &[(segment(BUFFERS, 0), 0)],
        Violation::ZeroLength(Gpa(BUFFERS)),
    );
}

#[test]
fn a_buffer_outside_ram_breaks_the_rules() {
    let end = RAM as u64;
    for outside in [
        segment(end, 1),
        segment(end - 1, 2),
        segment(u64::MAX, 2),
        segment(BUFFERS, u32::MAX),
    ] {
        breaks(&[(outside, 0)], Violation::NotMemory(outside.gpa));
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_breaks_the_rules() {
    breaks(
        &[
            (segment(BUFFERS, 1), WRITE | NEXT),
            (segment(BUFFERS, 1), 0),
        ],
        Violation::ReadableAfterWritable,
    );
}

#[test]
fn a_table_of_odd_length_breaks_the_rules() {
    for len in [0, 15, 17, 31] {
        breaks(
            &[(segment(TABLES, len), INDIRECT)],
            Violation::TableLength(len),
        );
    }
}

#[test]
fn a_table_with_a_successor_breaks_the_rules() {
    breaks(
        &[
            (segment(TABLES, 16), INDIRECT | NEXT),
            (segment(BUFFERS, 1), 0),
        ],
        Violation::Indirect,
    );
}

#[test]
fn a_table_outside_ram_breaks_the_rules() {
    let end = RAM as u64;
    let refused = stockade_bus::MemoryError::NotMemory(Gpa(end));
    breaks(&[(segment(end, 16), INDIRECT)], Violation::Memory(refused));
}

#[test]
fn a_table_not_negotiated_breaks_the_rules() {
    for features in KINDS {
        let memory = FakeMemory::new(RAM);
        let features = features.difference(Features::INDIRECT_DESC);
        let driver = Driver::new(&memory, RING, 8, features);
        offer(&driver, &[(segment(TABLES, 16), INDIRECT)]);
        assert_eq!(violation(&driver, 8), Violation::Indirect);
    }
}

#[test]
fn a_table_in_a_table_breaks_the_rules_of_split_rings() {
    let memory = FakeMemory::new(RAM);
    let driver = Driver::new(&memory, RING, 8, SPLIT);
    driver.put_descriptor(TABLES, segment(TABLES, 16), [INDIRECT, 0]);
    offer(&driver, &[(segment(TABLES, 16), INDIRECT)]);
    assert_eq!(violation(&driver, 8), Violation::Indirect);
}

/// Only WRITE means anything there (Virtio 1.2, 2.8.7).
#[test]
fn flags_in_a_packed_table_are_ignored() {
    let memory = FakeMemory::new(RAM);
    let driver = Driver::new(&memory, RING, 8, PACKED);
    driver.put_descriptor(TABLES, segment(BUFFERS, 16), [9, INDIRECT | NEXT]);
    offer(&driver, &[(segment(TABLES, 16), INDIRECT)]);
    let mut chain = Chain::new(8);
    assert_eq!(queue(&driver).pop(&memory, &mut chain), Ok(true));
    assert_eq!(chain.readable(), [segment(BUFFERS, 16)]);
}

#[test]
fn more_buffers_than_the_device_takes_break_the_rules() {
    for features in KINDS {
        let memory = FakeMemory::new(RAM);
        let mut driver = Driver::new(&memory, RING, 16, features);
        let many = [segment(BUFFERS, 1); 9];
        driver.add(&many, &[], Some(Gpa(TABLES))).unwrap();
        assert_eq!(violation(&driver, 8), Violation::ChainTooLong);
        assert!(queue(&driver).pop(&memory, &mut Chain::new(9)).is_ok());
    }
}

#[test]
fn a_loop_in_a_split_ring_or_table_ends() {
    let memory = FakeMemory::new(RAM);
    let driver = Driver::new(&memory, RING, 8, SPLIT);
    offer(&driver, &[(segment(BUFFERS, 1), NEXT)]);
    driver.put_u16(RING + 14, 0);
    assert_eq!(violation(&driver, 200), Violation::ChainTooLong);
    driver.put_descriptor(TABLES, segment(BUFFERS, 1), [NEXT, 0]);
    offer(&driver, &[(segment(TABLES, 16), INDIRECT)]);
    assert_eq!(violation(&driver, 200), Violation::ChainTooLong);
}

#[test]
fn a_descriptor_past_its_table_breaks_the_rules() {
    let memory = FakeMemory::new(RAM);
    let driver = Driver::new(&memory, RING, 8, SPLIT);
    offer(&driver, &[(segment(BUFFERS, 1), NEXT)]);
    driver.put_u16(RING + 14, 8);
    assert_eq!(violation(&driver, 8), Violation::NoDescriptor(8));
    driver.put_u16(driver.config.driver.0 + 4, 0xFFFF);
    assert_eq!(violation(&driver, 8), Violation::NoDescriptor(0xFFFF));
    driver.put_u16(driver.config.driver.0 + 4, 0);
    driver.put_descriptor(TABLES, segment(BUFFERS, 1), [NEXT, 1]);
    offer(&driver, &[(segment(TABLES, 16), INDIRECT)]);
    assert_eq!(violation(&driver, 8), Violation::NoDescriptor(1));
}

#[test]
fn an_available_index_that_jumps_breaks_the_rules() {
    for index in [9, 0x8000, 0xFFFF] {
        let memory = FakeMemory::new(RAM);
        let driver = Driver::new(&memory, RING, 8, SPLIT);
        driver.put_u16(driver.config.driver.0 + 2, index);
        assert_eq!(violation(&driver, 8), Violation::IndexJump(index));
    }
}

#[test]
fn more_available_than_the_ring_holds_breaks_the_rules() {
    let memory = FakeMemory::new(RAM);
    for features in [SPLIT, PACKED] {
        let mut driver = Driver::new(&memory, RING, 4, features);
        for _ in 0..4 {
            driver.add(&[segment(BUFFERS, 1)], &[], None).unwrap();
        }
        let (mut queue, mut chain) = (queue(&driver), Chain::new(8));
        for _ in 0..4 {
            assert_eq!(queue.pop(&memory, &mut chain), Ok(true));
        }
        // None of the four came back.
        if features == SPLIT {
            driver.put_u16(driver.config.driver.0 + 2, 5);
        } else {
            driver.put_u16(RING + 14, 1 << 15);
        }
        let outcome = queue.pop(&memory, &mut chain);
        assert_eq!(outcome, Err(Violation::TooManyInFlight));
    }
}

#[test]
fn a_packed_chain_that_runs_into_what_is_not_available_breaks_the_rules() {
    let memory = FakeMemory::new(RAM);
    let driver = Driver::new(&memory, RING, 8, PACKED);
    offer(&driver, &[(segment(BUFFERS, 1), NEXT)]);
    assert_eq!(violation(&driver, 8), Violation::NotAvailable(1));
    let all = [(segment(BUFFERS, 1), NEXT); 8];
    offer(&driver, &all);
    assert_eq!(violation(&driver, 80), Violation::NotAvailable(0));
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let memory = FakeMemory::new(RAM);
    for features in KINDS {
        let good = Driver::new(&memory, RING, 8, features).config;
        let refuse = |config: QueueConfig, rule: Violation| {
            let outcome = Queue::try_new(config, 256, features, &memory);
            assert_eq!(outcome.map(|_| ()), Err(rule));
        };
        for size in [0, 257, 512, 0xFFFF] {
            refuse(QueueConfig { size, ..good }, Violation::QueueSize(size));
        }
        if !features.contains(Features::RING_PACKED) {
            refuse(QueueConfig { size: 6, ..good }, Violation::QueueSize(6));
        }
        let end = RAM as u64;
        for (places, odd) in [(0, 8), (1, 1), (2, 2)] {
            let at = |gpa: u64| {
                let mut config = good;
                *[
                    &mut config.descriptors,
                    &mut config.driver,
                    &mut config.device,
                ][places] = Gpa(gpa);
                config
            };
            refuse(at(RING + odd), Violation::Alignment(Gpa(RING + odd)));
            for gpa in [end, u64::MAX - 15] {
                refuse(at(gpa), Violation::NotMemory(Gpa(gpa)));
            }
            // Each part has at least four bytes.
            refuse(at(end & !15), Violation::NotMemory(Gpa(end)));
        }
        assert!(Queue::try_new(good, 8, features, &memory).is_ok());
    }
}

#[test]
fn a_chain_of_more_than_4_gib_breaks_the_rules() {
    /// All of the address space is RAM, and reads as zeros but for a small part.
    struct Boundless<'m>(&'m FakeMemory);
    impl GuestMemory for Boundless<'_> {
        fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), stockade_bus::MemoryError> {
            self.0.read(gpa, buffer)
        }
        fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), stockade_bus::MemoryError> {
            self.0.write(gpa, bytes)
        }
        fn is_ram(&self, _: Gpa) -> bool {
            true
        }
        fn is_ram_range(&self, _: Gpa, _: u64) -> bool {
            true
        }
        fn compare_exchange(
            &self,
            _: Gpa,
            _: u8,
            _: u64,
            _: u64,
        ) -> Result<bool, stockade_bus::MemoryError> {
            Ok(false)
        }
    }
    for features in [SPLIT, PACKED] {
        let memory = FakeMemory::new(RAM);
        let driver = Driver::new(&memory, RING, 8, features);
        let half = segment(BUFFERS, 1 << 31);
        offer(&driver, &[(half, NEXT), (half, NEXT), (segment(0, 1), 0)]);
        let outcome = queue(&driver).pop(&Boundless(&memory), &mut Chain::new(8));
        assert_eq!(outcome, Err(Violation::ChainTooLarge));
        offer(&driver, &[(half, NEXT), (half, 0)]);
        assert!(
            queue(&driver)
                .pop(&Boundless(&memory), &mut Chain::new(8))
                .is_ok()
        );
    }
}

#[test]
fn several_chains_given_back_are_seen_together() {
    for features in KINDS {
        let memory = FakeMemory::new(RAM);
        let mut driver = Driver::new(&memory, RING, 8, features);
        let (mut queue, mut chain) = (queue(&driver), Chain::new(8));
        let mut used = Vec::new();
        for _ in 0..3 {
            let buffers = [segment(BUFFERS, 4), segment(BUFFERS + 8, 4)];
            driver.add(&[], &buffers, None).unwrap();
            assert_eq!(queue.pop(&memory, &mut chain), Ok(true));
            let head = chain.head();
            used.push(Used { head, written: 8 });
        }
        queue.push(&memory, &used).unwrap();
        let seen: Vec<u16> = core::iter::from_fn(|| driver.take_used())
            .map(|(id, _)| id)
            .collect();
        let pushed: Vec<u16> = used.iter().map(|used| used.head.id).collect();
        assert_eq!(seen, pushed);
    }
}

#[test]
fn a_driver_that_wants_no_signals_gets_none() {
    for features in [SPLIT, PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut driver = Driver::new(&memory, RING, 8, features);
        let (mut queue, mut chain) = (queue(&driver), Chain::new(8));
        for wants in [false, true, false] {
            driver.ask(wants);
            driver.add(&[segment(BUFFERS, 1)], &[], None).unwrap();
            assert_eq!(queue.pop(&memory, &mut chain), Ok(true));
            assert_eq!(queue.take_signal(&memory), Ok(false));
            let head = chain.head();
            queue.push(&memory, &[Used { head, written: 0 }]).unwrap();
            assert_eq!(queue.take_signal(&memory), Ok(wants));
            assert_eq!(queue.take_signal(&memory), Ok(false));
        }
    }
}

#[test]
fn saved_states_that_cannot_be_are_refused() {
    let memory = FakeMemory::new(RAM);
    let restore = |state: &QueueState, features: Features| {
        Queue::try_restore(state, 256, features, &memory).map(|_| ())
    };
    let impossible = Err(RestoreError::Impossible("virtqueue"));
    for (features, other) in [(SPLIT, PACKED), (PACKED, SPLIT)] {
        let driver = Driver::new(&memory, RING, 8, features);
        let good = queue(&driver).save();
        assert_eq!(restore(&good, features), Ok(()));
        assert_eq!(restore(&good, other), impossible);
        let late = QueueState { version: 2, ..good };
        assert_eq!(restore(&late, features), Err(RestoreError::Version(2)));
        let ring = match good.ring {
            RingState::Split(ring) => RingState::Split(SplitState { used: 1, ..ring }),
            RingState::Packed(ring) => RingState::Packed(PackedState {
                in_flight: 1,
                ..ring
            }),
        };
        assert_eq!(restore(&QueueState { ring, ..good }, features), impossible);
    }
}

/// A driver and a device that do as they like, and what must hold whatever they do.
struct Traffic<'m> {
    driver: Driver<'m>,
    queue: Queue,
    chain: Chain,
    /// Added and not popped.
    offered: VecDeque<(u16, Vec<Segment>, Vec<Segment>)>,
    popped: Vec<(u16, Used)>,
    pushed: VecDeque<(u16, u32)>,
    tables: u64,
    /// The device found the ring empty, and has yet to be notified.
    is_asleep: bool,
    /// The driver asked for the next used chain, and has yet to be signalled.
    waits: bool,
}

impl Traffic<'_> {
    fn add(&mut self, shape: u8) {
        let (readable, writable) = (usize::from(shape & 3), usize::from(shape >> 2 & 3));
        let buffer = |place: usize| segment(BUFFERS + 32 * place as u64, 1 + u32::from(shape & 15));
        let readable: Vec<Segment> = (0..readable).map(buffer).collect();
        let writable: Vec<Segment> = (8..8 + writable).map(buffer).collect();
        self.tables = (self.tables + 1) % 64;
        let table = Gpa(TABLES + 0x100 * self.tables);
        let is_some = !readable.is_empty() || !writable.is_empty();
        let table = (shape & 0x40 != 0 && is_some).then_some(table);
        if let Some(id) = self.driver.add(&readable, &writable, table) {
            self.offered.push_back((id, readable, writable));
        }
    }

    fn kick(&mut self) {
        let has_offers = !self.offered.is_empty();
        let should_kick = self.driver.should_kick();
        assert!(should_kick || !(self.is_asleep && has_offers), "no kick");
        self.is_asleep &= !should_kick;
    }

    fn pop(&mut self) {
        let memory = self.driver.memory;
        let has_popped = self.queue.pop(memory, &mut self.chain).unwrap();
        assert_eq!(has_popped, !self.offered.is_empty());
        if let Some((id, readable, writable)) = self.offered.pop_front() {
            assert_eq!(self.chain.readable(), readable);
            assert_eq!(self.chain.writable(), writable);
            let head = self.chain.head();
            let written = u32::from(!writable.is_empty());
            self.popped.push((id, Used { head, written }));
            // It is awake now, and comes back until it finds nothing.
            self.is_asleep = false;
        } else {
            self.is_asleep = true;
        }
    }

    fn undo_pop(&mut self) {
        let memory = self.driver.memory;
        if self.queue.pop(memory, &mut self.chain).unwrap() {
            self.queue.undo_pop(self.chain.head());
        }
        self.is_asleep = self.offered.is_empty();
    }

    fn push(&mut self, choice: u8) {
        let count = usize::from(choice >> 4).min(self.popped.len());
        let mut batch = Vec::new();
        for _ in 0..count {
            let (id, used) = self
                .popped
                .swap_remove(usize::from(choice) % self.popped.len());
            self.pushed.push_back((id, used.written));
            batch.push(used);
        }
        if !batch.is_empty() {
            self.queue.push(self.driver.memory, &batch).unwrap();
        }
        let is_signal = self.queue.take_signal(self.driver.memory).unwrap();
        assert!(is_signal || batch.is_empty() || !self.waits, "no signal");
        self.waits &= !is_signal;
    }

    fn take(&mut self) {
        while let Some(used) = self.driver.take_used() {
            assert_eq!(Some(used), self.pushed.pop_front());
        }
        assert!(self.pushed.is_empty());
        self.driver.ask_for_next();
        self.waits = true;
    }

    fn save_and_restore(&mut self) {
        let (features, memory) = (self.driver.features, self.driver.memory);
        let state = self.queue.save();
        self.queue = Queue::try_restore(&state, 256, features, memory).unwrap();
        assert_eq!(self.queue.save(), state);
    }

    fn step(&mut self, kind: u8, choice: u8) {
        match kind {
            0..=2 => self.add(choice),
            3 => self.kick(),
            4..=6 => self.pop(),
            7 => self.undo_pop(),
            8..=9 => self.push(choice),
            10 => self.take(),
            _ => self.save_and_restore(),
        }
    }
}

proptest! {
    /// What goes in comes out, in order, once, and nobody sleeps through it.
    #[test]
    fn traffic_is_neither_lost_nor_changed(
        kind in 0..4_usize,
        size in 1..5_u16,
        steps in prop::collection::vec((0..12_u8, any::<u8>()), 1..400),
    ) {
        let memory = FakeMemory::new(RAM);
        let features = KINDS[kind];
        // Packed rings may have any size.
        let size = if kind < 2 { 1 << size } else { 5 * size };
        let driver = Driver::new(&memory, RING, size, features);
        let mut traffic = Traffic {
            queue: queue(&driver),
            driver,
            chain: Chain::new(16),
            offered: VecDeque::new(),
            popped: Vec::new(),
            pushed: VecDeque::new(),
            tables: 0,
            is_asleep: true,
            waits: false,
        };
        for (kind, choice) in steps {
            traffic.step(kind, choice);
        }
    }

    /// Whatever bytes a ring and its memory hold, popping ends and touches no buffer outside RAM.
    #[test]
    fn rings_of_any_bytes_do_no_harm(
        kind in 0..4_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let memory = FakeMemory::new(0x1000);
        memory.write(Gpa(0), &bytes).unwrap();
        let driver = Driver::new(&memory, 0, 8, KINDS[kind]);
        let (mut queue, mut chain) = (queue(&driver), Chain::new(8));
        for _ in 0..16 {
            match queue.pop(&memory, &mut chain) {
                Ok(true) => {
                    let all = [chain.readable(), chain.writable()].concat();
                    prop_assert!(all.iter().all(|s| memory.is_ram_range(s.gpa, s.len.into())));
                    let used = Used { head: chain.head(), written: 1 };
                    let _ = queue.push(&memory, &[used]);
                    let _ = queue.take_signal(&memory);
                }
                _ => break,
            }
        }
    }
}
