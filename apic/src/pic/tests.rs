//! What the pair of 8259A does.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use stockade_bus::fake::FakeIrqLine;
use stockade_bus::{AccessError, Level, PortIo};

use super::{Pic, Ports, SavedPic};

type Pair<'a> = Pic<&'a FakeIrqLine>;

fn out(pic: &mut Pair<'_>, port: u16, value: u8) {
    let (ports, offset) = door(port);
    pic.ports(ports).port_write(offset, &[value]).unwrap();
}

fn input(pic: &mut Pair<'_>, port: u16) -> u8 {
    let (ports, offset) = door(port);
    let mut byte = [0xA5];
    pic.ports(ports).port_read(offset, &mut byte).unwrap();
    byte[0]
}

fn door(port: u16) -> (Ports, u16) {
    match port & !1 {
        0x20 => (Ports::Primary, port & 1),
        0xA0 => (Ports::Secondary, port & 1),
        _ => (Ports::EdgeLevel, port & 1),
    }
}

/// Initialises as Linux does, vectors from 0x30 and 0x38, nothing masked.
fn initialised(wire: &FakeIrqLine) -> Pair<'_> {
    with_icw4(wire, 0x01, 0x01)
}

fn with_icw4(wire: &FakeIrqLine, primary: u8, secondary: u8) -> Pair<'_> {
    let mut pic = Pic::new(wire);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 0x04),
        (0x21, primary),
        (0xA0, 0x11),
        (0xA1, 0x38),
        (0xA1, 0x02),
        (0xA1, secondary),
    ] {
        out(&mut pic, port, value);
    }
    pic
}

fn raise(pic: &mut Pair<'_>, irq: u8) {
    pic.set_irq(irq, Level::High);
}

fn lower(pic: &mut Pair<'_>, irq: u8) {
    pic.set_irq(irq, Level::Low);
}

#[test]
fn all_irqs_give_their_vectors() {
    for irq in (0..16).filter(|irq| *irq != 2) {
        let wire = FakeIrqLine::default();
        let mut pic = initialised(&wire);
        raise(&mut pic, irq);
        assert_eq!(wire.level(), Level::High);
        assert_eq!(pic.peek(), Some(0x30 + irq));
        assert_eq!(pic.acknowledge(), 0x30 + irq);
        assert_eq!((wire.level(), pic.peek()), (Level::Low, None));
    }
}

#[test]
fn nothing_is_asked_for_before_initialisation_but_masks_stick() {
    let wire = FakeIrqLine::default();
    let mut pic = Pic::new(&wire);
    raise(&mut pic, 0);
    assert_eq!(pic.output(), Level::Low);
    out(&mut pic, 0x21, 0xFB);
    assert_eq!(input(&mut pic, 0x21), 0xFB);
}

#[test]
fn initialisation_clears_masks_edges_and_service() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 3);
    pic.acknowledge();
    raise(&mut pic, 4);
    out(&mut pic, 0x21, 0xFF);
    for (port, value) in [(0x20, 0x11), (0x21, 0x40), (0x21, 0x04), (0x21, 0x01)] {
        out(&mut pic, port, value);
    }
    assert_eq!(input(&mut pic, 0x21), 0);
    assert_eq!(pic.peek(), None, "the edge came before");
    lower(&mut pic, 4);
    raise(&mut pic, 4);
    assert_eq!(pic.peek(), Some(0x44));
}

#[test]
fn sequence_without_icw4_ends_after_icw3() {
    let wire = FakeIrqLine::default();
    let mut pic = Pic::new(&wire);
    for (port, value) in [(0x20, 0x10), (0x21, 0x40), (0x21, 0x04), (0x21, 0xFE)] {
        out(&mut pic, port, value);
    }
    assert_eq!(input(&mut pic, 0x21), 0xFE);
}

#[test]
fn lower_irq_waits_for_the_end_of_a_higher_one() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 1);
    raise(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x31);
    assert_eq!(pic.peek(), None);
    raise(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x30);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.peek(), None, "1 is still in service");
    out(&mut pic, 0x20, 0x61);
    assert_eq!(pic.peek(), Some(0x36));
}

#[test]
fn masked_irq_waits_for_its_mask() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0xA1, 0x01);
    raise(&mut pic, 8);
    assert_eq!(pic.peek(), None);
    out(&mut pic, 0xA1, 0x00);
    assert_eq!(pic.peek(), Some(0x38));
}

