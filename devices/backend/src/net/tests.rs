use std::vec;
use std::vec::Vec;

use super::{LARGE_MEMORY, MAX_FRAME, MAX_LARGE_FRAME, MIN_MEMORY, Net, Offloads};
use crate::error::BackendError;
use crate::fake::{FakeHost, FakeMemory};
use crate::transport::Doorbell;
use crate::watch::INTERVAL_NS;

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};

/// The header of a frame to which nothing is left to be done.
const NONE: [u8; 12] = [0; 12];

fn rig() -> (FakeHost, Net<FakeMemory>) {
    let memory = FakeMemory::new(MIN_MEMORY);
    let mut host = FakeHost::net(memory.clone());
    let net = Net::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
    (host, net)
}

/// Has the card receive `frame`, and say it was `claimed` bytes with its header.
fn arrive(host: &mut FakeHost, frame: &[u8], claimed: usize) {
    let (head, buffers) = host.next_chain(0).unwrap();
    host.memory.device_write(buffers[0].address + 12, frame);
    host.finish(0, head.into(), u32::try_from(claimed).unwrap());
}

#[test]
fn a_frame_is_sent_behind_an_empty_header() {
    let (mut host, mut net) = rig();
    assert!(net.send(&NONE, b"a frame"));
    net.publish(&mut host);
    let (head, buffers) = host.next_chain(1).unwrap();
    let sent = host.memory.device_read(buffers[0].address, buffers[0].len);
    assert_eq!(sent, [&[0; 12][..], b"a frame"].concat());
    host.finish(1, head.into(), 0);
}

#[test]
fn a_card_that_sends_nothing_makes_frames_wait() {
    let (mut host, mut net) = rig();
    let sent = (0..100).take_while(|_| net.send(&NONE, &[1; 60])).count();
    assert_eq!(sent, 64, "as many as the queue takes");
    net.publish(&mut host);
    assert!(!net.listen_for_room(60));
    let (head, _) = host.next_chain(1).unwrap();
    host.finish(1, head.into(), 0);
    assert!(net.send(&NONE, &[2; 60]));
    assert!(!net.send(&NONE, &[2; 60]));
}

#[test]
fn frames_come_in_for_ever() {
    let (mut host, mut net) = rig();
    for round in 0..1000_u32 {
        let bytes = vec![round.to_le_bytes()[0]; 64];
        arrive(&mut host, &bytes, 12 + 64);
        let mut frame = [0; MAX_FRAME];
        assert_eq!(
            net.receive(&mut frame).map(|received| received.len),
            Some(64)
        );
        assert_eq!(frame[..64], bytes);
        assert_eq!(net.receive(&mut frame), None);
        net.publish(&mut host);
    }
}

#[test]
fn frames_of_impossible_length_are_dropped() {
    let (mut host, mut net) = rig();
    for claimed in [0, 5, 12, 12 + MAX_FRAME + 1, 2048] {
        arrive(&mut host, &[9; 64], claimed);
    }
    let mut frame = [0; MAX_FRAME];
    assert_eq!(net.receive(&mut frame), None);
    assert_eq!(net.failure(), None);
    assert!(!net.send(&NONE, &[0; MAX_FRAME + 1]));
}

#[test]
fn a_frame_longer_than_its_buffer_takes_the_card_offline() {
    let (mut host, mut net) = rig();
    arrive(&mut host, &[9; 64], 2049);
    let mut frame = [0; MAX_FRAME];
    assert_eq!(net.receive(&mut frame), None);
    let error = BackendError::TooLong {
        found: 2049,
        posted: 2048,
    };
    assert_eq!(net.failure(), Some(error));
    assert!(!net.send(&NONE, &[1; 60]));
}

#[test]
fn a_card_that_vanished_is_offline_at_the_first_look_and_a_slow_one_stays() {
    let (mut host, mut net) = rig();
    assert_eq!(net.watch(&mut host, 0), None, "frames to come are no hurry");
    assert!(net.send(&NONE, &[1; 60]));
    net.publish(&mut host);
    for look in 0..1000 {
        let next = net.watch(&mut host, look * INTERVAL_NS);
        assert_eq!(next, Some((look + 1) * INTERVAL_NS));
    }
    host.is_gone = true;
    net.watch(&mut host, 1000 * INTERVAL_NS);
    assert_eq!(net.failure(), Some(BackendError::Gone(0xFF)));
}

/// A host that puts another device in a card's place, or says so, gets no queue set up.
#[test]
fn a_disk_in_the_place_of_a_card_is_refused() {
    let memory = FakeMemory::new(MIN_MEMORY);
    let mut host = FakeHost::disk(memory.clone(), 8);
    let outcome = Net::open(&mut host, FakeHost::function(), memory, DOORBELL);
    assert_eq!(outcome.err(), Some(BackendError::Malformed("identity")));
}

const ALL: u64 = 0b11 | 0b111 << 7 | 0b111 << 11 | 1 << 15;

fn agreed(offered: u64, memory_bytes: usize) -> u64 {
    let memory = FakeMemory::new(memory_bytes);
    let mut host = FakeHost::net(memory.clone());
    host.offered |= offered;
    let net = Net::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
    assert_eq!(host.accepted & ALL, net.offloads().bits());
    net.offloads().bits()
}

