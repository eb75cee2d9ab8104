use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};

use super::config::features::*;
use super::*;

pub(super) mod tcp;
use crate::virtio::driver::Driver;
use crate::virtio::queue::Segment;

const RAM: usize = 0x8_0000;
const SEND: u64 = 0x1_0000;
const TAKE: u64 = 0x4_0000;
const COMMAND: u64 = 0x8000;
const ACK: u64 = 0x9000;
const OWN: Address = Address([2, 0, 0, 0, 0, 1]);
const PACKED: Features = Features::RING_PACKED.union(Features::EVENT_IDX);
const GUEST_OFFLOADS: Features = GUEST_CSUM.union(GUEST_TSO4);

fn options() -> NetOptions {
    NetOptions {
        address: OWN,
        mtu: Some(1500),
        offloads: RECEIVE_OFFLOADS | TRANSMIT_OFFLOADS,
    }
}

fn segment(gpa: u64, len: u32) -> Segment {
    Segment { gpa: Gpa(gpa), len }
}

/// A card whose driver is ready.
struct Rig<'m> {
    memory: &'m FakeMemory,
    drivers: [Driver<'m>; 3],
    net: Net,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m FakeMemory, chosen: Features) -> Self {
        let chosen = chosen | Features::VERSION_1;
        let drivers = [0x1000, 0x3000, 0x5000].map(|at| Driver::new(memory, at, 64, chosen));
        let mut net = Net::new(options());
        net.negotiate(chosen).unwrap();
        let configs = drivers.each_ref().map(|driver| Some(driver.config));
        net.activate(&configs, memory);
        assert!(!net.needs_reset());
        Self {
            memory,
            drivers,
            net,
        }
    }

    /// The guest sends a frame, its header in a buffer of its own.
    fn send(&mut self, header: Header, frame: &[u8]) {
        let bytes = [&header.to_bytes(0)[..], frame].concat();
        self.memory.write(Gpa(SEND), &bytes).unwrap();
        let len = u32::try_from(frame.len()).unwrap();
        let parts = [segment(SEND, 12), segment(SEND + 12, len)];
        let parts = if len == 0 { &parts[..1] } else { &parts };
        self.drivers[TRANSMIT].add(parts, &[], None).unwrap();
    }

    fn take(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut frame = vec![0; 0x1_0000];
        match self.net.take_frame(self.memory, &mut frame) {
            Taken::Frame { header, len } => Some((header, frame[..len].to_vec())),
            _ => None,
        }
    }

    fn offer(&mut self, len: u32, count: usize) {
        for _ in 0..count {
            let driver = &mut self.drivers[RECEIVE];
            let at = TAKE + u64::from(len) * driver.chains.len() as u64;
            driver.add(&[], &[segment(at, len)], None).unwrap();
        }
    }

    fn give(&mut self, frame: &[u8]) -> Given {
        self.net.give_frame(self.memory, Header::default(), frame)
    }

    /// Sends a command and returns its acknowledgement.
    fn command(&mut self, bytes: &[u8]) -> u8 {
        self.memory.write(Gpa(COMMAND), bytes).unwrap();
        self.memory.write(Gpa(ACK), &[0x77]).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let driver = &mut self.drivers[CONTROL];
        driver
            .add(&[segment(COMMAND, len)], &[segment(ACK, 1)], None)
            .unwrap();
        assert_eq!(self.net.notify(2, self.memory), Work::Done);
        assert!(driver.take_used().is_some());
        let mut ack = [0];
        self.memory.read(Gpa(ACK), &mut ack).unwrap();
        ack[0]
    }
}

fn frame_to(target: Address, len: usize) -> Vec<u8> {
    let body = (0..len).map(|place| u8::try_from(place % 251).unwrap());
    target.0.into_iter().chain(body.skip(6)).collect()
}

#[test]
fn a_frame_the_guest_sends_is_taken_as_it_is() {
    for chosen in [Features::empty(), PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, chosen);
        rig.drivers[TRANSMIT].ask_for_next();
        let frame = frame_to(Address([9; 6]), 60);
        rig.send(Header::default(), &frame);
        let header = Header::default();
        assert_eq!(rig.take(), Some((header, frame)));
        assert_eq!(rig.take(), None);
        assert_eq!(rig.net.take_interrupts(&memory).queues, 0b010);
        assert_eq!(rig.drivers[TRANSMIT].take_used().map(|(_, n)| n), Some(0));
    }
}

