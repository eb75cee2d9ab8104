use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::Level;

use super::{Endpoint, Identity, Written};
use crate::pci::bars::{Bar, BarKind};
use crate::pci::msix::Vector;

/// An endpoint as nothing but its registers.
pub(in crate::pci) struct Registers(pub(in crate::pci) Endpoint);

pub(in crate::pci) fn identity() -> Identity {
    Identity {
        vendor: 0x1AF4,
        device: 0x1044,
        class: [0, 0, 0xFF],
        revision: 1,
        subsystem_vendor: 0x1AF4,
        subsystem: 0x1100,
    }
}

fn bar(number: u8) -> Bar {
    Bar::try_new(number).unwrap()
}

/// MSI-X at 0x40, function reset at 0x4C.
fn endpoint() -> Endpoint {
    Endpoint::new(identity())
        .with_msix(bar(1), 3)
        .with_function_reset()
        .with_bar(bar(4), BarKind::Memory64, 0x4000)
}

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTERRUPT: u32 = 1 << 10;
const STATUS_INTERRUPT: u32 = 1 << 19;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;
const MSIX_ENABLE: u32 = 1 << 31;

fn write(endpoint: &mut Endpoint, offset: u16, value: u32) {
    assert_eq!(endpoint.write(offset, value, u32::MAX), Written::Nothing);
}

fn messages(endpoint: &mut Endpoint) -> usize {
    let mut count = 0;
    endpoint.take_messages(&mut |_| count += 1);
    count
}

#[test]
fn header_says_who_it_is() {
    let endpoint = endpoint();
    assert_eq!(endpoint.read(0x00), 0x1044_1AF4);
    assert_eq!(endpoint.read(0x08), 0xFF00_0001);
    assert_eq!(endpoint.read(0x0C), 0, "type 0, one function");
    assert_eq!(endpoint.read(0x2C), 0x1100_1AF4);
    assert_eq!(endpoint.read(0x3C), 0x0100, "INTA#");
    assert_eq!(endpoint.read(0x100), 0, "no extended capability");
}

#[test]
fn capabilities_are_linked_in_order() {
    let endpoint = endpoint();
    assert_eq!(endpoint.read(0x04) >> 16, 0x0010);
    assert_eq!(endpoint.read(0x34), 0x40);
    assert_eq!(endpoint.read(0x40), 0x0002_4C11, "three vectors");
    assert_eq!(endpoint.read(0x44), 1, "the table is in BAR 1");
    assert_eq!(endpoint.read(0x48), 0x801);
    assert_eq!(endpoint.read(0x4C), 0x0306_0013);
}

#[test]
fn windows_are_answered_only_while_command_says_so() {
    let mut endpoint = endpoint();
    write(&mut endpoint, 0x14, 0xC000_0000);
    assert_eq!(endpoint.decoded(), [None; 6]);
    write(&mut endpoint, 0x04, COMMAND_MEMORY);
    let bases: Vec<_> = endpoint
        .decoded()
        .iter()
        .flatten()
        .map(|r| r.base)
        .collect();
    assert_eq!(bases, [0xC000_0000, 0]);
    write(&mut endpoint, 0x04, 0);
    assert_eq!(endpoint.decoded(), [None; 6]);
}

#[test]
fn only_what_the_standard_lets_software_change_changes() {
    let mut endpoint = endpoint();
    let before: Vec<u32> = (0..64).map(|word| endpoint.read(word * 4)).collect();
    for word in 0..64 {
        let _ = endpoint.write(word * 4, u32::MAX, u32::MAX);
    }
    for (word, before) in (0..64_u16).zip(before) {
        let changed = before ^ endpoint.read(word * 4);
        let allowed = match word * 4 {
            0x04 => 0x0546,
            0x0C => 0xFFFF,
            0x14 => 0xFFFF_F000,
            0x20 => 0xFFFF_C000,
            0x24 => 0xFFFF_FFFF,
            0x3C => 0xFF,
            0x40 => MSIX_FUNCTION_MASK | MSIX_ENABLE,
            _ => 0,
        };
        assert_eq!(changed, allowed, "{:#x}", word * 4);
    }
}

