use super::{Posted, Queue, Used, is_passed};
use crate::error::BackendError;
use crate::fake::FakeMemory;
use crate::shared::SharedMemory;

const SIZE: u16 = 8;

struct Host {
    memory: FakeMemory,
    used: u16,
}

impl Host {
    fn answer(&mut self, id: u32, written: u32) {
        let queue = Queue::new_truncate(0, SIZE, false);
        let element = u64::from(id) | u64::from(written) << 32;
        let at = queue.layout.used_entry(self.used);
        self.memory.write(at, &element.to_le_bytes());
        self.used = self.used.wrapping_add(1);
        self.memory.store(queue.layout.used_index(), self.used);
    }
}

fn rig() -> (Queue, Host) {
    let memory = FakeMemory::new(4096);
    (Queue::new_truncate(0, SIZE, true), Host { memory, used: 0 })
}

fn post(queue: &mut Queue, host: &Host, writable: u32) -> u16 {
    let posted = Posted::indirect(0x1000, 16, writable);
    let id = queue.post(&host.memory, posted).unwrap();
    queue.publish(&host.memory);
    id
}

#[test]
fn requests_come_back_in_any_order_over_many_rounds() {
    let (mut queue, mut host) = rig();
    for round in 0..30_000_u32 {
        let first = post(&mut queue, &host, 9);
        let second = post(&mut queue, &host, 9);
        host.answer(second.into(), round % 10);
        host.answer(first.into(), 0);
        let taken = [(); 3].map(|()| queue.take(&host.memory).unwrap());
        let written = round % 10;
        let expected = [
            Some(Used {
                id: second,
                written,
            }),
            Some(Used {
                id: first,
                written: 0,
            }),
            None,
        ];
        assert_eq!(taken, expected);
    }
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn an_id_answered_twice_is_refused() {
    let (mut queue, mut host) = rig();
    let id = post(&mut queue, &host, 4);
    let _other = post(&mut queue, &host, 4);
    host.answer(id.into(), 4);
    host.answer(id.into(), 4);
    assert!(queue.take(&host.memory).unwrap().is_some());
    let error = queue.take(&host.memory).unwrap_err();
    assert_eq!(error, BackendError::UnknownId(id.into()));
}

/// The upper half of the 32-bit id counts as much as the lower.
#[test]
fn ids_never_posted_are_refused() {
    for lie in [7, 8, 0xFFFF, 0x1_0000, u32::MAX] {
        let (mut queue, mut host) = rig();
        assert_eq!(post(&mut queue, &host, 4), 0);
        host.answer(lie, 0);
        let outcome = queue.take(&host.memory);
        assert_eq!(outcome, Err(BackendError::UnknownId(lie)));
        assert_eq!(queue.take(&host.memory), Ok(None), "the queue is dead");
        assert_eq!(queue.post(&host.memory, Posted::writable(0, 1)), None);
    }
}

#[test]
fn a_length_beyond_what_was_posted_is_refused() {
    let (mut queue, mut host) = rig();
    let id = post(&mut queue, &host, 512);
    host.answer(id.into(), 513);
    let error = queue.take(&host.memory).unwrap_err();
    assert_eq!(
        error,
        BackendError::TooLong {
            found: 513,
            posted: 512
        }
    );
}

#[test]
fn an_index_ahead_of_what_was_shown_is_refused() {
    for lie in [2, 9, 0x8000, 0xFFFF] {
        let (mut queue, host) = rig();
        post(&mut queue, &host, 4);
        // Posted but not shown: the device cannot have it.
        queue.post(&host.memory, Posted::writable(0, 1)).unwrap();
        host.memory.store(queue.layout.used_index(), lie);
        let error = queue.take(&host.memory).unwrap_err();
        assert_eq!(
            error,
            BackendError::UsedIndex {
                found: lie,
                limit: 1
            }
        );
    }
}

#[test]
fn a_full_queue_takes_nothing_until_something_came_back() {
    let (mut queue, mut host) = rig();
    for _ in 0..SIZE {
        post(&mut queue, &host, 0);
    }
    assert!(queue.is_full());
    assert_eq!(queue.post(&host.memory, Posted::writable(0, 1)), None);
    host.answer(3, 0);
    assert!(queue.take(&host.memory).unwrap().is_some());
    assert!(!queue.is_full());
}

#[test]
fn the_device_is_notified_when_its_event_index_is_passed() {
    let (mut queue, host) = rig();
    host.memory.store(queue.layout.available_event(), 1);
    let one = Posted::writable(0, 1);
    queue.post(&host.memory, one).unwrap();
    assert!(!queue.publish(&host.memory));
    queue.post(&host.memory, one).unwrap();
    assert!(queue.publish(&host.memory));
    assert!(!queue.publish(&host.memory), "nothing new");
}

/// A completion between the last look and the request for an interrupt would wait for ever.
#[test]
fn listening_tells_what_came_meanwhile() {
    let (mut queue, mut host) = rig();
    let id = post(&mut queue, &host, 0);
    assert!(!queue.listen(&host.memory));
    host.answer(id.into(), 0);
    assert!(queue.listen(&host.memory));
}

#[test]
fn event_indexes_are_compared_modulo_their_size() {
    assert!(is_passed(0xFFFF, 0, 0xFFFF));
    assert!(is_passed(5, 6, 5) && !is_passed(6, 6, 5) && !is_passed(4, 6, 5));
    assert!(is_passed(0xFFFE, 2, 0xFFF0) && !is_passed(2, 2, 0xFFF0));
}

/// Somebody looks instead of being interrupted, and then wants interrupts again.
#[test]
fn a_hushed_device_interrupts_for_nothing_until_it_is_listened_to() {
    let (mut queue, mut host) = rig();
    let event = |host: &Host| host.memory.load(queue_event());
    let first = post(&mut queue, &host, 9);
    assert!(!queue.listen(&host.memory));
    queue.hush(&host.memory);
    let hushed = event(&host);
    host.answer(first.into(), 0);
    assert!(!is_passed(hushed, 1, 0));
    assert!(queue.has_used(&host.memory, 1) && !queue.has_used(&host.memory, 2));
    assert!(queue.listen(&host.memory), "it is there already");
    queue.take(&host.memory).unwrap();
    assert!(!queue.has_used(&host.memory, 1) && !queue.listen(&host.memory));
    assert!(is_passed(event(&host), 2, 1));
}

fn queue_event() -> usize {
    Queue::new_truncate(0, SIZE, true).layout.used_event()
}

#[test]
fn a_dead_queue_has_nothing() {
    let (mut queue, mut host) = rig();
    let id = post(&mut queue, &host, 9);
    host.answer(id.into(), 0);
    queue.kill();
    assert!(!queue.has_used(&host.memory, 1));
}
