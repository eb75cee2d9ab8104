use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::net::Net as Wire;
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::driver::Driver;
use stockade_devices::virtio::net::{Header, Net, features};
use stockade_devices::virtio::queue::Segment;
use stockade_devices::virtio::{Features, VirtioDevice};

use super::Frames;
use crate::virtio::{Engine, Turn};

mod gathering;
mod impossible;

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE4,
    change_vector: 0xEF,
};
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SEND: u64 = 0x8_0000;
const TAKE: u64 = 0x1_0000;
const BUFFER: u64 = 2048;
/// All the host can offer.
const ALL: u64 = 0b11 | 0b111 << 7 | 0b111 << 11 | 1 << 15;
const SENDS_LARGE: Features = features::CSUM.union(features::HOST_TSO4);
const TAKES_LARGE: Features = features::GUEST_CSUM
    .union(features::GUEST_TSO4)
    .union(features::MRG_RXBUF);

/// A guest with a ready driver, a host's card, and the engine between them.
struct Rig<'m> {
    memory: &'m FakeMemory,
    drivers: [Driver<'m>; 2],
    net: Net,
    engine: Frames,
    host: FakeHost,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory, chosen: Features, offered: u64) -> Self {
        let shared = SharedFake::new(520 << 10);
        let mut host = FakeHost::net(shared.clone());
        host.offered |= offered;
        host.queues.iter_mut().for_each(|queue| queue.size = 256);
        let shared: AnyShared = Box::new(shared);
        let wire = Wire::open(&mut host, FakeHost::function(), shared, DOORBELL).unwrap();
        let (mut net, engine) = Frames::new(wire, OWN);
        let chosen = chosen | Features::VERSION_1;
        net.negotiate(chosen).unwrap();
        let drivers = [0x1000, 0x4000].map(|at| Driver::new(memory, at, 256, chosen));
        let [receive, transmit] = drivers.each_ref().map(|driver| Some(driver.config));
        net.activate(&[receive, transmit, None], memory);
        assert!(!net.needs_reset());
        Self {
            memory,
            drivers,
            net,
            engine,
            host,
        }
    }

    fn turn(&mut self) -> Turn {
        self.engine.turn(&mut self.net, self.memory, &mut self.host)
    }

    fn dropped(&self) -> u64 {
        self.engine.refusals(&self.net).dropped_frames
    }

    /// Gives turns until nothing is left to be done.
    fn turns(&mut self) {
        let is_over = |rig: &mut Self| rig.turn() == Turn::Done && !rig.engine.gathers(&rig.net);
        assert!((1..20).any(|_| is_over(self)));
    }

    /// The same; returns how often memory was allocated.
    fn turns_counting(&mut self) -> u64 {
        // Emptied, the fake host's list has room.
        self.host.notified.clear();
        allocation_counter::measure(|| self.turns()).count_total
    }

    fn send(&mut self, header: Header, frame: &[u8]) {
        let bytes = [&header.to_bytes(0)[..], frame].concat();
        self.memory.write(Gpa(SEND), &bytes).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let whole = Segment {
            gpa: Gpa(SEND),
            len,
        };
        self.drivers[1].add(&[whole], &[], None).unwrap();
    }

    fn offer(&mut self, count: u64) {
        for at in 0..count {
            let gpa = Gpa(TAKE + BUFFER * at);
            let buffer = Segment { gpa, len: 2048 };
            self.drivers[0].add(&[], &[buffer], None).unwrap();
        }
    }

    /// What the host's card is given, each with its header.
    fn sent(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((head, buffers)) = self.host.next_chain(1) {
            let bytes = self
                .host
                .memory
                .device_read(buffers[0].address, buffers[0].len);
            let (header, frame) = bytes.split_first_chunk().unwrap();
            all.push((Header::from_bytes(*header), frame.to_vec()));
            self.host.finish(1, head.into(), 0);
        }
        all
    }

    /// The host's card receives a frame, in as many buffers as it takes.
    fn arrive(&mut self, header: Header, frame: &[u8]) {
        let number = (12 + frame.len()).div_ceil(2048);
        let header = header.to_bytes(u16::try_from(number).unwrap());
        for part in [&header[..], frame].concat().chunks(2048) {
            let (head, buffers) = self.host.next_chain(0).unwrap();
            self.host.memory.device_write(buffers[0].address, part);
            self.host
                .finish(0, head.into(), u32::try_from(part.len()).unwrap());
        }
    }

    /// What the guest gets, each frame with its header, from buffers in the order they were offered.
    fn taken(&mut self) -> Vec<(Header, Vec<u8>)> {
        let (mut all, mut left) = (Vec::<(Header, Vec<u8>)>::new(), 0);
        while let Some((id, len)) = self.drivers[0].take_used() {
            let at = self.drivers[0].config.descriptors.0 + 16 * u64::from(id);
            let mut gpa = [0; 8];
            self.memory.read(Gpa(at), &mut gpa).unwrap();
            let mut bytes = vec![0; len as usize];
            let gpa = Gpa(u64::from_le_bytes(gpa));
            self.memory.read(gpa, &mut bytes).unwrap();
            if left == 0 {
                let (header, frame) = bytes.split_first_chunk::<12>().unwrap();
                left = u16::from_le_bytes([header[10], header[11]]);
                all.push((Header::from_bytes(*header), frame.to_vec()));
            } else {
                all.last_mut().unwrap().1.extend(bytes);
            }
            left -= 1;
        }
        all
    }
}

