//! The IOAPIC pin by pin, and under random traffic.

use core::cell::RefCell;
use std::vec::Vec;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use stockade_bus::{AccessError, Level, Mmio};

use super::{Ending, Endings, IoApic, PINS, SavedIoApic};
use crate::msi::{BROADCAST, DeliveryMode, DestinationMode, Message, MessageSink, Trigger};

#[derive(Default)]
struct Sent(RefCell<Vec<Message>>);

impl MessageSink for Sent {
    fn send(&self, message: Message) {
        self.0.borrow_mut().push(message);
    }
}

impl Sent {
    fn vectors(&self) -> Vec<u8> {
        self.0.take().iter().map(|message| message.vector).collect()
    }
}

fn write(ioapic: &mut IoApic<&Sent>, index: u8, value: u32) {
    ioapic
        .mmio_write(0x00, &u32::from(index).to_le_bytes())
        .unwrap();
    ioapic.mmio_write(0x10, &value.to_le_bytes()).unwrap();
}

fn read(ioapic: &mut IoApic<&Sent>, index: u8) -> u32 {
    let mut bytes = [0; 4];
    ioapic
        .mmio_write(0x00, &u32::from(index).to_le_bytes())
        .unwrap();
    ioapic.mmio_read(0x10, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn rte(pin: u8) -> u8 {
    0x10 + 2 * pin
}

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

#[test]
fn version_says_24_pins_and_an_eoi_register() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
}

#[test]
fn all_pins_are_masked_after_reset() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    for pin in 0..24 {
        assert_eq!(read(&mut ioapic, rte(pin)), MASKED);
        ioapic.set_pin(usize::from(pin), Level::High);
    }
    assert_eq!(sent.vectors(), []);
}

#[test]
fn edge_pin_sends_on_each_rise() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(4), 0x34);
    for level in [Level::High, Level::High, Level::Low, Level::High] {
        ioapic.set_pin(4, level);
    }
    assert_eq!(sent.vectors(), [0x34, 0x34]);
}

#[test]
fn edge_on_a_masked_pin_is_lost() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(4), 0x34 | MASKED);
    ioapic.set_pin(4, Level::High);
    write(&mut ioapic, rte(4), 0x34);
    assert_eq!(sent.vectors(), []);
}

#[test]
fn level_pin_sends_once_until_its_end_and_again_while_high() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    ioapic.set_pin(9, Level::Low);
    ioapic.set_pin(9, Level::High);
    assert_eq!(sent.vectors(), [0x59]);
    ioapic.end_of_interrupt(0x58);
    assert_eq!(sent.vectors(), [], "another vector's end");
    ioapic.end_of_interrupt(0x59);
    assert_eq!(sent.vectors(), [0x59]);
    ioapic.set_pin(9, Level::Low);
    ioapic.end_of_interrupt(0x59);
    assert_eq!(sent.vectors(), []);
}

#[test]
fn level_on_a_masked_pin_waits_for_the_mask_to_go() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(9), 0x59 | LEVEL | MASKED);
    ioapic.set_pin(9, Level::High);
    assert_eq!(sent.vectors(), []);
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    assert_eq!(sent.vectors(), [0x59]);
}

#[test]
fn an_end_that_was_left_behind_clears_remote_irr() {
    let sent = Sent::default();
    let (mut ioapic, endings) = (IoApic::new(&sent), Endings::new());
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    ioapic.set_pin(9, Level::Low);
    ioapic.settle(&endings);
    assert_eq!(endings.post(0x59), Ending::Left);
    assert_eq!(endings.post(0x21), Ending::Left, "whatever comes with it");
    ioapic.take_endings(&endings);
    assert_eq!(read(&mut ioapic, rte(9)) & 1 << 14, 0);
    ioapic.set_pin(9, Level::High);
    assert_eq!(sent.vectors(), [0x59, 0x59]);
    ioapic.take_endings(&endings);
    assert_eq!(sent.vectors(), [], "once is enough");
}

