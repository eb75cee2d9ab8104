use alloc::sync::Arc;
use core::time::Duration;
use std::sync::mpsc;
use std::thread;

use spin::Mutex;
use stockade_bus::fake::FakeClock;
use stockade_bus::{AccessError, Gpa, Level, PciConfig};
use stockade_devices::pci::{
    BARS, Bar, BarKind, BarRange, Endpoint, Identity, MsiMessage, PciFunction, Vector, Written,
};

use super::{Functions, SLOTS, SlotNumber};
use crate::machine::{Fittings, Machine};

const MSIX: Bar = Bar::try_new(1).unwrap();
const MEMORY: Bar = Bar::try_new(4).unwrap();

/// A function that interrupts when its memory is written, with the byte's lowest bit for a level.
struct Bell(Endpoint);

impl Bell {
    fn new() -> Self {
        let identity = Identity {
            vendor: 0x1AF4,
            device: 0x10FF,
            class: [0, 0, 0xFF],
            revision: 1,
            subsystem_vendor: 0x1AF4,
            subsystem: 1,
        };
        Self(
            Endpoint::new(identity)
                .with_msix(MSIX, 2)
                .with_bar(MEMORY, BarKind::Memory64, 0x1000),
        )
    }
}

impl PciConfig for Bell {
    fn config_read(&mut self, offset: u16) -> u32 {
        self.0.read(offset)
    }

    fn config_write(&mut self, offset: u16, value: u32, mask: u32) {
        assert_eq!(self.0.write(offset, value, mask), Written::Nothing);
    }
}

impl PciFunction for Bell {
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        if !self.0.msix_read(bar, offset, data) {
            data.fill(0x5A);
        }
        Ok(())
    }

    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        if self.0.msix_write(bar, offset, data) {
            return Ok(());
        }
        if self.0.is_msix_enabled() {
            self.0.signal(Vector(0));
        } else {
            self.0.set_interrupt(Level::from(data[0] & 1 != 0));
        }
        Ok(())
    }

    fn decoded(&self) -> [Option<BarRange>; BARS] {
        self.0.decoded()
    }

    fn interrupt(&self) -> Level {
        self.0.interrupt()
    }

    fn take_messages(&mut self, send: &mut dyn FnMut(MsiMessage)) {
        self.0.take_messages(send);
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

type Bells = [(Arc<Mutex<Bell>>, SlotNumber); 2];

fn machine(clock: &FakeClock) -> (Machine<&FakeClock>, Bells) {
    let mut functions = Functions::default();
    let bells = [(); 2].map(|()| {
        let bell = Arc::new(Mutex::new(Bell::new()));
        let slot = functions.fit(Arc::clone(&bell) as _).unwrap();
        (bell, slot)
    });
    let fittings = Fittings {
        functions,
        ..Fittings::default()
    };
    (Machine::with_fittings(1, clock, 0, fittings), bells)
}

/// Configuration space of the function in slot `slot` through ECAM.
fn register(slot: u64, offset: u64) -> Gpa {
    Gpa(0xB000_0000 + ((slot + 1) << 15) + offset)
}

fn read(machine: &Machine<&FakeClock>, gpa: Gpa) -> u32 {
    let mut word = [0; 4];
    machine.mmio_read(gpa, &mut word);
    u32::from_le_bytes(word)
}

fn write(machine: &Machine<&FakeClock>, gpa: Gpa, value: u32) {
    machine.mmio_write(gpa, &value.to_le_bytes());
}

/// Where firmware put a window.
fn window(machine: &Machine<&FakeClock>, slot: u64, bar: u64) -> Gpa {
    Gpa((read(machine, register(slot, 0x10 + 4 * bar)) & !0xF).into())
}

fn apic_of(machine: &Machine<&FakeClock>) -> stockade_apic::LocalApic {
    let apic = crate::vcpu::tests::enabled_apic();
    apic.publish(&machine.mailboxes()[0]);
    apic
}

fn delivered(apic: &mut stockade_apic::LocalApic, machine: &Machine<&FakeClock>) -> Option<u8> {
    let _ = apic.deliver_remote(&machine.mailboxes()[0]);
    apic.queueable_vector()
}

/// A redirection entry's bit for "sent, and not ended".
const REMOTE_IRR: u32 = 1 << 14;

/// Opens pin `pin` of the IOAPIC, level-triggered.
fn open_pin(machine: &Machine<&FakeClock>, pin: u32, vector: u32) {
    for (index, value) in [(0x10 + 2 * pin, 1 << 15 | vector), (0x11 + 2 * pin, 0)] {
        write(machine, Gpa(0xFEC0_0000), index);
        write(machine, Gpa(0xFEC0_0010), value);
    }
}

#[test]
fn firmware_places_every_window_and_both_doors_show_it() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    for (slot, bar, base) in [
        (0, 1, 0xC000_0000),
        (0, 4, 0xC000_1000),
        (1, 1, 0xC000_2000),
        (1, 4, 0xC000_3000),
    ] {
        assert_eq!(window(&machine, slot, bar), Gpa(base));
    }
    machine.port_write(0xCF8, &0x8000_1014_u32.to_le_bytes());
    let mut word = [0; 4];
    machine.port_read(0xCFC, &mut word);
    assert_eq!(u32::from_le_bytes(word), 0xC000_2000);
    assert_eq!(read(&machine, Gpa(0xC000_3000)), 0x5A5A_5A5A);
    assert_eq!(read(&machine, Gpa(0xC000_4000)), u32::MAX);
}

