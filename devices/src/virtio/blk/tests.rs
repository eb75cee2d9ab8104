use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::fake::{FakeMemory, FickleMemory};
use stockade_bus::{Gpa, GuestMemory};

use super::*;
use crate::RestoreError;
use crate::virtio::driver::Driver;
use crate::virtio::queue::Segment;

const RAM: usize = 0x4_0000;
const RING: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const DATA: u64 = 0x1_0000;
const SECTORS: u64 = 64;
/// A status nobody writes.
const UNTOUCHED: u8 = 0x77;
const SPLIT: Features = Features::VERSION_1.union(Features::INDIRECT_DESC);
const PACKED: Features = SPLIT
    .union(Features::RING_PACKED)
    .union(Features::EVENT_IDX);

const IN: u32 = 0;
const OUT: u32 = 1;

fn options() -> BlkOptions {
    BlkOptions {
        sectors: SECTORS,
        discard: Some(RangeLimits {
            max_sectors: 32,
            alignment: 8,
        }),
        write_zeroes: Some(ZeroLimits {
            max_sectors: 16,
            may_unmap: true,
        }),
        id: *b"stockade-disk-0\0\0\0\0\0",
        depth: 4,
        ..BlkOptions::default()
    }
}

fn segment(gpa: u64, len: u32) -> Segment {
    Segment { gpa: Gpa(gpa), len }
}

/// A disk whose driver is ready.
struct Rig<'m> {
    memory: &'m FakeMemory,
    driver: Driver<'m>,
    blk: Blk,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory, options: BlkOptions, features: Features) -> Self {
        let driver = Driver::new(memory, RING, 16, features);
        let mut blk = Blk::new(options);
        blk.negotiate(features).unwrap();
        blk.activate(&[Some(driver.config)], memory);
        assert!(!blk.needs_reset());
        Self {
            memory,
            driver,
            blk,
        }
    }

    fn put_header(&self, at: u64, kind: u32, sector: u64) {
        self.memory.write(Gpa(at), &kind.to_le_bytes()).unwrap();
        let sector = sector.to_le_bytes();
        self.memory.write(Gpa(at + 8), &sector).unwrap();
        self.memory.write(Gpa(STATUS), &[UNTOUCHED]).unwrap();
    }

    /// Makes a request available whose header and status have buffers of their own.
    fn ask(&mut self, kind: u32, sector: u64, readable: &[Segment], writable: &[Segment]) {
        self.put_header(HEADER, kind, sector);
        let readable = [&[segment(HEADER, 16)], readable].concat();
        let writable = [writable, &[segment(STATUS, 1)]].concat();
        self.driver.add(&readable, &writable, None).unwrap();
    }

    fn next(&mut self) -> Token {
        match self.blk.next(self.memory) {
            Next::Request(token) => token,
            other => unreachable!("{other:?}"),
        }
    }

    fn status(&self) -> u8 {
        let mut byte = [0];
        self.memory.read(Gpa(STATUS), &mut byte).unwrap();
        byte[0]
    }

    /// Asks for what needs no engine; returns status and length.
    fn answer(
        &mut self,
        kind: u32,
        sector: u64,
        readable: &[Segment],
        writable: &[Segment],
    ) -> (u8, u32) {
        self.ask(kind, sector, readable, writable);
        assert_eq!(self.blk.next(self.memory), Next::Idle);
        let (_, len) = self.driver.take_used().unwrap();
        (self.status(), len)
    }

    fn interrupts(&mut self) -> Interrupts {
        self.blk.take_interrupts(self.memory)
    }
}

