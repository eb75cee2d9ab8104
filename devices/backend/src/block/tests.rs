use std::vec;
use std::vec::Vec;

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use stockade_bus::fake::FakeMemory as Guest;
use stockade_bus::{Gpa, GuestMemory};

use super::{Block, Features, IoError, Kind, MAX_BYTES, MIN_MEMORY, Request, SLOT_BYTES, Ticket};
use crate::error::BackendError;
use crate::fake::{FakeHost, FakeMemory};
use crate::transport::Doorbell;
use crate::watch::{INTERVAL_NS, LOOKS};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE3,
    change_vector: 0xEF,
};
const SECTORS: u64 = 4096;

fn rig() -> (FakeHost, Block<FakeMemory>) {
    let memory = FakeMemory::new(MIN_MEMORY + 4096);
    let mut host = FakeHost::disk(memory.clone(), SECTORS);
    let block = Block::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
    (host, block)
}

fn request(kind: Kind, sector: u64, len_bytes: u32) -> Request {
    Request {
        kind,
        sector,
        len_bytes,
    }
}

fn submit(host: &mut FakeHost, block: &mut Block<FakeMemory>, request: Request) -> Ticket {
    let ticket = block.reserve(request).unwrap();
    block.post(ticket);
    block.publish(host);
    ticket
}

#[test]
fn a_disk_opens_with_its_size_and_features() {
    let (host, block) = rig();
    assert_eq!(block.capacity(), SECTORS);
    let features = Features::FLUSH | Features::DISCARD | Features::WRITE_ZEROES;
    assert_eq!(block.features(), features);
    assert_eq!(host.status, 15);
    assert_eq!(host.accepted & (1 << 33), 1 << 33);
}

/// A driver that waits for a capacity to settle would wait for ever.
#[test]
fn a_disk_whose_configuration_never_settles_is_refused() {
    let memory = FakeMemory::new(MIN_MEMORY);
    let mut host = FakeHost::disk(memory.clone(), SECTORS);
    host.is_restless = true;
    let block = Block::open(&mut host, FakeHost::function(), memory, DOORBELL);
    assert_eq!(block.err(), Some(BackendError::Malformed("configuration")));
}

#[test]
fn what_is_written_is_read_across_guest_memory() {
    let (mut host, mut block) = rig();
    let guest = Guest::new(0x8000);
    let bytes: Vec<u8> = (0..9000_u32).map(|n| n.to_le_bytes()[0]).collect();
    guest.write(Gpa(0x100), &bytes).unwrap();
    let write = block.reserve(request(Kind::Write, 7, 8704)).unwrap();
    block
        .put_from_guest(write, 0, &guest, Gpa(0x100), 5000)
        .unwrap();
    block
        .put_from_guest(write, 5000, &guest, Gpa(0x100 + 5000), 3704)
        .unwrap();
    block.post(write);
    block.publish(&mut host);
    assert_eq!(host.notified, [0]);
    host.serve_disk();
    assert_eq!(block.take().unwrap().outcome, Ok(()));
    block.release(write);

    let read = submit(&mut host, &mut block, request(Kind::Read, 7, 8704));
    host.serve_disk();
    assert_eq!(block.take().unwrap().ticket, read);
    block
        .get_to_guest(read, 4097, &guest, Gpa(0x4000), 4000)
        .unwrap();
    let mut back = vec![0; 4000];
    guest.read(Gpa(0x4000), &mut back).unwrap();
    assert_eq!(back, bytes[4097..8097]);
}

#[test]
fn a_full_pool_makes_requests_wait_and_loses_none() {
    let (mut host, mut block) = rig();
    let whole = request(Kind::Read, 0, MAX_BYTES);
    let first = submit(&mut host, &mut block, whole);
    let _second = submit(&mut host, &mut block, whole);
    assert_eq!(block.reserve(whole), None);
    assert!(block.reserve(request(Kind::Flush, 0, 0)).is_some());
    host.serve_disk();
    assert_eq!(block.take().unwrap().ticket, first);
    block.release(first);
    assert!(block.reserve(whole).is_some());
}

#[test]
fn more_than_a_request_may_have_is_refused() {
    let (_, mut block) = rig();
    let more = MAX_BYTES + 1;
    assert_eq!(block.reserve(request(Kind::Write, 0, more)), None);
}