#[test]
fn an_end_that_a_high_pin_waits_for_is_not_left_behind() {
    let sent = Sent::default();
    let (mut ioapic, endings) = (IoApic::new(&sent), Endings::new());
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    ioapic.settle(&endings);
    assert_eq!(sent.vectors(), [0x59]);
    assert_eq!(endings.post(0x59), Ending::AwaitedByPin);
    ioapic.take_endings(&endings);
    ioapic.settle(&endings);
    assert_eq!(sent.vectors(), [0x59]);
    ioapic.set_pin(9, Level::Low);
    ioapic.settle(&endings);
    assert_eq!(endings.post(0x59), Ending::Left);
}

/// The processor looked before the pin rose, and left its vector: the IOAPIC finds it when it says that the pin waits.
#[test]
fn an_end_between_look_and_rise_is_found() {
    let sent = Sent::default();
    let (mut ioapic, endings) = (IoApic::new(&sent), Endings::new());
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    ioapic.set_pin(9, Level::Low);
    ioapic.settle(&endings);
    // Under the lock, with nothing to take yet.
    ioapic.take_endings(&endings);
    assert_eq!(endings.post(0x59), Ending::Left);
    ioapic.set_pin(9, Level::High);
    assert_eq!(
        sent.vectors(),
        [0x59],
        "as far as it knows the first is being served"
    );
    ioapic.settle(&endings);
    assert_eq!(sent.vectors(), [0x59]);
    assert_eq!(
        endings.post(0x59),
        Ending::AwaitedByPin,
        "the second is now"
    );
}

#[test]
fn eoi_register_ends_like_a_broadcast() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    assert_eq!(read(&mut ioapic, rte(9)) & 1 << 14, 1 << 14);
    ioapic.mmio_write(0x40, &0x59u32.to_le_bytes()).unwrap();
    assert_eq!(sent.vectors(), [0x59, 0x59]);
}

#[test]
fn going_to_edge_and_back_clears_remote_irr() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    ioapic.set_pin(9, Level::High);
    ioapic.set_pin(9, Level::Low);
    write(&mut ioapic, rte(9), 0x59 | MASKED);
    write(&mut ioapic, rte(9), 0x59 | LEVEL);
    assert_eq!(read(&mut ioapic, rte(9)) & 1 << 14, 0);
}

#[test]
fn message_carries_destination_and_modes() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(2) + 1, 0x0300_0000);
    write(&mut ioapic, rte(2), 0x0930);
    ioapic.set_pin(2, Level::High);
    write(&mut ioapic, rte(3) + 1, 0xFF00_0000);
    write(&mut ioapic, rte(3), 0x0400 | LEVEL);
    ioapic.set_pin(3, Level::High);
    assert_eq!(
        sent.0.take(),
        [
            Message {
                destination: 3,
                mode: DestinationMode::Logical,
                vector: 0x30,
                trigger: Trigger::Edge,
                delivery: DeliveryMode::LowestPriority,
            },
            Message {
                destination: BROADCAST,
                mode: DestinationMode::Physical,
                vector: 0,
                trigger: Trigger::Edge,
                delivery: DeliveryMode::Nmi,
            },
        ]
    );
}

#[test]
fn read_only_and_reserved_bits_do_not_stick() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    write(&mut ioapic, rte(5), u32::MAX);
    write(&mut ioapic, rte(5) + 1, u32::MAX);
    assert_eq!(read(&mut ioapic, rte(5)), 0x0001_AFFF);
    assert_eq!(read(&mut ioapic, rte(5) + 1), 0xFF00_0000);
    write(&mut ioapic, 0, u32::MAX);
    assert_eq!(read(&mut ioapic, 0), 0x0F00_0000);
}

#[test]
fn window_takes_whole_double_words_only() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    assert_eq!(ioapic.mmio_write(0x10, &[0]), Err(AccessError::Width));
    assert_eq!(ioapic.mmio_write(0x10, &[0; 8]), Err(AccessError::Width));
    assert_eq!(
        ioapic.mmio_write(0x20, &[0; 4]),
        Err(AccessError::NoRegister)
    );
    assert_eq!(ioapic.mmio_read(0x10, &mut [0; 8]), Err(AccessError::Width));
    assert_eq!(
        ioapic.mmio_read(0xFF0, &mut [0; 4]),
        Err(AccessError::NoRegister)
    );
}