/// Who has a request comes back with its end; who asks once may have missed what came before.
#[test]
fn the_driver_notifies_of_requests_when_none_is_on_its_way_and_it_is_asked_to() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    let kick = |rig: &mut Rig<'_>| {
        rig.ask(IN, 0, &[], &[segment(DATA, 512)]);
        rig.driver.should_kick()
    };
    assert!(kick(&mut rig));
    let first = rig.next();
    assert_eq!(rig.blk.next(&memory), Next::Idle);
    assert_eq!(rig.blk.listen(&memory), Listening::Already);
    assert!(!rig.blk.is_listening());
    assert!(!kick(&mut rig));
    let second = rig.next();
    for token in [first, second] {
        assert_eq!(rig.blk.listen(&memory), Listening::Already);
        rig.blk.complete(&memory, token, Status::Ok);
    }
    assert_eq!(rig.blk.listen(&memory), Listening::FromNow);
    assert_eq!(rig.blk.listen(&memory), Listening::Already);
    assert!(rig.blk.is_listening());
    assert!(kick(&mut rig));
}

#[test]
fn a_read_gets_its_data_where_it_wants_it() {
    for features in [SPLIT, PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, options(), features);
        let data = [segment(DATA, 300), segment(DATA + 0x1000, 724)];
        rig.ask(IN, 5, &[], &data);
        let token = rig.next();
        let request = rig.blk.request(token).unwrap();
        assert_eq!(request.kind(), Kind::Read { sector: 5 });
        assert_eq!(request.data_len(), 1024);
        let bytes: Vec<u8> = (0..1024).map(|i: u32| i.to_le_bytes()[0]).collect();
        // In two goes, the second one longer than the room.
        request.write_data(&memory, 0, &bytes[..500]).unwrap();
        let long = [&bytes[500..], &[0xEE; 8]].concat();
        assert_eq!(request.write_data(&memory, 500, &long), Ok(524));
        rig.blk.complete(&memory, token, Status::Ok);
        let mut seen = vec![0; 724];
        memory.read(Gpa(DATA + 0x1000), &mut seen).unwrap();
        assert_eq!(seen, bytes[300..]);
        assert_eq!(rig.status(), 0);
        assert_eq!(rig.interrupts().queues, 1);
        assert!(rig.interrupts().is_empty());
        assert_eq!(rig.driver.take_used().unwrap().1, 1025);
    }
}

/// What was checked is what is done, whatever the guest writes into its request meanwhile.
#[test]
fn a_request_is_what_was_read_of_it_first() {
    let memory = FakeMemory::new(RAM);
    let range = [&9_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &[0; 4]].concat();
    memory.write(Gpa(DATA), &range).unwrap();
    for (kind, len, expected) in [
        (IN, 512, Kind::Read { sector: 5 }),
        (
            OUT,
            512,
            Kind::Write {
                sector: 5,
                is_through: true,
            },
        ),
        (11, 16, Kind::Discard),
    ] {
        let mut rig = Rig::new(&memory, options(), SPLIT | DISCARD);
        let data = [segment(DATA, len)];
        match kind {
            IN => rig.ask(kind, 5, &[], &data),
            _ => rig.ask(kind, 5, &data, &[]),
        }
        let Next::Request(token) = rig.blk.next(&FickleMemory::new(&memory)) else {
            unreachable!("{kind} is refused");
        };
        let request = rig.blk.request(token).unwrap();
        assert_eq!(request.kind(), expected);
        if kind == 11 {
            let range = Range {
                sector: 9,
                count: 8,
            };
            assert_eq!(request.ranges(), [range]);
        } else {
            assert!(request.pieces(0, 512).eq(data));
        }
    }
}