#[test]
fn message_of_a_function_reaches_its_vcpu() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    let mut apic = apic_of(&machine);
    write(&machine, register(0, 0x04), 0x6);
    write(&machine, register(0, 0x40), 1 << 31);
    let table = window(&machine, 0, 1);
    for (at, word) in (table.0..).step_by(4).zip([0xFEE0_0000, 0, 0x55, 0]) {
        write(&machine, Gpa(at), word);
    }
    write(&machine, window(&machine, 0, 4), 1);
    assert_eq!(machine.take_wakes(), 1);
    assert_eq!(delivered(&mut apic, &machine), Some(0x55));
}

/// Device 1 is on PIRQB: pin 17, until the function lowers its wire.
#[test]
fn wire_of_a_function_reaches_its_ioapic_pin() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    let mut apic = apic_of(&machine);
    let bell = window(&machine, 0, 4);
    let end = || machine.with_chips(|chips| chips.ioapic.end_of_interrupt(0x61));
    let is_sent = || {
        write(&machine, Gpa(0xFEC0_0000), 0x10 + 2 * 17);
        read(&machine, Gpa(0xFEC0_0010)) & REMOTE_IRR != 0
    };
    write(&machine, bell, 1);
    open_pin(&machine, 17, 0x61);
    assert_eq!(delivered(&mut apic, &machine), Some(0x61));
    end();
    assert!(is_sent(), "again, while it lasts");
    write(&machine, bell, 0);
    end();
    assert!(!is_sent());
}

#[test]
fn functions_on_one_wire_hold_it_together() {
    let clock = FakeClock::default();
    let (machine, bells) = machine(&clock);
    for (bell, slot) in &bells {
        machine.with_function(*slot, bell, |bell| bell.0.set_interrupt(Level::High));
    }
    assert_eq!(machine.slots.asserted(), 0b110);
    let (bell, slot) = &bells[0];
    machine.with_function(*slot, bell, |bell| bell.0.set_interrupt(Level::Low));
    assert_eq!(machine.slots.asserted(), 0b100);
}

/// Firmware connects PIRQB to interrupt 10: bit 2 of the secondary 8259.
#[test]
fn wire_of_a_function_reaches_the_8259s() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    let bell = window(&machine, 0, 4);
    let requested = || {
        let mut byte = [0];
        machine.port_read(0xA0, &mut byte);
        byte[0]
    };
    machine.port_write(0xA0, &[0x0A]);
    assert_eq!(requested(), 0);
    write(&machine, bell, 1);
    assert_eq!(requested(), 1 << 2);
    write(&machine, bell, 0);
    assert_eq!(requested(), 0, "level-triggered");
}

#[test]
fn interrupt_disable_lowers_the_wire() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    write(&machine, window(&machine, 0, 4), 1);
    assert_eq!(machine.slots.asserted(), 0b10);
    write(&machine, register(0, 0x04), 0x402);
    assert_eq!(machine.slots.asserted(), 0);
}

#[test]
fn moved_window_is_answered_where_it_went_above_4_gib_too() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    let before = window(&machine, 1, 4);
    write(&machine, register(1, 0x20), 0x1234_5000);
    write(&machine, register(1, 0x24), 0x101);
    assert_eq!(read(&machine, before), u32::MAX);
    assert_eq!(read(&machine, Gpa(0x101_1234_5000)), 0x5A5A_5A5A);
    write(&machine, register(1, 0x04), 0);
    assert_eq!(read(&machine, Gpa(0x101_1234_5000)), u32::MAX);
}

/// One device's notification waits neither for another device nor for the chips. If it did, it would do so for ever, so it is a thread of its own
/// that tries.
#[test]
fn functions_and_chips_do_not_wait_for_each_other() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let clock = FakeClock::default();
        let (machine, bells) = machine(&clock);
        let (busy, free) = (&bells[0].0, window(&machine, 1, 4));
        let held = busy.lock();
        write(&machine, free, 0);
        machine.with_chips(|_| write(&machine, free, 0));
        drop(held);
        done.send(())
    });
    let limit = Duration::from_secs(60);
    assert_eq!(is_done.recv_timeout(limit), Ok(()), "it waits");
}

#[test]
fn reset_is_power_on_and_firmware_again() {
    let clock = FakeClock::default();
    let (machine, _) = machine(&clock);
    write(&machine, window(&machine, 0, 4), 1);
    write(&machine, register(0, 0x20), 0xD000_0000);
    write(&machine, register(0, 0x04), 0x6);
    machine.reset();
    assert_eq!(window(&machine, 0, 4), Gpa(0xC000_1000));
    assert_eq!(read(&machine, register(0, 0x04)), 0x0010_0002);
    assert_eq!(machine.slots.asserted(), 0);
    assert_eq!(read(&machine, Gpa(0xC000_1000)), 0x5A5A_5A5A);
}

#[test]
fn only_so_many_slots() {
    let mut functions = Functions::default();
    let bell: Arc<Mutex<Bell>> = Arc::new(Mutex::new(Bell::new()));
    for number in 0..SLOTS {
        let slot = functions.fit(Arc::clone(&bell) as _).unwrap();
        assert_eq!(usize::from(slot.address().device()), number + 1);
    }
    assert!(functions.fit(bell).is_none());
}