#[test]
fn interrupt_shows_in_status_and_reaches_the_pin_unless_disabled() {
    let mut endpoint = endpoint();
    endpoint.set_interrupt(Level::High);
    assert_eq!(endpoint.interrupt(), Level::High);
    write(&mut endpoint, 0x04, COMMAND_NO_INTERRUPT);
    assert_eq!(endpoint.interrupt(), Level::Low);
    assert_ne!(endpoint.read(0x04) & STATUS_INTERRUPT, 0, "still wanted");
    endpoint.set_interrupt(Level::Low);
    assert_eq!(endpoint.read(0x04) & STATUS_INTERRUPT, 0);
}

#[test]
fn function_with_messages_does_not_use_the_pin() {
    let mut endpoint = endpoint();
    endpoint.set_interrupt(Level::High);
    write(&mut endpoint, 0x40, MSIX_ENABLE);
    assert_eq!(endpoint.interrupt(), Level::Low);
}

/// A message is a write to memory: without bus mastering it waits (PCI Local Bus 3.0, 6.8.3.3).
#[test]
fn messages_wait_for_bus_mastering_and_the_function_mask() {
    let mut endpoint = endpoint();
    endpoint.msix_write(bar(1), 2 * 16 + 12, &[0; 4]);
    write(&mut endpoint, 0x40, MSIX_ENABLE);
    endpoint.signal(Vector(2));
    assert_eq!(messages(&mut endpoint), 0);
    write(&mut endpoint, 0x40, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    write(&mut endpoint, 0x04, COMMAND_MASTER);
    assert_eq!(messages(&mut endpoint), 0);
    write(&mut endpoint, 0x40, MSIX_ENABLE);
    assert_eq!(messages(&mut endpoint), 1);
    assert_eq!(messages(&mut endpoint), 0);
}

#[test]
fn function_reset_is_asked_for_by_its_bit_alone() {
    let mut endpoint = endpoint();
    assert_eq!(endpoint.write(0x50, 1, 0xFF), Written::Reset);
    assert_eq!(endpoint.write(0x50, 1, 0xFF00), Written::Nothing);
    assert_eq!(endpoint.write(0x50, 2, 0xFF), Written::Nothing);
    assert_eq!(endpoint.write(0x4C, u32::MAX, u32::MAX), Written::Nothing);
    assert_eq!(endpoint.read(0x50), 0, "reads zero");
}

#[test]
fn reset_is_power_on() {
    let mut endpoint = endpoint();
    let fresh = endpoint.save();
    for word in 0..64 {
        let _ = endpoint.write(word * 4, u32::MAX, u32::MAX);
    }
    endpoint.msix_write(bar(1), 0, &[0xFF; 16]);
    endpoint.signal(Vector(0));
    assert_ne!(endpoint.save(), fresh);
    endpoint.reset();
    assert_eq!(endpoint.save(), fresh);
}

#[test]
fn state_of_another_version_or_another_function_is_refused() {
    let mut endpoint = endpoint();
    let mut state = endpoint.save();
    state.version = 2;
    assert!(endpoint.restore(&state).is_err());
    let mut state = endpoint.save();
    state.msix = None;
    assert!(endpoint.restore(&state).is_err());
}

proptest! {
    #[test]
    fn traffic_never_panics_and_a_restored_endpoint_is_the_saved_one(
        traffic in prop::collection::vec((0_u16..0x1000, any::<u32>(), any::<u32>(), 0_u64..0x1010), 0..60),
    ) {
        let mut endpoint = endpoint();
        for (offset, value, mask, at) in traffic {
            let _ = endpoint.write(offset, value, mask);
            let len = usize::try_from(at % 17).unwrap();
            endpoint.msix_write(bar(1), at, &value.to_le_bytes().repeat(4)[..len]);
            endpoint.signal(Vector(u16::from_le_bytes([value.to_le_bytes()[0] & 3, 0])));
            let _ = messages(&mut endpoint);
        }
        let mut restored = self::endpoint();
        restored.restore(&endpoint.save()).unwrap();
        prop_assert_eq!(restored.save(), endpoint.save());
        prop_assert_eq!(restored.decoded(), endpoint.decoded());
        for word in 0..64 {
            prop_assert_eq!(restored.read(word * 4), endpoint.read(word * 4));
        }
        prop_assert_eq!(messages(&mut restored), messages(&mut endpoint));
    }
}