#[test]
fn a_write_gives_its_data_from_where_it_lies() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT | FLUSH);
    // The first piece of data shares a buffer with the header (Virtio 1.2, 2.7.4).
    rig.put_header(HEADER, OUT, 63);
    memory.write(Gpa(HEADER + 16), &[7; 12]).unwrap();
    memory.write(Gpa(DATA), &[8; 500]).unwrap();
    let readable = [
        segment(HEADER, 9),
        segment(HEADER + 9, 19),
        segment(DATA, 500),
    ];
    rig.driver
        .add(&readable, &[segment(STATUS, 1)], None)
        .unwrap();
    let token = rig.next();
    let request = rig.blk.request(token).unwrap();
    let kind = Kind::Write {
        sector: 63,
        is_through: false,
    };
    assert_eq!((request.kind(), request.data_len()), (kind, 512));
    let pieces: Vec<Segment> = request.pieces(4, 100).collect();
    assert_eq!(pieces, [segment(HEADER + 20, 8), segment(DATA, 92)]);
    let mut data = [0; 600];
    assert_eq!(request.read_data(&memory, 0, &mut data), Ok(512));
    assert_eq!((data[11], data[12], data[511]), (7, 8, 8));
    rig.blk.complete(&memory, token, Status::IoError);
    assert_eq!(rig.status(), 1);
    assert_eq!(rig.driver.take_used().unwrap().1, 1);
}

/// What is said to be written would be taken for data.
#[test]
fn a_failed_read_claims_no_bytes() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    rig.ask(IN, 0, &[], &[segment(DATA, 512)]);
    let token = rig.next();
    rig.blk.complete(&memory, token, Status::IoError);
    assert_eq!((rig.status(), rig.driver.take_used().unwrap().1), (1, 0));
}

#[test]
fn requests_off_the_disk_or_of_half_sectors_fail() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (0, 511),
        (0, 513),
    ] {
        let data = [segment(DATA, len)];
        assert_eq!(rig.answer(IN, sector, &[], &data).0, 1, "{sector} {len}");
        assert_eq!(rig.answer(OUT, sector, &data, &[]).0, 1, "{sector} {len}");
    }
    assert_eq!(rig.answer(IN, 0, &[], &[]), (1, 1));
    assert_eq!(rig.answer(OUT, 0, &[], &[]), (1, 1));
}

#[test]
fn a_request_of_more_segments_than_may_be_fails() {
    let memory = FakeMemory::new(RAM);
    let small = BlkOptions {
        seg_max: 2,
        ..options()
    };
    let mut rig = Rig::new(&memory, small, SPLIT);
    let data = [segment(DATA, 512); 5];
    assert_eq!(rig.answer(IN, 0, &[], &data).0, 1);
    rig.ask(IN, 0, &[], &data[..4]);
    assert!(matches!(rig.blk.next(&memory), Next::Request(_)));
}

#[test]
fn unknown_requests_are_not_supported() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    for kind in [2, 3, 5, 10, 14, u32::MAX] {
        assert_eq!(rig.answer(kind, 0, &[], &[]), (2, 1));
    }
}

#[test]
fn the_disk_tells_its_name() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    assert_eq!(rig.answer(8, 0, &[], &[segment(DATA, 20)]), (0, 21));
    let mut name = [0; 20];
    memory.read(Gpa(DATA), &mut name).unwrap();
    assert_eq!(&name, b"stockade-disk-0\0\0\0\0\0");
    assert_eq!(rig.answer(8, 0, &[], &[segment(DATA, 4)]), (0, 5));
    assert_eq!(rig.answer(8, 0, &[], &[segment(DATA, 40)]), (0, 20));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let memory = FakeMemory::new(RAM);
    let fixed = BlkOptions {
        is_read_only: true,
        ..options()
    };
    let mut rig = Rig::new(&memory, fixed, SPLIT);
    assert!(rig.blk.device_features().contains(READ_ONLY));
    let data = [segment(DATA, 512)];
    assert_eq!(rig.answer(OUT, 0, &data, &[]).0, 1);
    assert_eq!(rig.answer(11, 0, &[segment(DATA, 16)], &[]).0, 1);
    assert_eq!(rig.answer(13, 0, &[segment(DATA, 16)], &[]).0, 1);
}

