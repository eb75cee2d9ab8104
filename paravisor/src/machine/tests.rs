use stockade_bus::Gpa;
use stockade_bus::fake::FakeClock;

use super::{Machine, Request};

fn read(machine: &Machine<&FakeClock>, port: u16) -> u8 {
    let mut byte = [0];
    machine.port_read(port, &mut byte);
    byte[0]
}

#[test]
fn absent_ports_and_addresses_float_high() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    for port in [
        0x2E, 0x4E, 0x2F8, 0x3E8, 0x378, 0x3D5, 0x80, 0xF1, 0x510, 0xFFFF,
    ] {
        assert_eq!(read(&machine, port), 0xFF, "{port:#x}");
    }
    let mut data = [0; 8];
    machine.mmio_read(Gpa(0xFED0_0000), &mut data);
    assert_eq!(data, [0xFF; 8]);
}

#[test]
fn a_word_to_two_byte_wide_registers_reaches_both() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    // Index and data of the RTC in one OUT: cell 0x40 = 0x77.
    machine.port_write(0x70, &[0x40, 0x77]);
    machine.port_write(0x70, &[0x40]);
    assert_eq!(read(&machine, 0x71), 0x77);
}

#[test]
fn acpi_power_off_is_asked_of_the_machine() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    assert_eq!(machine.take_request(), Request::None);
    machine.port_write(0x604, &[0x01, 0x20]);
    assert_eq!(machine.take_request(), Request::PowerOff);
}

#[test]
fn every_reset_of_a_pc_is_asked_of_the_machine_once() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    for (port, value) in [(0xCF9, 0x06), (0x64, 0xFE), (0x92, 0x01)] {
        machine.port_write(port, &[value]);
        assert_eq!(machine.take_request(), Request::Reset, "{port:#x}");
        assert_eq!(machine.take_request(), Request::None);
    }
}

/// Linux' timer check: IRQ 0 comes in at IOAPIC pin 2.
#[test]
fn timer_interrupt_arrives_at_ioapic_pin_2() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    let mut apic = crate::vcpu::tests::enabled_apic();
    apic.publish(&machine.mailboxes()[0]);
    for (register, value) in [(0x14_u32, 0x31_u32), (0x15, 0)] {
        machine.mmio_write(Gpa(0xFEC0_0000), &register.to_le_bytes());
        machine.mmio_write(Gpa(0xFEC0_0010), &value.to_le_bytes());
    }
    machine.port_write(0x43, &[0x34]);
    machine.port_write(0x40, &[0xE8]);
    machine.port_write(0x40, &[0x03]);
    let due = machine.deadline(0).unwrap();
    clock.advance(due);
    machine.advance(0);
    let _ = apic.deliver_remote(&machine.mailboxes()[0]);
    assert_eq!(apic.queueable_vector(), Some(0x31));
}

#[test]
fn reset_puts_the_chips_back() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    machine.port_write(0x3FF, &[0x5A]);
    machine.port_write(0x70, &[0x40]);
    machine.port_write(0x71, &[0x11]);
    machine.reset();
    assert_eq!(read(&machine, 0x3FF), 0);
    machine.port_write(0x70, &[0x40]);
    assert_eq!(read(&machine, 0x71), 0x11, "CMOS lives on the battery");
}
