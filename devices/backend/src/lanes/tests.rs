use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Came, Lanes, Plan, RESERVED};
use crate::fake::{FakeHost, FakeMemory};
use crate::pci::DeviceType;
use crate::transport::{CommonFeatures, Doorbell, Transport};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};
const HALF: usize = 4096;
const PLAN: Plan = Plan {
    kind: "fake",
    has_event_index: true,
    buffer_bytes: 512,
};

fn rig() -> (FakeHost, Lanes<FakeMemory>) {
    let memory = FakeMemory::new(RESERVED + 2 * HALF);
    let mut host = FakeHost::net(memory.clone());
    let mut transport = Transport::open(&mut host, FakeHost::function(), DeviceType::NET).unwrap();
    let events = CommonFeatures::EVENT_INDEX.bits();
    transport.negotiate(&mut host, events, 0).unwrap();
    transport.route(&mut host, DOORBELL).unwrap();
    let lanes = Lanes::open(&mut host, transport, memory, PLAN).unwrap();
    (host, lanes)
}

#[test]
fn parts_go_out_as_one_stretch() {
    let (mut host, mut lanes) = rig();
    assert!(lanes.send([b"one ", b"and the other"]));
    lanes.publish(&mut host);
    let (_, buffers) = host.next_chain(1).unwrap();
    assert_eq!(buffers.len(), 1);
    let sent = host.memory.device_read(buffers[0].address, buffers[0].len);
    assert_eq!(sent, b"one and the other");
}

#[test]
fn what_does_not_fit_waits_until_half_was_sent() {
    let (mut host, mut lanes) = rig();
    assert!(!lanes.send([&[0; HALF + 1][..]]) && !lanes.send([&[][..]]));
    let sent = (0..100)
        .take_while(|_| lanes.send([&[1; 1000][..]]))
        .count();
    assert_eq!(sent, 4);
    lanes.publish(&mut host);
    assert!(!lanes.listen_for_room(1000));
    let event = host
        .memory
        .device_read(host.queues[1].driver + 4 + 2 * 64, 2);
    assert_eq!(event, [2, 0], "the third of four");
    for _ in 0..2 {
        let (head, _) = host.next_chain(1).unwrap();
        host.finish(1, head.into(), 0);
    }
    assert!(!lanes.listen_for_room(3000));
    assert!(lanes.can_send(1000) && !lanes.can_send(3000));
}

/// The device would signal what has been counted already, and nothing more.
#[test]
fn who_still_waits_for_room_is_woken_by_what_is_sent_next() {
    let (mut host, mut lanes) = rig();
    while lanes.send([&[1; 1000][..]]) {}
    lanes.publish(&mut host);
    let heads = [(); 4].map(|()| host.next_chain(1).unwrap().0);
    // All but the first, without which there is no room.
    for head in &heads[1..] {
        host.finish(1, (*head).into(), 0);
    }
    assert!(!lanes.listen_for_room(1000));
    let event = host.queues[1].driver + 4 + 2 * 64;
    assert_eq!(host.memory.device_read(event, 2), [3, 0], "the fourth");
    host.finish(1, heads[0].into(), 0);
    assert!(lanes.listen_for_room(1000));
}

/// The device may send in any order; memory it still reads is not written again.
#[test]
fn memory_is_free_once_all_before_it_was_sent() {
    let (mut host, mut lanes) = rig();
    assert!(lanes.send([&[1; 2000][..]]) && lanes.send([&[2; 2000][..]]));
    lanes.publish(&mut host);
    let first = host.next_chain(1).unwrap();
    let second = host.next_chain(1).unwrap();
    host.finish(1, second.0.into(), 0);
    assert!(!lanes.can_send(100));
    host.finish(1, first.0.into(), 0);
    assert!(lanes.can_send(HALF));
    assert!(!lanes.outbox.is_sending());
}

#[test]
fn what_came_in_is_read_once_and_gone() {
    let (mut host, mut lanes) = rig();
    let (head, buffers) = host.next_chain(0).unwrap();
    host.memory.device_write(buffers[0].address, &[7; 512]);
    host.finish(0, head.into(), 512);
    assert_eq!(lanes.listen(), Came::Something);
    let filled = lanes.next_in().unwrap();
    let mut bytes = [9; 600];
    lanes.read_in(filled, 12, &mut bytes);
    assert!(bytes[..500].iter().all(|byte| *byte == 7));
    assert!(bytes[500..].iter().all(|byte| *byte == 0));
    lanes.recycle(filled);
    assert_eq!(host.memory.device_read(buffers[0].address, 512), [0; 512]);
    assert_eq!((lanes.next_in(), lanes.listen()), (None, Came::Nothing));
}

proptest! {
    /// Whatever is sent in whatever order, the device reads what was sent, and no two stretches lie over each other.
    #[test]
    fn stretches_do_not_lie_over_each_other(steps in prop::collection::vec((1..3000_usize, 0..4_usize), 1..200)) {
        let (mut host, mut lanes) = rig();
        let mut open: VecDeque<(u16, u64, usize, u8)> = VecDeque::new();
        for (step, (len, late)) in steps.into_iter().enumerate() {
            let mark = u8::try_from(step % 255).unwrap() + 1;
            let bytes = vec![mark; len];
            if lanes.send([&bytes]) {
                lanes.publish(&mut host);
                let (head, buffers) = host.next_chain(1).unwrap();
                open.push_back((head, buffers[0].address, buffers[0].len, mark));
            } else {
                prop_assert!(!open.is_empty());
            }
            for (_, address, len, mark) in &open {
                let read: Vec<u8> = host.memory.device_read(*address, *len);
                prop_assert!(read.iter().all(|byte| byte == mark));
            }
            if late == 0 || open.len() > 3 {
                let index = late % open.len();
                if let Some((head, ..)) = open.remove(index) {
                    host.finish(1, head.into(), 0);
                }
            }
        }
        prop_assert_eq!(lanes.failure(), None);
    }
}