#[test]
fn without_its_cache_writes_last() {
    let written = |features: Features, switch: Option<u8>| {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, options(), SPLIT | features);
        if let Some(value) = switch {
            rig.blk.write_config(32, &[value]);
        }
        rig.ask(OUT, 0, &[segment(DATA, 512)], &[]);
        let token = rig.next();
        let kind = rig.blk.request(token).unwrap().kind();
        matches!(
            kind,
            Kind::Write {
                is_through: true,
                ..
            }
        )
    };
    assert!(written(Features::empty(), None));
    assert!(!written(FLUSH, None));
    assert!(!written(FLUSH | CONFIG_WCE, None));
    assert!(written(FLUSH | CONFIG_WCE, Some(0)));
    assert!(!written(FLUSH | CONFIG_WCE, Some(1)));
    assert!(written(CONFIG_WCE, None));
    // Without the feature the switch is none.
    assert!(!written(FLUSH, Some(0)));
    assert!(!written(FLUSH | CONFIG_WCE, Some(2)));
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// The kind and ranges of a discard or write-zeroes request, or its status.
fn ranges(kind: u32, bytes: &[u8]) -> Result<(Kind, Vec<Range>), u8> {
    let memory = FakeMemory::new(RAM);
    memory.write(Gpa(DATA), bytes).unwrap();
    let mut rig = Rig::new(&memory, options(), SPLIT | FLUSH | DISCARD | WRITE_ZEROES);
    let len = u32::try_from(bytes.len()).unwrap();
    rig.ask(kind, 0, &[segment(DATA, len)], &[]);
    match rig.blk.next(&memory) {
        Next::Request(token) => {
            let request = rig.blk.request(token).unwrap();
            assert_eq!(request.data_len(), 0);
            Ok((request.kind(), request.ranges().to_vec()))
        }
        _ => Err(rig.status()),
    }
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let two = [range(0, 8, 0), range(40, 16, 0)].concat();
    let expected = vec![
        Range {
            sector: 0,
            count: 8,
        },
        Range {
            sector: 40,
            count: 16,
        },
    ];
    assert_eq!(ranges(11, &two), Ok((Kind::Discard, expected.clone())));
    let zero = |may_unmap| Kind::WriteZeroes {
        may_unmap,
        is_through: false,
    };
    assert_eq!(ranges(13, &two), Ok((zero(false), expected.clone())));
    let one_unmaps = [range(0, 8, 1), range(40, 16, 0)].concat();
    assert_eq!(ranges(13, &one_unmaps), Ok((zero(false), expected.clone())));
    let all_unmap = [range(0, 8, 1), range(40, 16, 1)].concat();
    assert_eq!(ranges(13, &all_unmap), Ok((zero(true), expected)));
}

#[test]
fn ranges_that_cannot_be_fail() {
    for kind in [11, 13] {
        assert_eq!(ranges(kind, &range(0, 0, 0)), Err(1));
        assert_eq!(ranges(kind, &range(0, 33, 0)), Err(1));
        assert_eq!(ranges(kind, &range(SECTORS - 1, 2, 0)), Err(1));
        assert_eq!(ranges(kind, &range(u64::MAX, 2, 0)), Err(1));
        assert_eq!(ranges(kind, &range(0, 8, 0)[..15]), Err(1));
        assert_eq!(ranges(kind, &range(0, 1, 0).repeat(17)), Err(1));
        assert_eq!(ranges(kind, &range(0, 8, 2)), Err(2));
    }
    assert_eq!(ranges(11, &range(0, 8, 1)), Err(2));
    assert_eq!(ranges(13, &range(0, 17, 0)), Err(1));
}