/// Who polls is not notified; who asks once may have missed what came before.
#[test]
fn the_driver_notifies_of_frames_when_it_is_asked_to() {
    for chosen in [Features::empty(), PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, chosen);
        let kick = |rig: &mut Rig<'_>| {
            rig.send(Header::default(), &frame_to(OWN, 60));
            rig.drivers[TRANSMIT].should_kick()
        };
        assert!(kick(&mut rig));
        assert!(rig.take().is_some() && rig.take().is_none());
        assert!(!kick(&mut rig));
        assert_eq!(rig.net.listen(&memory), Listening::FromNow);
        assert!(rig.take().is_some() && rig.take().is_none());
        assert!(!kick(&mut rig));
        assert!(rig.take().is_some() && rig.take().is_none());
        assert_eq!(rig.net.listen(&memory), Listening::FromNow);
        assert_eq!(rig.net.listen(&memory), Listening::Already);
        assert!(kick(&mut rig));
    }
}

#[test]
fn frames_too_short_or_too_long_are_dropped() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, Features::empty());
    rig.send(Header::default(), &[0; 13]);
    rig.send(Header::default(), &[]);
    rig.send(Header::default(), &[0; 200]);
    let mut small = [0; 100];
    assert_eq!(rig.net.take_frame(&memory, &mut small), Taken::Nothing);
    assert_eq!(rig.net.dropped(), 3);
    assert!(!rig.net.needs_reset());
    assert!(rig.drivers[TRANSMIT].take_used().is_some());
}

#[test]
fn a_frame_without_header_breaks_the_rules() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, Features::empty());
    rig.drivers[TRANSMIT]
        .add(&[segment(SEND, 11)], &[], None)
        .unwrap();
    assert_eq!(rig.take(), None);
    assert_eq!(rig.net.violation(), Some(Violation::ShortRequest));
    assert_eq!(rig.give(&frame_to(OWN, 60)), Given::Dropped);
}

/// Restored, it has to tell of all that may have been sent; broken before it could, of nothing.
#[test]
fn a_card_that_broke_interrupts_for_no_queue() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, Features::empty());
    let state = rig.net.save();
    rig.net.restore(&state, &memory).unwrap();
    rig.drivers[TRANSMIT]
        .add(&[segment(SEND, 11)], &[], None)
        .unwrap();
    assert_eq!(rig.take(), None);
    assert!(rig.net.needs_reset());
    assert_eq!(rig.net.take_interrupts(&memory).queues, 0);
    rig.net.restore(&state, &memory).unwrap();
    assert_eq!(rig.net.take_interrupts(&memory).queues, 1 << TRANSMIT);
}

const CHECKSUM: Header = Header {
    flags: 1,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 34,
    csum_offset: 16,
};
const LARGE: Header = Header {
    gso_type: 1,
    gso_size: 1448,
    hdr_len: 54,
    ..CHECKSUM
};

#[test]
fn what_was_agreed_on_is_passed_through() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, CSUM | HOST_TSO4 | GUEST_OFFLOADS | MRG_RXBUF);
    for header in [CHECKSUM, LARGE] {
        let (_, frame) = tcp::V4.large(3946, 1448);
        rig.send(header, &frame);
        assert_eq!(rig.take(), Some((header, frame.clone())));
        rig.offer(0x1000, 1);
        let given = rig.net.give_frame(&memory, header, &frame);
        assert_eq!(given, Given::Delivered);
        let (_, len) = rig.drivers[RECEIVE].take_used().unwrap();
        let mut bytes = vec![0; 4012];
        assert_eq!(len, 4012);
        memory.read(Gpa(TAKE), &mut bytes).unwrap();
        assert_eq!(bytes[..12], header.to_bytes(1));
        assert_eq!(bytes[12..], frame);
    }
}