#[test]
fn edge_that_fell_before_the_acknowledge_is_spurious() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 3);
    lower(&mut pic, 3);
    assert_eq!(wire.level(), Level::Low);
    assert_eq!(pic.acknowledge(), 0x37);
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0, "nothing is in service");
}

#[test]
fn secondary_edge_that_fell_before_the_acknowledge_takes_the_cascade_with_it() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 10);
    lower(&mut pic, 10);
    assert_eq!(pic.acknowledge(), 0x37);
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0, "nothing is in service");
}

#[test]
fn edge_irq_asks_once_and_level_irq_while_high() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0x4D1, 0x02);
    raise(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x39);
    out(&mut pic, 0xA0, 0x20);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.peek(), Some(0x39), "level");
    lower(&mut pic, 9);
    assert_eq!(pic.peek(), None);
    raise(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.peek(), None, "edge");
}

#[test]
fn edge_level_registers_keep_the_fixed_irqs_on_edge() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0x4D0, 0xFF);
    out(&mut pic, 0x4D1, 0xFF);
    assert_eq!(
        (input(&mut pic, 0x4D0), input(&mut pic, 0x4D1)),
        (0xF8, 0xDE)
    );
}

#[test]
fn secondary_with_two_requests_asks_again_after_each_end() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 12);
    raise(&mut pic, 14);
    assert_eq!(pic.acknowledge(), 0x3C);
    out(&mut pic, 0xA0, 0x20);
    assert_eq!(pic.peek(), None, "the cascade is in service");
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x3E);
}

#[test]
fn fully_nested_primary_lets_higher_secondary_requests_through_and_nothing_lower() {
    for (icw4, expected) in [(0x01, None), (0x11, Some(0x38))] {
        let wire = FakeIrqLine::default();
        let mut pic = with_icw4(&wire, icw4, 0x01);
        raise(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x3C);
        raise(&mut pic, 3);
        assert_eq!(pic.peek(), None);
        raise(&mut pic, 8);
        assert_eq!(pic.peek(), expected);
    }
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let wire = FakeIrqLine::default();
    let mut pic = with_icw4(&wire, 0x03, 0x03);
    raise(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x34);
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0);
}

#[test]
fn rotation_makes_the_ended_irq_the_lowest() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 1);
    pic.acknowledge();
    out(&mut pic, 0x20, 0xA0);
    lower(&mut pic, 1);
    raise(&mut pic, 0);
    raise(&mut pic, 1);
    raise(&mut pic, 4);
    for vector in [0x34, 0x30, 0x31] {
        assert_eq!(pic.acknowledge(), vector);
        out(&mut pic, 0x20, 0x20);
    }
}

#[test]
fn rotation_on_auto_eoi_takes_turns() {
    let wire = FakeIrqLine::default();
    let mut pic = with_icw4(&wire, 0x03, 0x01);
    out(&mut pic, 0x20, 0x80);
    raise(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x33);
    lower(&mut pic, 3);
    raise(&mut pic, 3);
    raise(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35);
    assert_eq!(pic.acknowledge(), 0x33);
}

#[test]
fn set_priority_and_specific_rotation_choose_the_lowest() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0x20, 0xC4);
    raise(&mut pic, 0);
    raise(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35);
    out(&mut pic, 0x20, 0xE5);
    lower(&mut pic, 5);
    raise(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn special_mask_lets_lower_irqs_through_a_masked_one_in_service() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 1);
    pic.acknowledge();
    raise(&mut pic, 6);
    out(&mut pic, 0x21, 0x02);
    assert_eq!(pic.peek(), None);
    out(&mut pic, 0x20, 0x68);
    assert_eq!(pic.peek(), Some(0x36));
    out(&mut pic, 0x20, 0x20);
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0x02, "a masked one is not ended");
    out(&mut pic, 0x20, 0x48);
    assert_eq!(pic.peek(), None);
}

#[test]
fn poll_acknowledges_by_a_read() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0x20, 0x0C);
    assert_eq!(input(&mut pic, 0x20), 0);
    raise(&mut pic, 5);
    out(&mut pic, 0x20, 0x0C);
    assert_eq!(input(&mut pic, 0x20), 0x85);
    assert_eq!(input(&mut pic, 0x20), 0, "IRR");
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0x20, "ISR");
    out(&mut pic, 0x20, 0x0A);
    raise(&mut pic, 6);
    assert_eq!(input(&mut pic, 0x20), 0x40, "IRR");
}