#[test]
fn impossible_states_are_refused() {
    let sent = Sent::default();
    let mut ioapic = IoApic::new(&sent);
    let good = ioapic.save();
    let mut redirections = good.redirections;
    redirections[3] |= 1 << 14;
    let bad = [
        SavedIoApic { version: 2, ..good },
        SavedIoApic { index: 256, ..good },
        SavedIoApic { id: 1, ..good },
        SavedIoApic {
            pins: 1 << 24,
            ..good
        },
        SavedIoApic {
            redirections,
            ..good
        },
    ];
    for state in bad {
        assert!(ioapic.restore(&state).is_err(), "{state:?}");
        assert_eq!(ioapic.save(), good);
    }
}

proptest! {
    /// An IOAPIC whose ends are left behind sends what one sends that hears of each, and in the same order.
    #[test]
    fn ends_left_behind_change_nothing(
        steps in proptest::collection::vec((0u8..4, any::<u8>(), any::<u32>()), 0..200),
    ) {
        let (sent, sent_too) = (Sent::default(), Sent::default());
        let (mut told, mut left) = (IoApic::new(&sent), IoApic::new(&sent_too));
        let endings = Endings::new();
        for (kind, place, value) in steps {
            let vector = 0x60 | place & 3;
            let change = |ioapic: &mut IoApic<&Sent>| match kind {
                0 => write(ioapic, rte(place % 8), value & 0x8000 | u32::from(vector)),
                _ => ioapic.set_pin(usize::from(place % 8), Level::from(value & 1 != 0)),
            };
            if kind == 1 {
                told.end_of_interrupt(vector);
                if endings.post(vector) == Ending::AwaitedByPin {
                    left.take_endings(&endings);
                    left.settle(&endings);
                }
            } else {
                change(&mut told);
                left.take_endings(&endings);
                change(&mut left);
                left.settle(&endings);
                prop_assert_eq!(told.save(), left.save());
            }
            prop_assert_eq!(&sent.0, &sent_too.0);
        }
    }

    /// Whatever the guest and the wires do, a level pin at rest that is high and unmasked is being served, and a restored IOAPIC
    /// goes on like the saved one.
    #[test]
    fn level_pins_are_never_forgotten_and_restore_changes_nothing(
        steps in proptest::collection::vec((0u8..4, any::<u8>(), any::<u32>()), 0..200),
        split in 0usize..200,
    ) {
        let (sent, sent_too) = (Sent::default(), Sent::default());
        let mut ioapic = IoApic::new(&sent);
        let mut twin = IoApic::new(&sent_too);
        for (number, &(kind, place, value)) in steps.iter().enumerate() {
            if number == split {
                twin.restore(&ioapic.save()).unwrap();
                sent.0.take();
                prop_assert_eq!(sent_too.0.take(), std::vec![]);
            }
            let both = if number < split { 1 } else { 2 };
            for ioapic in [&mut ioapic, &mut twin].into_iter().take(both) {
                match kind {
                    0 => write(ioapic, place % 0x42, value & 0xFFFE_FFFF),
                    1 => ioapic.set_pin(usize::from(place % 25), Level::from(value & 1 != 0)),
                    2 => ioapic.end_of_interrupt(place),
                    _ => write(ioapic, place, value),
                }
            }
            for (pin, redirection) in ioapic.redirections.iter().enumerate() {
                let is_due = ioapic.pins & 1 << pin != 0
                    && redirection.is_level_triggered()
                    && !redirection.is_masked();
                prop_assert!(!is_due || ioapic.served & 1 << pin != 0);
            }
            if number >= split {
                prop_assert_eq!(ioapic.save(), twin.save());
                prop_assert_eq!(&sent.0, &sent_too.0);
            }
        }
        prop_assert_eq!(ioapic.redirections.len(), PINS);
    }
}