#[test]
fn what_was_not_agreed_on_costs_the_frame() {
    let wrong = [
        Header {
            csum_offset: 25,
            ..CHECKSUM
        },
        Header {
            csum_start: 0xFFFF,
            csum_offset: 0xFFFF,
            ..CHECKSUM
        },
        Header { flags: 0, ..LARGE },
        Header {
            gso_size: 0,
            ..LARGE
        },
        Header {
            gso_type: 4,
            ..LARGE
        },
        Header {
            gso_type: 0x81,
            ..LARGE
        },
        Header {
            gso_type: 3,
            ..LARGE
        },
    ];
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, CSUM | HOST_TSO4 | GUEST_OFFLOADS);
    let (_, frame) = tcp::V4.large(6, 1448);
    for (count, header) in (1..).zip(wrong) {
        rig.send(header, &frame);
        assert_eq!(rig.take(), None, "{header:?}");
        rig.offer(0x1000, 1);
        let given = rig.net.give_frame(&memory, header, &frame);
        assert_eq!(given, Given::Dropped, "{header:?}");
        assert_eq!(rig.net.dropped(), 2 * count);
    }
    let mut plain = Rig::new(&memory, Features::empty());
    plain.send(CHECKSUM, &frame);
    assert_eq!(plain.take(), None);
}

#[test]
fn bits_without_meaning_do_not_pass() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, Features::empty());
    let odd = Header {
        flags: 0xFE,
        hdr_len: 0xFFFF,
        csum_start: 7,
        csum_offset: 7,
        gso_size: 7,
        gso_type: 0,
    };
    rig.send(odd, &frame_to(OWN, 60));
    let (header, _) = rig.take().unwrap();
    assert_eq!(header, Header::default());
}

#[test]
fn a_frame_lies_in_as_many_buffers_as_it_needs() {
    for chosen in [MRG_RXBUF, MRG_RXBUF | PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, chosen);
        rig.drivers[RECEIVE].ask_for_next();
        rig.offer(0x100, 6);
        let frame = frame_to(OWN, 1000);
        assert_eq!(rig.give(&frame), Given::Delivered);
        let used: Vec<u32> = core::iter::from_fn(|| rig.drivers[RECEIVE].take_used())
            .map(|(_, len)| len)
            .collect();
        assert_eq!(used, [256, 256, 256, 244]);
        let mut bytes = vec![0; 1012];
        memory.read(Gpa(TAKE), &mut bytes).unwrap();
        assert_eq!(
            bytes[..12],
            Header {
                hdr_len: 0,
                ..Header::default()
            }
            .to_bytes(4)
        );
        assert_eq!(bytes[12..], frame);
        assert_eq!(rig.net.take_interrupts(&memory).queues, 1);
    }
}

#[test]
fn frames_from_outside_have_a_least_and_a_largest_length() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, MTU | GUEST_OFFLOADS);
    rig.offer(0x1000, 8);
    assert_eq!(rig.give(&frame_to(OWN, 13)), Given::Dropped);
    assert_eq!(rig.give(&frame_to(OWN, 14)), Given::Delivered);
    assert_eq!(rig.give(&frame_to(OWN, 1514)), Given::Delivered);
    assert_eq!(rig.give(&frame_to(OWN, 1515)), Given::Dropped);
    let mut tagged = frame_to(OWN, 1518);
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(rig.give(&tagged), Given::Delivered);
    let (_, frame) = tcp::V4.large(2946, 1448);
    let large = rig.net.give_frame(&memory, LARGE, &frame);
    assert_eq!(large, Given::Delivered);
    assert_eq!(rig.net.dropped(), 2);
}

/// A driver that takes part of a frame for a whole one would read what is not there.
#[test]
fn a_frame_without_room_changes_nothing_and_comes_later() {
    for chosen in [MRG_RXBUF, MRG_RXBUF | PACKED] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, chosen);
        rig.offer(0x100, 3);
        let frame = frame_to(OWN, 1000);
        assert_eq!(rig.give(&frame), Given::NoRoom);
        assert_eq!(rig.drivers[RECEIVE].take_used(), None);
        rig.drivers[RECEIVE].should_kick();
        rig.offer(0x100, 1);
        assert!(
            rig.drivers[RECEIVE].should_kick(),
            "the card waits for more"
        );
        assert_eq!(rig.give(&frame), Given::Delivered);
        assert_eq!(rig.give(&frame), Given::NoRoom);
    }
}

#[test]
fn without_merged_buffers_a_frame_fits_one_or_is_dropped() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, Features::empty());
    rig.offer(0x100, 2);
    assert_eq!(rig.give(&frame_to(OWN, 300)), Given::Dropped);
    assert_eq!(rig.give(&frame_to(OWN, 244)), Given::Delivered);
    assert_eq!(rig.drivers[RECEIVE].take_used().map(|(_, n)| n), Some(256));
    assert_eq!(rig.net.dropped(), 1);
}