#[test]
fn taken_vector_is_the_one_offered_though_a_higher_came() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 12);
    let offered = pic.peek().unwrap();
    raise(&mut pic, 0);
    pic.take(offered);
    out(&mut pic, 0xA0, 0x0B);
    assert_eq!(input(&mut pic, 0xA0), 0x10);
    assert_eq!(pic.peek(), Some(0x30));
}

#[test]
fn taken_vector_whose_request_has_gone_is_in_service_all_the_same() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    raise(&mut pic, 4);
    lower(&mut pic, 4);
    pic.take(0x34);
    out(&mut pic, 0x20, 0x0B);
    assert_eq!(input(&mut pic, 0x20), 0x10);
    pic.take(0x99);
    assert_eq!(input(&mut pic, 0x20), 0x10);
}

#[test]
fn word_access_is_two_byte_accesses_and_wider_ones_are_refused() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    pic.ports(Ports::EdgeLevel)
        .port_write(0, &[0xF8, 0xDE])
        .unwrap();
    assert_eq!(input(&mut pic, 0x4D1), 0xDE);
    let mut primary = pic.ports(Ports::Primary);
    assert_eq!(primary.port_write(1, &[0; 2]), Err(AccessError::Width));
    assert_eq!(primary.port_read(0, &mut [0; 4]), Err(AccessError::Width));
    assert_eq!(primary.port_read(2, &mut [0]), Err(AccessError::NoRegister));
}

#[test]
fn reset_keeps_the_wires_and_forgets_the_rest() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    out(&mut pic, 0x4D0, 0xF8);
    raise(&mut pic, 5);
    pic.reset();
    assert_eq!((wire.level(), input(&mut pic, 0x4D0)), (Level::Low, 0));
}

#[test]
fn impossible_states_are_refused() {
    let wire = FakeIrqLine::default();
    let mut pic = initialised(&wire);
    let good = pic.save();
    for (byte, value) in [
        (0, 0x85),
        (0, 5),
        (1, 0xFF),
        (3, 1),
        (5, 1),
        (8, 1),
        (9, 1),
        (11, 1),
    ] {
        let mut bad = good;
        bad.chips[0][byte] = value;
        assert!(pic.restore(&bad).is_err(), "{byte}");
        assert_eq!(pic.save(), good);
    }
    assert!(pic.restore(&SavedPic { version: 0, ..good }).is_err());
}

proptest! {
    /// No traffic panics, the wire always shows the output, an acknowledge gives what was offered, and a restored pair goes on like the saved
    /// one.
    #[test]
    fn any_traffic_keeps_the_invariants(
        steps in proptest::collection::vec((0u8..9, any::<u8>()), 0..300),
        split in 0usize..300,
    ) {
        const PORTS: [u16; 6] = [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1];
        let (wire, wire_too) = (FakeIrqLine::default(), FakeIrqLine::default());
        let (mut pic, mut twin) = (initialised(&wire), initialised(&wire_too));
        for (number, &(kind, value)) in steps.iter().enumerate() {
            if number == split {
                twin.restore(&pic.save()).unwrap();
                prop_assert_eq!(wire.level(), wire_too.level());
            }
            let both = if number < split { 1 } else { 2 };
            for pic in [&mut pic, &mut twin].into_iter().take(both) {
                match kind {
                    0..4 => pic.set_irq(value & 15, Level::from(value & 16 != 0)),
                    4 => {
                        let offered = pic.peek();
                        let given = pic.acknowledge();
                        prop_assert!(offered.is_none_or(|vector| vector == given));
                    }
                    5 => {
 input(pic, PORTS[usize::from(value) % 6]);
}
                    6 => out(pic, 0x20 | u16::from(value & 0x80), value & 0x6F | 0x20),
                    7 => pic.take(value),
                    _ => out(pic, PORTS[usize::from(value) % 6], value.rotate_left(3)),
                }
            }
            prop_assert_eq!(wire.level(), pic.output());
            if number >= split {
                prop_assert_eq!(pic.save(), twin.save());
                prop_assert_eq!(wire.level(), wire_too.level());
            }
        }
    }
}