#[test]
fn ranges_are_forgotten_and_flushes_answered() {
    let (mut host, mut block) = rig();
    host.disk.fill(5);
    submit(&mut host, &mut block, request(Kind::Discard, 8, 4096));
    let zeroes = Kind::WriteZeroes { unmap: true };
    submit(&mut host, &mut block, request(zeroes, 32, 512));
    submit(&mut host, &mut block, request(Kind::Flush, 0, 0));
    assert_eq!(host.serve_disk(), 3);
    for _ in 0..3 {
        assert_eq!(block.take().unwrap().outcome, Ok(()));
    }
    assert_eq!(host.disk[8 * 512 - 1..8 * 512 + 1], [5, 0]);
    assert_eq!(host.disk[32 * 512..32 * 512 + 513].iter().sum::<u8>(), 5);
}

/// Otherwise the guest would get bytes of a request before.
#[test]
fn a_short_answer_is_an_error_and_leaves_zeros() {
    let (mut host, mut block) = rig();
    let bytes = block.reserve(request(Kind::Write, 0, 512)).unwrap();
    block.put(bytes, 0, &[0xAA; 512]);
    block.post(bytes);
    block.publish(&mut host);
    host.serve_disk();
    block.take().unwrap();
    block.release(bytes);

    let read = submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    let (head, _) = host.next_chain(0).unwrap();
    host.finish(0, head.into(), 100);
    let outcome = block.take().unwrap().outcome;
    let short = IoError::Short {
        found: 100,
        expected: 513,
    };
    assert_eq!(outcome, Err(short));
    let mut content = [1; 512];
    block.get(read, 0, &mut content);
    assert_eq!(content, [0; 512]);
}

#[test]
fn a_status_the_device_did_not_write_is_an_error() {
    let (mut host, mut block) = rig();
    submit(&mut host, &mut block, request(Kind::Flush, 0, 0));
    let (head, _) = host.next_chain(0).unwrap();
    host.finish(0, head.into(), 1);
    assert_eq!(block.take().unwrap().outcome, Err(IoError::Status(0xFF)));
}

#[test]
fn a_lie_takes_the_disk_offline_and_fails_all_it_had() {
    let (mut host, mut block) = rig();
    let read = request(Kind::Read, 0, 4096);
    let tickets = [(); 2].map(|()| submit(&mut host, &mut block, read));
    host.finish(0, 40, 0);
    for ticket in tickets {
        let done = block.take().unwrap();
        assert_eq!(done.outcome, Err(IoError::Offline));
        assert_eq!(done.ticket, ticket);
    }
    assert_eq!(block.take(), None);
    assert_eq!(block.failure(), Some(BackendError::UnknownId(40)));
    let late = block.reserve(read).unwrap();
    block.post(late);
    assert_eq!(block.take().unwrap().outcome, Err(IoError::Offline));
}

#[test]
fn a_device_that_changes_its_mind_is_noticed() {
    type Change = (fn(&mut FakeHost), BackendError);
    let changes: [Change; 5] = [
        (|h| h.config[0] = 1, BackendError::Changed("capacity")),
        (
            |h| h.offered |= 1 << 40,
            BackendError::Changed("offer of features"),
        ),
        (|h| h.queues[0].size = 8, BackendError::Queue(0)),
        (|h| h.status |= 64, BackendError::Gone(15 | 64)),
        (|h| h.is_gone = true, BackendError::Gone(0xFF)),
    ];
    for (change, error) in changes {
        let (mut host, mut block) = rig();
        block.check(&mut host);
        assert_eq!(block.failure(), None);
        change(&mut host);
        block.check(&mut host);
        assert_eq!(block.failure(), Some(error));
    }
}

/// Looks at the disk until it is offline; returns after how many looks.
fn looks_until_offline(host: &mut FakeHost, block: &mut Block<FakeMemory>) -> u64 {
    let due = |looks: u64| looks * INTERVAL_NS;
    for looks in 0.. {
        let next = block.watch(host, due(looks));
        if block.failure().is_some() {
            assert_eq!(next, Some(due(looks)));
            return looks;
        }
        assert_eq!(next, Some(due(looks + 1)));
    }
    unreachable!("there are many numbers");
}

#[test]
fn a_disk_that_never_answers_is_offline_after_a_minute() {
    let (mut host, mut block) = rig();
    assert_eq!(block.watch(&mut host, 0), None);
    submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    let looks = looks_until_offline(&mut host, &mut block);
    assert_eq!(looks, u64::from(LOOKS) + 1);
    assert_eq!(block.failure(), Some(BackendError::Silent));
    assert_eq!(block.take().unwrap().outcome, Err(IoError::Offline));
    assert_eq!(block.watch(&mut host, u64::MAX), None);
}