#[test]
fn requests_without_header_or_status_break_the_rules() {
    let header = segment(HEADER, 16);
    let cases: [(&[Segment], &[Segment]); 4] = [
        (&[segment(HEADER, 15)], &[segment(STATUS, 1)]),
        (&[], &[segment(STATUS, 1)]),
        (&[header], &[]),
        (&[header, segment(DATA, 512)], &[]),
    ];
    for (readable, writable) in cases {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, options(), SPLIT);
        rig.driver.add(readable, writable, None).unwrap();
        assert_eq!(rig.blk.next(&memory), Next::Idle);
        assert_eq!(rig.blk.violation(), Some(Violation::ShortRequest));
        assert!(rig.blk.needs_reset());
        assert!(rig.interrupts().config);
        // Told once, and silent until it is reset.
        assert!(rig.interrupts().is_empty());
        rig.ask(8, 0, &[], &[segment(DATA, 20)]);
        assert_eq!(rig.blk.next(&memory), Next::Idle);
        assert_eq!(rig.driver.take_used(), None);
    }
}

/// The one behind it would be of no device.
#[test]
fn a_request_behind_one_that_breaks_the_rules_is_not_begun() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    rig.driver.add(&[segment(HEADER, 16)], &[], None).unwrap();
    rig.ask(IN, 0, &[], &[segment(DATA, 512)]);
    assert_eq!(rig.blk.next(&memory), Next::Idle);
    assert_eq!(rig.blk.in_flight(), 0);
    assert!(rig.blk.needs_reset());
}

#[test]
fn queues_that_cannot_be_leave_the_device_in_need_of_a_reset() {
    let memory = FakeMemory::new(RAM);
    let mut blk = Blk::new(options());
    blk.negotiate(SPLIT).unwrap();
    let config = QueueConfig {
        size: 3,
        ..QueueConfig::default()
    };
    blk.activate(&[Some(config)], &memory);
    assert_eq!(blk.violation(), Some(Violation::QueueSize(3)));
    assert!(blk.take_interrupts(&memory).config);
    blk.reset();
    assert!(!blk.needs_reset());
}

#[test]
fn features_that_are_not_offered_are_refused() {
    let mut blk = Blk::new(BlkOptions {
        has_cache: false,
        ..options()
    });
    for wrong in [SPLIT | FLUSH, SPLIT | MQ, Features::INDIRECT_DESC] {
        assert_eq!(blk.negotiate(wrong), Err(FeaturesRefused(wrong)));
    }
    assert_eq!(blk.negotiate(blk.device_features()), Ok(()));
}

#[test]
fn while_the_engine_is_full_requests_wait_in_the_ring() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    for _ in 0..5 {
        rig.ask(4, 0, &[], &[]);
    }
    let tokens: Vec<Token> = (0..4).map(|_| rig.next()).collect();
    assert_eq!(rig.blk.next(&memory), Next::Full);
    assert_eq!(rig.blk.in_flight(), 4);
    rig.blk.complete(&memory, tokens[2], Status::Ok);
    let fifth = rig.next();
    assert_eq!(fifth.slot(), tokens[2].slot());
    assert_ne!(fifth, tokens[2]);
    // A completion that comes twice ends nothing.
    rig.blk.complete(&memory, tokens[2], Status::Ok);
    assert_eq!(rig.blk.in_flight(), 4);
    assert!(rig.blk.request(tokens[2]).is_none());
}

#[test]
fn wrong_requests_are_answered_a_bounded_number_a_turn() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    rig.driver = Driver::new(&memory, RING, 64, SPLIT);
    rig.blk.reset();
    rig.blk.negotiate(SPLIT).unwrap();
    rig.blk.activate(&[Some(rig.driver.config)], &memory);
    for _ in 0..32 {
        rig.ask(99, 0, &[], &[]);
    }
    assert_eq!(rig.blk.next(&memory), Next::Later);
    assert_eq!(rig.blk.next(&memory), Next::Idle);
}