#[test]
fn receive_buffers_without_room_for_a_header_break_the_rules() {
    for (readable, writable) in [(0, 11), (11, 0)] {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, MRG_RXBUF);
        let some = |len: u32| vec![segment(TAKE, len); usize::from(len > 0)];
        rig.drivers[RECEIVE]
            .add(&some(readable), &some(writable), None)
            .unwrap();
        assert_eq!(rig.give(&frame_to(OWN, 60)), Given::Dropped);
        assert_eq!(rig.net.violation(), Some(Violation::ShortRequest));
    }
}

const FILTERS: Features = CTRL_VQ
    .union(CTRL_RX)
    .union(CTRL_RX_EXTRA)
    .union(CTRL_MAC_ADDR);

#[test]
fn the_driver_gets_the_frames_it_wants() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, FILTERS);
    let (other, group) = (Address([2, 0, 0, 0, 0, 9]), Address([1, 0, 0x5E, 0, 0, 1]));
    let targets = [OWN, other, group, Address::BROADCAST];
    let wanted = |rig: &mut Rig<'_>| {
        targets.map(|target| {
            rig.offer(0x100, 1);
            let given = rig.give(&frame_to(target, 60));
            rig.drivers[RECEIVE].take_used();
            given == Given::Delivered
        })
    };
    assert_eq!(wanted(&mut rig), [true; 4]);
    let mut expect = |command: &[u8], expected: [bool; 4]| {
        assert_eq!(rig.command(command), 0, "{command:?}");
        assert_eq!(wanted(&mut rig), expected, "{command:?}");
    };
    expect(&[0, 0, 0], [true, false, false, true]);
    expect(&[0, 1, 1], [true, false, true, true]);
    expect(&[0, 3, 1], [true, false, false, true]);
    expect(&[0, 3, 0], [true, false, true, true]);
    expect(&[0, 1, 0], [true, false, false, true]);
    expect(&[0, 2, 1], [true, true, false, true]);
    expect(&[0, 4, 1], [false, false, false, true]);
    expect(&[0, 4, 0], [true, true, false, true]);
    expect(&[0, 2, 0], [true, false, false, true]);
    expect(&[0, 5, 1], [true, false, false, false]);
    let mut tables = vec![1, 0, 1, 0, 0, 0];
    tables.extend(other.0);
    tables.extend([1, 0, 0, 0]);
    tables.extend(group.0);
    expect(&tables, [true, true, true, false]);
    expect(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [true, false, false, false]);
    let mut many = vec![1, 0, 65, 0, 0, 0];
    many.extend([2; 65 * 6]);
    many.extend([0, 0, 0, 0]);
    expect(&many, [true, true, false, false]);
    let mut address = vec![1, 1];
    address.extend(other.0);
    expect(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [true, false, false, false]);
    expect(&address, [false, true, false, false]);
}

#[test]
fn commands_that_cannot_be_are_errors_and_change_nothing() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, FILTERS);
    let before = rig.net.save();
    for wrong in [
        &[0, 0][..],
        &[0, 0, 2],
        &[0, 6, 1],
        &[9, 9, 9],
        &[1, 0, 1, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        &[1, 1, 1, 2, 3, 4, 5, 6],
        &[1, 1, 2, 3, 4],
        // Not agreed on.
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(rig.command(wrong), 1, "{wrong:?}");
    }
    let after = rig.net.save();
    assert_eq!(
        (after.filter, after.address),
        (before.filter, before.address)
    );
    assert!(!rig.net.needs_reset());
}

#[test]
fn the_driver_switches_what_it_takes_undone() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, CTRL_VQ | CTRL_GUEST_OFFLOADS | GUEST_OFFLOADS);
    rig.offer(0x1000, 2);
    let frame = frame_to(OWN, 60);
    let given = |rig: &mut Rig<'_>| rig.net.give_frame(&memory, CHECKSUM, &frame);
    assert_eq!(given(&mut rig), Given::Delivered);
    assert_eq!(rig.command(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(given(&mut rig), Given::Dropped);
    assert_eq!(rig.command(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]), 1);
    assert_eq!(rig.command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(given(&mut rig), Given::Delivered);
}

#[test]
fn features_without_what_they_need_are_refused() {
    let mut net = Net::new(options());
    for (feature, _) in NEEDS {
        let chosen = Features::VERSION_1 | feature;
        assert_eq!(net.negotiate(chosen), Err(FeaturesRefused(chosen)));
    }
    assert_eq!(net.negotiate(net.device_features()), Ok(()));
    let bare = Net::new(NetOptions {
        offloads: Features::empty(),
        ..options()
    });
    let offered = bare.device_features();
    assert!(!offered.intersects(RECEIVE_OFFLOADS | TRANSMIT_OFFLOADS | CTRL_GUEST_OFFLOADS));
}

#[test]
fn the_configuration_says_what_the_card_is_like() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, STATUS | MAC);
    let mut config = [0; 14];
    rig.net.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xDC, 5, 0, 0]);
    rig.net.set_connected(false);
    assert!(rig.net.take_interrupts(&memory).config);
    rig.net.read_config(6, &mut config[..2]);
    assert_eq!(config[..2], [0, 0]);
}