/// A TCP packet over IPv4 with `len` bytes of data, and its header.
fn large(len: usize) -> (Header, Vec<u8>) {
    let header = Header {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
    };
    let mut frame = vec![0; 54];
    frame[..6].copy_from_slice(&OWN);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    (frame[23], frame[46]) = (6, 0x50);
    frame.extend((0..len).map(|at| at.to_le_bytes()[0]));
    (header, frame)
}

fn plain(len: usize) -> Vec<u8> {
    let mut frame = vec![0x5A; len];
    frame[..6].copy_from_slice(&OWN);
    frame
}

#[test]
fn what_the_hosts_card_does_is_left_to_it() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, SENDS_LARGE, ALL);
    let (header, frame) = large(60_000);
    rig.send(header, &frame);
    rig.turns();
    assert_eq!(rig.sent(), [(header, frame)]);
    assert!(rig.drivers[1].take_used().is_some());
}

/// What a guest or the network can ask for at will costs no memory: none can run out.
#[test]
fn frames_of_a_card_in_use_allocate_nothing() {
    for offered in [ALL, 0] {
        let memory = FakeMemory::new(0x10_0000);
        let mut rig = Rig::new(&memory, SENDS_LARGE, offered);
        let (header, frame) = large(14_600);
        let mut all = || {
            rig.offer(40);
            rig.send(header, &frame);
            if offered == ALL {
                rig.arrive(header, &frame);
            }
            rig.arrive(Header::default(), &plain(60));
            let mut allocated = rig.turns_counting();
            assert!(!rig.sent().is_empty() && !rig.taken().is_empty());
            allocated += rig.turns_counting();
            while rig.drivers[1].take_used().is_some() {}
            allocated
        };
        all();
        assert_eq!(all(), 0);
    }
}

#[test]
fn what_the_hosts_card_does_not_do_is_done_here() {
    for offered in [0, 1 << 15, 1] {
        let memory = FakeMemory::new(0x10_0000);
        let mut rig = Rig::new(&memory, SENDS_LARGE, offered);
        let (header, frame) = large(14_600);
        rig.send(header, &frame);
        rig.turns();
        let sent = rig.sent();
        assert!(sent.iter().all(|(header, _)| *header == Header::default()));
        let data: Vec<u8> = sent
            .iter()
            .flat_map(|(_, piece)| piece[54..].to_vec())
            .collect();
        assert!(sent.len() == 10 && data == frame[54..]);
        assert_eq!(rig.dropped(), 0);
    }
}