#[test]
fn a_reset_takes_the_memory_from_requests_and_holds_new_ones_back() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    rig.ask(IN, 0, &[], &[segment(DATA, 512)]);
    let token = rig.next();
    rig.blk.reset();
    assert!(rig.blk.request(token).is_none());
    memory.write(Gpa(RING), &[0; 0x1000]).unwrap();
    rig.driver = Driver::new(&memory, RING, 16, SPLIT);
    rig.blk.negotiate(SPLIT).unwrap();
    rig.blk.activate(&[Some(rig.driver.config)], &memory);
    rig.ask(OUT, 0, &[segment(DATA, 512)], &[]);
    assert_eq!(rig.blk.next(&memory), Next::Full);
    rig.blk.complete(&memory, token, Status::Ok);
    assert_eq!(rig.status(), UNTOUCHED);
    assert_eq!(rig.driver.take_used(), None);
    let written = rig.next();
    rig.blk.complete(&memory, written, Status::Ok);
    assert_eq!(rig.status(), 0);
}

#[test]
fn queues_are_served_in_turn() {
    let memory = FakeMemory::new(RAM);
    let several = BlkOptions {
        queues: 3,
        ..options()
    };
    let mut blk = Blk::new(several);
    blk.negotiate(SPLIT | MQ).unwrap();
    let mut drivers = [0, 1, 2].map(|n| Driver::new(&memory, 0x1000 + 0x1000 * n, 16, SPLIT));
    let configs = [Some(drivers[0].config), None, Some(drivers[2].config)];
    blk.activate(&configs, &memory);
    memory.write(Gpa(HEADER), &4_u32.to_le_bytes()).unwrap();
    for index in [0, 0, 2, 2] {
        drivers[index]
            .add(&[segment(HEADER, 16)], &[segment(STATUS, 1)], None)
            .unwrap();
    }
    for expected in [0b001, 0b100, 0b001, 0b100] {
        let Next::Request(token) = blk.next(&memory) else {
            unreachable!("there are four");
        };
        blk.complete(&memory, token, Status::Ok);
        assert_eq!(blk.take_interrupts(&memory).queues, expected);
    }
    assert_eq!(blk.next(&memory), Next::Idle);
}

#[test]
fn the_configuration_says_what_the_disk_is_like() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT | FLUSH | CONFIG_WCE);
    let read = |blk: &Blk, offset, len| {
        let mut bytes = vec![0xFF; len];
        blk.read_config(offset, &mut bytes);
        bytes
    };
    assert_eq!(read(&rig.blk, 0, 8), SECTORS.to_le_bytes());
    assert_eq!(read(&rig.blk, 12, 4), 126_u32.to_le_bytes());
    assert_eq!(read(&rig.blk, 20, 4), 512_u32.to_le_bytes());
    assert_eq!(read(&rig.blk, 24, 4), [3, 0, 8, 0]);
    assert_eq!(read(&rig.blk, 32, 1), [1]);
    assert_eq!(read(&rig.blk, 34, 2), [1, 0]);
    assert_eq!(read(&rig.blk, 36, 4), 32_u32.to_le_bytes());
    assert_eq!(read(&rig.blk, 48, 4), 16_u32.to_le_bytes());
    assert_eq!(read(&rig.blk, 56, 1), [1]);
    assert_eq!(read(&rig.blk, 70, 4), [0; 4]);
    assert_eq!(read(&rig.blk, u32::MAX, 4), [0; 4]);
    let before = rig.blk.config_generation();
    rig.blk.set_sectors(7);
    assert_ne!(rig.blk.config_generation(), before);
    assert_eq!(read(&rig.blk, 0, 8), 7_u64.to_le_bytes());
    assert!(rig.interrupts().config);
    rig.blk.write_config(0, &[0; 8]);
    assert_eq!(rig.blk.sectors(), 7);
}

