use std::vec;

use super::{MAX_FRAME, MIN_MEMORY, Net};
use crate::error::BackendError;
use crate::fake::{FakeHost, FakeMemory};
use crate::transport::Doorbell;
use crate::watch::INTERVAL_NS;

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};

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
    assert!(net.send(b"a frame"));
    net.publish(&mut host);
    let (head, buffers) = host.next_chain(1).unwrap();
    let sent = host.memory.device_read(buffers[0].address, buffers[0].len);
    assert_eq!(sent, [&[0; 12][..], b"a frame"].concat());
    host.finish(1, head.into(), 0);
}

#[test]
fn a_card_that_sends_nothing_makes_frames_wait() {
    let (mut host, mut net) = rig();
    let sent = (0..100).take_while(|_| net.send(&[1; 60])).count();
    assert_eq!(sent, 16);
    net.publish(&mut host);
    let (head, _) = host.next_chain(1).unwrap();
    host.finish(1, head.into(), 0);
    assert!(net.send(&[2; 60]));
    assert!(!net.send(&[2; 60]));
}

#[test]
fn frames_come_in_for_ever() {
    let (mut host, mut net) = rig();
    for round in 0..1000_u32 {
        let bytes = vec![round.to_le_bytes()[0]; 64];
        arrive(&mut host, &bytes, 12 + 64);
        let mut frame = [0; MAX_FRAME];
        assert_eq!(net.receive(&mut frame), Some(64));
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
    assert!(!net.send(&[0; MAX_FRAME + 1]));
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
    assert!(!net.send(&[1; 60]));
}

#[test]
fn a_card_that_vanished_is_offline_at_the_first_look_and_a_slow_one_stays() {
    let (mut host, mut net) = rig();
    assert_eq!(net.watch(&mut host, 0), None, "frames to come are no hurry");
    assert!(net.send(&[1; 60]));
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

/// Checksum and segmentation work left undone is refused in both directions: a header of the host's has no meaning here.
#[test]
fn no_offload_is_agreed_on_whatever_the_card_offers() {
    const OFFLOADS: u64 = 0b11 | 0b1111 << 7 | 0b1111 << 11 | 1 << 15;
    let memory = FakeMemory::new(MIN_MEMORY);
    let mut host = FakeHost::net(memory.clone());
    host.offered |= OFFLOADS;
    Net::open(&mut host, FakeHost::function(), memory, DOORBELL).unwrap();
    assert_eq!(host.accepted & OFFLOADS, 0);
}

/// A header that asks for a frame to be split, or points its checksum beyond the frame, is not even read.
#[test]
fn what_the_host_says_in_a_header_changes_nothing() {
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
        assert_eq!(net.receive(&mut frame), Some(64));
        assert_eq!(frame[..64], [7; 64]);
        assert!(frame[64..].iter().all(|byte| *byte == 0));
        assert_eq!(net.failure(), None);
    }
}