#[test]
fn offloads_are_taken_with_all_they_need_or_not_at_all() {
    let large = LARGE_MEMORY.next_multiple_of(4096);
    assert_eq!(agreed(ALL, large), ALL);
    assert_eq!(agreed(ALL | 1 << 14 | 1 << 10 | 1 << 22, large), ALL);
    assert_eq!(
        agreed(ALL, MIN_MEMORY),
        0b11 | 1 << 15,
        "no room for large frames"
    );
    assert_eq!(agreed(ALL & !1, large), 0b10 | 0b111 << 7 | 1 << 15);
    assert_eq!(agreed(ALL & !2, large), 0b01 | 0b111 << 11 | 1 << 15);
    assert_eq!(agreed(ALL & !(1 << 15), large), 0b11 | 0b111 << 11);
    assert_eq!(agreed(1 << 9 | 1 << 13 | 3, large), 3);
    assert_eq!(agreed(0, large), 0);
}

fn large_rig() -> (FakeHost, Net<FakeMemory>) {
    let memory = FakeMemory::new(520 << 10);
    let mut host = FakeHost::net(memory.clone());
    host.offered |= ALL;
    for queue in &mut host.queues {
        queue.size = 256;
    }
    let net = Net::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
    assert!(net.offloads().contains(Offloads::LARGE_RECEIVED));
    (host, net)
}

/// Has a frame arrive in these buffers, the first of which says that they are so many.
fn arrive_in(host: &mut FakeHost, parts: &[&[u8]], number: u16) {
    let chains: Vec<_> = parts.iter().map(|_| host.next_chain(0).unwrap()).collect();
    for (index, ((head, buffers), part)) in chains.iter().zip(parts).enumerate() {
        let mut bytes = part.to_vec();
        if index == 0 {
            let [low, high] = number.to_le_bytes();
            bytes = [&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, low, high], *part].concat();
        }
        host.memory.device_write(buffers[0].address, &bytes);
        host.finish(0, u32::from(*head), u32::try_from(bytes.len()).unwrap());
    }
}

#[test]
fn a_large_frame_goes_out_in_one_piece_with_its_header() {
    let (mut host, mut net) = large_rig();
    let frame: Vec<u8> = (0..MAX_LARGE_FRAME).map(|at| at.to_le_bytes()[0]).collect();
    let header = [1, 1, 54, 0, 0xA8, 5, 34, 0, 16, 0, 0, 0];
    assert_eq!((0..9).take_while(|_| net.send(&header, &frame)).count(), 3);
    net.publish(&mut host);
    let (_, buffers) = host.next_chain(1).unwrap();
    let sent = host.memory.device_read(buffers[0].address, buffers[0].len);
    assert!(sent == [&header[..], &frame].concat() && buffers.len() == 1);
}

#[test]
fn a_frame_is_gathered_from_the_buffers_it_lies_in() {
    let (mut host, mut net) = large_rig();
    let mut frame = vec![0; MAX_LARGE_FRAME];
    for round in 0..100_u8 {
        let full = [round; 2036];
        let parts = vec![&[7; 2048][..]; 20];
        arrive_in(
            &mut host,
            &[&[&full[..]], &parts[..], &[&[9; 5][..]]].concat(),
            22,
        );
        arrive_in(&mut host, &[&[round; 60]], 1);
        let received = net.receive(&mut frame).unwrap();
        assert_eq!(received.len, 2036 + 20 * 2048 + 5);
        assert_eq!(received.header[..10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(frame[..2036] == full && frame[received.len - 5..received.len] == [9; 5]);
        assert_eq!(
            net.receive(&mut frame).map(|received| received.len),
            Some(60)
        );
        assert_eq!(net.receive(&mut frame), None);
        net.publish(&mut host);
    }
    assert_eq!(net.dropped(), 0);
}

/// The card stays: what follows such a frame is whole.
#[test]
fn impossible_numbers_of_buffers_cost_the_frame() {
    let (mut host, mut net) = large_rig();
    let mut frame = vec![0; MAX_LARGE_FRAME];
    for number in [0, 129, 0xFFFF] {
        arrive_in(&mut host, &[&[3; 60]], number);
        assert_eq!(net.receive(&mut frame), None);
    }
    // Fewer are there than it says.
    arrive_in(&mut host, &[&[3; 60], &[4; 60]], 3);
    assert_eq!(net.receive(&mut frame), None);
    // More than the longest frame.
    let most = vec![&[5; 2048][..]; 33];
    let first = [5; 2036];
    arrive_in(&mut host, &[&[&first[..]], &most[..]].concat(), 34);
    arrive_in(&mut host, &[&[6; 61]], 1);
    assert_eq!(
        net.receive(&mut frame).map(|received| received.len),
        Some(61)
    );
    assert_eq!(frame[..61], [6; 61]);
    assert_eq!((net.dropped(), net.failure()), (5, None));
    net.publish(&mut host);
    assert_eq!(
        (0..200)
            .take_while(|_| host.next_chain(0).is_some())
            .count(),
        90 + 38
    );
}

/// What the host says of a frame is passed on for the caller to judge, and changes nothing here.
#[test]
fn without_merged_buffers_a_header_says_nothing_of_them() {
    let (mut host, mut net) = rig();
    for header in [
        [0xFF; 12],
        [1, 0x84, 0, 0, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 9, 0],
    ] {
        let (head, buffers) = host.next_chain(0).unwrap();
        host.memory.device_write(buffers[0].address, &header);
        host.memory.device_write(buffers[0].address + 12, &[7; 64]);
        host.finish(0, head.into(), 12 + 64);
        let mut frame = [0; MAX_FRAME];
        let received = net.receive(&mut frame).unwrap();
        assert_eq!((received.header, received.len), (header, 64));
        assert_eq!(frame[..64], [7; 64]);
        assert!(frame[64..].iter().all(|byte| *byte == 0));
        assert_eq!(net.failure(), None);
    }
}