#[test]
fn a_restored_disk_has_its_requests_done() {
    for features in [SPLIT, PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, options(), features);
        rig.ask(IN, 3, &[], &[segment(DATA, 512)]);
        let first = rig.next();
        rig.ask(4, 0, &[], &[]);
        let _ = rig.next();
        let state = rig.blk.save();
        // Those the engine had are forgotten with the old device.
        rig.blk = Blk::new(options());
        rig.blk.restore(&state, &memory).unwrap();
        assert_eq!(rig.blk.save(), state);
        assert!(rig.blk.request(first).is_none());
        assert_eq!(rig.blk.in_flight(), 0);
        let tokens = [rig.next(), rig.next()];
        assert_eq!(rig.blk.next(&memory), Next::Idle);
        let kinds = tokens.map(|token| rig.blk.request(token).unwrap().kind());
        assert!(kinds.contains(&Kind::Read { sector: 3 }) && kinds.contains(&Kind::Flush));
        for token in tokens {
            rig.blk.complete(&memory, token, Status::Ok);
        }
        assert_eq!(rig.interrupts().queues, 1);
        assert_eq!(rig.driver.take_used().map(|_| ()), Some(()));
        assert_eq!(rig.driver.take_used().map(|_| ()), Some(()));
    }
}

#[test]
fn saved_states_that_cannot_be_are_refused() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, options(), SPLIT);
    rig.ask(IN, 3, &[], &[segment(DATA, 512)]);
    let token = rig.next();
    let good = rig.blk.save();
    assert!(rig.blk.restore(&good, &memory).is_err(), "not while busy");
    rig.blk.complete(&memory, token, Status::Ok);
    let mut refuse = |change: &dyn Fn(&mut BlkState)| {
        let mut state = good.clone();
        change(&mut state);
        assert!(rig.blk.restore(&state, &memory).is_err());
    };
    refuse(&|state| state.version = 2);
    refuse(&|state| state.queues.clear());
    refuse(&|state| state.queues[0] = None);
    refuse(&|state| state.requests.clear());
    refuse(&|state| state.requests[0].queue = 1);
    refuse(&|state| state.requests[0].before_status = 511);
    refuse(&|state| state.requests[0].kind = Kind::Read { sector: SECTORS });
    refuse(&|state| state.requests[0].segments[0].len = 511);
    refuse(&|state| state.requests = vec![state.requests[0].clone(); 9]);
    refuse(&|state| state.link.features |= READ_ONLY);
    assert_eq!(
        rig.blk.restore(&BlkState { version: 9, ..good }, &memory),
        Err(RestoreError::Version(9))
    );
}

proptest! {
    /// Whatever a request's bytes are, it is answered, given to the engine or the end of the device; the engine's copies stay in it.
    #[test]
    fn requests_of_any_bytes_do_no_harm(
        header in prop::collection::vec(any::<u8>(), 16..48),
        kind in 0..16_u32,
        lens in prop::collection::vec((1..2000_u32, any::<bool>()), 1..8),
    ) {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, options(), SPLIT | FLUSH | DISCARD | WRITE_ZEROES);
        memory.write(Gpa(HEADER), &header).unwrap();
        memory.write(Gpa(HEADER), &kind.to_le_bytes()).unwrap();
        memory.write(Gpa(HEADER + 9), &[0; 7]).unwrap();
        let place = |(index, len): (usize, u32)| segment(HEADER + 0x800 * index as u64, len);
        let of = |is_readable: bool| -> Vec<Segment> {
            let lens = lens.iter().filter(|(_, readable)| *readable == is_readable);
            lens.map(|(len, _)| *len).enumerate().map(place).collect()
        };
        rig.driver.add(&of(true), &of(false), None);
        if let Next::Request(token) = rig.blk.next(&memory) {
            let request = rig.blk.request(token).unwrap();
            let len = usize::try_from(request.data_len()).unwrap();
            let mut buffer = vec![0; len + 1];
            match request.kind() {
                Kind::Read { .. } => {
                    prop_assert_eq!(request.write_data(&memory, 0, &buffer), Ok(len));
                }
                _ => prop_assert_eq!(request.read_data(&memory, 0, &mut buffer), Ok(len)),
            }
            rig.blk.complete(&memory, token, Status::Ok);
        }
        prop_assert!(rig.blk.needs_reset() || rig.driver.take_used().is_some());
    }
}