/// One large frame is more than the turn's budget, and more than the card has room for: all of it goes out in the end, once.
#[test]
fn pieces_without_room_wait_for_the_card() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, SENDS_LARGE, 0);
    let (header, frame) = large(60_000);
    let mut data = Vec::new();
    for _ in 0..4 {
        rig.send(header, &frame);
        rig.turn();
    }
    for _ in 0..20 {
        let sent = rig.sent();
        data.extend(sent.into_iter().flat_map(|(_, piece)| piece[54..].to_vec()));
        rig.turn();
    }
    // Each was in the same memory, so all four are alike.
    assert!(data == [&frame[54..]; 4].concat());
    let mut back = core::iter::from_fn(|| rig.drivers[1].take_used());
    assert_eq!(back.by_ref().count(), 4);
}

#[test]
fn a_guests_packet_of_impossible_pieces_is_dropped_and_the_next_one_sent() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, SENDS_LARGE, 0);
    let (header, frame) = large(14_600);
    rig.send(
        Header {
            gso_size: 9000,
            ..header
        },
        &frame,
    );
    rig.turns();
    rig.send(Header::default(), &plain(2000));
    rig.turns();
    rig.send(Header::default(), &plain(60));
    rig.turns();
    assert_eq!(rig.sent(), [(Header::default(), plain(60))]);
    assert_eq!(rig.dropped(), 2);
}

#[test]
fn what_the_guest_takes_undone_stays_so() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, TAKES_LARGE, ALL);
    rig.offer(60);
    let (header, frame) = large(60_000);
    rig.arrive(header, &frame);
    rig.arrive(Header::default(), &plain(60));
    rig.turns();
    let taken = rig.taken();
    assert!(taken == [(header, frame), (Header::default(), plain(60))]);
}

#[test]
fn what_the_guest_does_not_take_is_done_here() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, Features::empty(), ALL);
    let (header, frame) = large(14_600);
    rig.arrive(header, &frame);
    // The guest has room for some of the pieces only, at first.
    rig.offer(4);
    rig.turns();
    let mut taken = rig.taken();
    assert_eq!(taken.len(), 4);
    rig.offer(40);
    rig.turns();
    taken.extend(rig.taken());
    assert!(taken.iter().all(|(header, _)| *header == Header::default()));
    let data: Vec<u8> = taken
        .iter()
        .flat_map(|(_, piece)| piece[54..].to_vec())
        .collect();
    assert!(taken.len() == 10 && data == frame[54..]);
}

/// Nothing of it reaches the guest, and what comes behind does.
#[test]
fn a_header_of_the_hosts_that_is_no_true_one_costs_the_frame() {
    let (header, frame) = large(3000);
    let wrong = [
        Header {
            gso_type: 3,
            ..header
        },
        Header {
            gso_type: 4,
            ..header
        },
        Header {
            gso_size: 0,
            ..header
        },
        Header {
            csum_start: 5000,
            ..header
        },
        Header {
            csum_start: 0,
            ..header
        },
        Header {
            csum_offset: 0xFFFF,
            ..header
        },
        Header { flags: 0, ..header },
    ];
    for chosen in [Features::empty(), TAKES_LARGE] {
        let memory = FakeMemory::new(0x10_0000);
        let mut rig = Rig::new(&memory, chosen, ALL);
        rig.offer(20);
        for header in wrong {
            rig.arrive(header, &frame);
        }
        rig.arrive(Header::default(), &plain(60));
        rig.turns();
        assert_eq!(rig.taken(), [(Header::default(), plain(60))]);
        assert_eq!(rig.dropped(), wrong.len() as u64);
    }
}

#[test]
fn a_card_that_is_offline_is_an_unplugged_cable() {
    let memory = FakeMemory::new(0x10_0000);
    let mut rig = Rig::new(&memory, Features::empty(), 0);
    rig.host.finish(0, 999, 12);
    rig.turn();
    let mut status = [9; 2];
    rig.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    rig.send(Header::default(), &plain(60));
    rig.turns();
    assert!(rig.drivers[1].take_used().is_some(), "what is sent is lost");
}