#[test]
fn a_restored_card_goes_on() {
    let memory = FakeMemory::new(RAM);
    let mut rig = Rig::new(&memory, FILTERS | MRG_RXBUF);
    assert_eq!(rig.command(&[0, 0, 0]), 0);
    rig.offer(0x100, 8);
    assert_eq!(rig.give(&frame_to(OWN, 300)), Given::Delivered);
    let state = rig.net.save();
    rig.net = Net::new(options());
    rig.net.restore(&state, &memory).unwrap();
    assert_eq!(rig.net.save(), state);
    assert_eq!(rig.give(&frame_to(Address([2; 6]), 60)), Given::Dropped);
    assert_eq!(rig.give(&frame_to(OWN, 60)), Given::Delivered);
    let used = core::iter::from_fn(|| rig.drivers[RECEIVE].take_used()).count();
    assert_eq!(used, 3);
    let mut refuse = |change: &dyn Fn(&mut NetState)| {
        let mut state = state.clone();
        change(&mut state);
        assert!(rig.net.restore(&state, &memory).is_err());
    };
    refuse(&|state| state.version = 0);
    refuse(&|state| state.offloads = GUEST_CSUM);
    refuse(&|state| state.filter.singles.len = 65);
    refuse(&|state| state.link.features |= Features::bit(60));
}

proptest! {
    /// A frame arrives whole whatever the buffers are, or not at all.
    #[test]
    fn frames_arrive_whole_or_not_at_all(
        is_packed: bool,
        is_merged: bool,
        buffers in prop::collection::vec(prop::collection::vec(1..400_u32, 1..4), 1..20),
        lens in prop::collection::vec(14..2000_usize, 1..8),
    ) {
        let memory = FakeMemory::new(RAM);
        let mut chosen = if is_merged { MRG_RXBUF } else { Features::empty() };
        chosen.set(PACKED, is_packed);
        let mut rig = Rig::new(&memory, chosen);
        let mut at = TAKE;
        let mut places = std::collections::BTreeMap::new();
        for lens in &buffers {
            // A header must fit the first buffer of a frame.
            let parts: Vec<Segment> = lens
                .iter()
                .map(|len| {
                    let len = len + 12;
                    at += u64::from(len);
                    segment(at - u64::from(len), len)
                })
                .collect();
            if let Some(id) = rig.drivers[RECEIVE].add(&[], &parts, None) {
                places.insert(id, parts);
            }
        }
        for len in lens {
            let frame = frame_to(OWN, len);
            let outcome = rig.give(&frame);
            let used: Vec<_> =
                core::iter::from_fn(|| rig.drivers[RECEIVE].take_used()).collect();
            if outcome != Given::Delivered {
                prop_assert!(used.is_empty());
                continue;
            }
            let mut bytes = Vec::new();
            for (id, written) in &used {
                let mut part = vec![0; usize::try_from(*written).unwrap()];
                let read = crate::virtio::queue::gather(&memory, &places[id], 0, &mut part);
                prop_assert_eq!(read, Ok(part.len()));
                bytes.extend(part);
            }
            prop_assert_eq!(u16::from_le_bytes([bytes[10], bytes[11]]), u16::try_from(used.len()).unwrap());
            prop_assert_eq!(&bytes[12..], &frame[..]);
        }
        prop_assert!(!rig.net.needs_reset());
    }

    #[test]
    fn any_command_is_answered(bytes in prop::collection::vec(0..8_u8, 2..64)) {
        let memory = FakeMemory::new(RAM);
        let mut rig = Rig::new(&memory, FILTERS);
        prop_assert!(rig.command(&bytes) <= 1);
        prop_assert!(!rig.net.needs_reset() && !rig.net.save().address.is_group());
    }
}
