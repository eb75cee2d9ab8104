//! Frames of the host's that cannot be, and guests without room.

use super::*;

impl Rig<'_> {
    /// The host's card says of its next buffers that it wrote so many bytes into each, the first of which says how many they are.
    fn claim(&mut self, lens: &[usize]) {
        let number = u16::try_from(lens.len()).unwrap();
        let header = Header::default().to_bytes(number);
        for (index, len) in lens.iter().enumerate() {
            let (head, buffers) = self.host.next_chain(0).unwrap();
            let (address, mut bytes) = (buffers[0].address, vec![0x5A; *len]);
            if index == 0 && *len >= header.len() {
                bytes[..header.len()].copy_from_slice(&header);
            }
            self.host.memory.device_write(address, &bytes);
            let len = u32::try_from(*len).unwrap();
            self.host.finish(0, head.into(), len);
        }
    }
}

/// Without a header, of a header alone, of less than an Ethernet header, and longer than any packet.
#[test]
fn frames_of_impossible_lengths_are_dropped_and_counted_and_the_next_one_comes_in() {
    for offered in [0, ALL] {
        let memory = FakeMemory::new(0x10_0000);
        let mut rig = Rig::new(&memory, TAKES_LARGE & features::MRG_RXBUF, offered);
        rig.offer(40);
        let short = [0, 1, 11, 12, 13, 17, 18, 25];
        for len in short {
            rig.claim(&[len]);
        }
        let mut dropped = short.len() as u64;
        if offered == ALL {
            rig.claim(&[2048; 33]);
            rig.claim(&[2048, 0]);
            rig.claim(&[12, 0, 0]);
            dropped += 2;
        }
        rig.arrive(Header::default(), &plain(60));
        rig.turns();
        let taken = rig.taken();
        assert_eq!(taken.last(), Some(&(Header::default(), plain(60))));
        assert_eq!(rig.dropped(), dropped, "{taken:?}");
    }
}

/// As many as the host has buffers for, and none of them twice.
#[test]
fn frames_without_room_with_the_guest_wait_in_their_order() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, Features::empty(), 0);
    let frame = |number: usize| plain(60 + number);
    for number in 0..100 {
        rig.arrive(Header::default(), &frame(number));
    }
    rig.turns();
    assert!(rig.taken().is_empty());
    let mut came = Vec::new();
    for _ in 0..10 {
        rig.offer(10);
        rig.turns();
        came.extend(rig.taken().into_iter().map(|(_, frame)| frame));
    }
    assert!(came == (0..100).map(frame).collect::<Vec<_>>());
    assert_eq!(rig.dropped(), 0);
}

/// The guest's answer to a lone frame is not put off.
#[test]
fn a_frame_after_quiet_is_the_guests_in_the_turn_that_finds_it() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, Features::EVENT_IDX, 0);
    rig.drivers[0].ask_for_next();
    rig.offer(4);
    rig.turns();
    for _ in 0..3 {
        rig.drivers[0].ask_for_next();
        rig.arrive(Header::default(), &plain(60));
        let _ = rig.turn();
        assert_ne!(rig.net.take_interrupts(&memory).queues & 1, 0);
        assert_eq!(rig.taken().len(), 1);
        rig.send(Header::default(), &plain(60));
        let _ = rig.turn();
        assert_eq!(rig.sent().len(), 1);
        rig.turns();
    }
}