#[test]
fn a_disk_that_vanished_is_offline_at_the_first_look() {
    let (mut host, mut block) = rig();
    submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    host.is_gone = true;
    assert_eq!(looks_until_offline(&mut host, &mut block), 1);
    assert_eq!(block.failure(), Some(BackendError::Gone(0xFF)));
}

/// What the host was never told of it never signals.
#[test]
fn a_refused_notification_has_what_was_posted_taken_back_at_once() {
    let (mut host, mut block) = rig();
    host.is_refusing = true;
    let read = submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    assert_eq!(block.failure(), Some(BackendError::Refused));
    assert_eq!(block.watch(&mut host, 7), Some(7));
    let done = block.take().unwrap();
    assert_eq!((done.ticket, done.outcome), (read, Err(IoError::Offline)));
    assert_eq!(block.watch(&mut host, 8), None);
}

/// Else a host could have a guest's one request hang for ever, and the disk look busy.
#[test]
fn one_request_held_back_among_many_is_noticed() {
    let (mut host, mut block) = rig();
    let held = submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    let _ = host.next_chain(0).unwrap();
    for look in 0..=u64::from(LOOKS) {
        block.watch(&mut host, look * INTERVAL_NS);
        assert_eq!(block.failure(), None, "look {look}");
        let other = submit(&mut host, &mut block, request(Kind::Read, 8, 512));
        host.serve_disk();
        assert_eq!(block.take().unwrap().ticket, other);
        block.release(other);
    }
    block.watch(&mut host, u64::from(LOOKS + 1) * INTERVAL_NS);
    assert_eq!(block.failure(), Some(BackendError::Silent));
    assert_eq!(block.take().unwrap().ticket, held);
}

/// The host was stopped for an hour, and answers when it goes on.
#[test]
fn time_in_which_nobody_looked_does_not_count() {
    let (mut host, mut block) = rig();
    submit(&mut host, &mut block, request(Kind::Read, 0, 512));
    block.watch(&mut host, 0);
    block.watch(&mut host, 1000 * INTERVAL_NS);
    assert_eq!(block.failure(), None);
    host.serve_disk();
    assert_eq!(block.take().unwrap().outcome, Ok(()));
    assert_eq!(block.watch(&mut host, 1001 * INTERVAL_NS), None);
}

#[test]
fn a_device_that_cannot_be_driven_is_refused_by_name() {
    type Change = fn(&mut FakeHost);
    let changes: [Change; 4] = [
        |h| h.offered &= !(1 << 33),
        |h| h.offered &= !(1 << 28),
        |h| h.queues[0].size = 0,
        |h| h.is_refusing = true,
    ];
    for change in changes {
        let memory = FakeMemory::new(MIN_MEMORY);
        let mut host = FakeHost::disk(memory.clone(), 8);
        change(&mut host);
        assert!(Block::open(&mut host, FakeHost::function(), memory, DOORBELL).is_err());
    }
    let memory = FakeMemory::new(SLOT_BYTES);
    let mut host = FakeHost::disk(memory.clone(), 8);
    let outcome = Block::open(&mut host, FakeHost::function(), memory, DOORBELL);
    assert_eq!(outcome.err(), Some(BackendError::NoMemory));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the host writes into the rings, tickets come back at most once and nothing panics.
    #[test]
    fn any_used_ring_is_survived(
        words in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 1..200)
    ) {
        let (mut host, mut block) = rig();
        let mut out = vec![0_u32; 64];
        for (kind, id, len) in words {
            match kind % 4 {
                0 => {
                    let kind = if kind & 16 == 0 { Kind::Read } else { Kind::Write };
                    let request = request(kind, 0, 512 * (1 + id % 16));
                    if let Some(ticket) = block.reserve(request) {
                        out[usize::from(ticket.0)] += 1;
                        block.post(ticket);
                        block.publish(&mut host);
                    }
                }
                1 => { host.serve_disk(); }
                2 => host.finish(0, id % 70, len % 9000),
                _ => host.memory.device_write(host.queues[0].device + 2, &len.to_le_bytes()[..2]),
            }
            while let Some(done) = block.take() {
                let count = &mut out[usize::from(done.ticket.0)];
                assert_eq!(*count, 1);
                *count = 0;
                block.release(done.ticket);
            }
        }
    }
}
