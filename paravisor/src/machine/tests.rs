use alloc::vec::Vec;

use stockade_boot::manifest::Start;
use stockade_boot::ram::RamMap;
use stockade_bus::Gpa;
use stockade_bus::fake::FakeClock;

use super::{FirmwareFittings, Fittings, Machine, Request, TestFittings};

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

/// A guest that computes without timers of its own (memtest86+) writes no ends of lines: its screen must not lag by minutes.
#[test]
fn output_without_the_end_of_a_line_makes_a_tick_due_once() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    assert_eq!(machine.deadline(0), None);
    machine.port_write(0x3F8, b"a");
    assert_eq!(machine.deadline(0), Some(20_000_000));
    clock.advance(5_000_000);
    machine.port_write(0x3F8, b"b");
    assert_eq!(machine.deadline(0), Some(20_000_000));
    let mut batch = [0; 8];
    let taken = machine.with_chips(|chips| chips.com1.take_output(&mut batch));
    assert_eq!((taken, machine.deadline(0)), (2, None));
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

fn mmio(machine: &Machine<&FakeClock>, gpa: u64, value: u64) {
    machine.mmio_write(Gpa(gpa), &value.to_le_bytes());
}

/// Opens a pin of the IOAPIC for the first vCPU, edge-triggered.
fn open_pin(machine: &Machine<&FakeClock>, pin: u32, vector: u32) {
    for (register, value) in [(0x10 + 2 * pin, vector), (0x11 + 2 * pin, 0)] {
        machine.mmio_write(Gpa(0xFEC0_0000), &register.to_le_bytes());
        machine.mmio_write(Gpa(0xFEC0_0010), &value.to_le_bytes());
    }
}

/// In legacy replacement the HPET's first comparator is the timer, and the PIT is nobody.
#[test]
fn hpet_takes_the_place_of_the_pit() {
    let clock = FakeClock::default();
    let fittings = Fittings {
        hpet: true,
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(1, &clock, 0, fittings);
    let mut apic = crate::vcpu::tests::enabled_apic();
    apic.publish(&machine.mailboxes()[0]);
    open_pin(&machine, 2, 0x31);
    mmio(&machine, 0xFED0_0010, 0b11);
    mmio(&machine, 0xFED0_0100, 1 << 2);
    mmio(&machine, 0xFED0_0108, 100);
    for (port, value) in [(0x43, 0x34), (0x40, 0x10), (0x40, 0x00)] {
        machine.port_write(port, &[value]);
    }
    clock.advance(999);
    machine.advance(0);
    let _ = apic.deliver_remote(&machine.mailboxes()[0]);
    assert_eq!(apic.queueable_vector(), None);
    clock.advance(machine.deadline(0).unwrap().saturating_sub(999));
    clock.advance(1_000);
    machine.advance(0);
    let _ = apic.deliver_remote(&machine.mailboxes()[0]);
    assert_eq!(apic.queueable_vector(), Some(0x31));
}

#[test]
fn machine_without_hpet_has_nothing_at_its_address() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    let mut data = [0; 8];
    machine.mmio_read(Gpa(0xFED0_0000), &mut data);
    assert_eq!(data, [0xFF; 8]);
}

/// Memory nobody has.
struct Nowhere;

impl stockade_bus::GuestMemory for Nowhere {
    fn read(&self, gpa: Gpa, _: &mut [u8]) -> Result<(), stockade_bus::MemoryError> {
        Err(stockade_bus::MemoryError::NotMemory(gpa))
    }

    fn write(&self, gpa: Gpa, _: &[u8]) -> Result<(), stockade_bus::MemoryError> {
        Err(stockade_bus::MemoryError::NotMemory(gpa))
    }

    fn is_ram(&self, _: Gpa) -> bool {
        false
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        _: u8,
        _: u64,
        _: u64,
    ) -> Result<bool, stockade_bus::MemoryError> {
        Err(stockade_bus::MemoryError::NotMemory(gpa))
    }
}

fn test_machine(clock: &FakeClock) -> Machine<&FakeClock> {
    let test_devices = TestFittings {
        memory: &Nowhere,
        vcpus: 3,
        ram_bytes: 64 << 20,
    };
    let fittings = Fittings {
        test_devices: Some(test_devices),
        ..Fittings::default()
    };
    Machine::with_fittings(1, clock, 0, fittings)
}

#[test]
fn test_kernel_ends_with_its_status_once() {
    let clock = FakeClock::default();
    let machine = test_machine(&clock);
    machine.port_write(0xF4, &[0x10]);
    assert_eq!(machine.take_request(), Request::Exit(0x21));
    assert_eq!(machine.take_request(), Request::None);
    let plain = Machine::new(1, &clock, 0);
    plain.port_write(0xF4, &[0x10]);
    assert_eq!(plain.take_request(), Request::None);
}

#[test]
fn test_devices_are_where_test_kernels_look() {
    let clock = FakeClock::default();
    let machine = test_machine(&clock);
    machine.port_write(0xE0, &[1, 2, 3, 4]);
    assert_eq!(read(&machine, 0xE1), 2);
    // fw_cfg: the number of vCPUs.
    machine.port_write(0x510, &[5, 0]);
    assert_eq!((read(&machine, 0x511), read(&machine, 0x511)), (3, 0));
    mmio(&machine, 0xFF00_0100, 0x1122);
    let mut data = [0; 2];
    machine.mmio_read(Gpa(0xFF00_0100), &mut data);
    assert_eq!(data, [0x22, 0x11]);
}

/// Port 0x2000 + n is interrupt n: how test kernels drive the IOAPIC.
#[test]
fn test_line_raises_its_ioapic_pin() {
    let clock = FakeClock::default();
    let machine = test_machine(&clock);
    let mut apic = crate::vcpu::tests::enabled_apic();
    apic.publish(&machine.mailboxes()[0]);
    open_pin(&machine, 0x14, 0x77);
    machine.port_write(0x2014, &[1, 0, 0, 0]);
    let _ = apic.deliver_remote(&machine.mailboxes()[0]);
    assert_eq!(apic.queueable_vector(), Some(0x77));
}

/// A quad word from configuration space: two double words on the bus.
#[test]
fn wide_access_to_narrow_registers_is_split() {
    let clock = FakeClock::default();
    let machine = Machine::new(1, &clock, 0);
    let mut halves = [0; 8];
    for (half, gpa) in halves.chunks_mut(4).zip([0xB000_0000, 0xB000_0004]) {
        machine.mmio_read(Gpa(gpa), half);
    }
    let mut whole = [0; 8];
    machine.mmio_read(Gpa(0xB000_0000), &mut whole);
    assert_eq!(whole, halves);
    assert_eq!(&whole[..4], [0x86, 0x80, 0xC0, 0x29]);
}

fn started_by_firmware(clock: &FakeClock) -> Machine<&FakeClock> {
    let fittings = Fittings {
        start: Start::Firmware,
        ..Fittings::default()
    };
    Machine::with_fittings(1, clock, 0, fittings)
}

/// Writes a register of the function at `at` (device << 11) by the ports.
fn configure(machine: &Machine<&FakeClock>, at: u32, register: u32, value: u32) {
    machine.port_write(0xCF8, &(1 << 31 | at | register).to_le_bytes());
    machine.port_write(0xCFC, &value.to_le_bytes());
}

fn vendor(machine: &Machine<&FakeClock>, gpa: u64) -> u32 {
    let mut word = [0; 4];
    machine.mmio_read(Gpa(gpa), &mut word);
    u32::from_le_bytes(word)
}

/// After each reset firmware finds nothing set up, and places it where it likes.
#[test]
fn firmware_places_configuration_space_and_power_management() {
    const LPC: u32 = 0x1F << 11;
    let clock = FakeClock::default();
    let machine = started_by_firmware(&clock);
    for _ in 0..2 {
        assert_eq!(vendor(&machine, 0xB000_0000), u32::MAX);
        assert_eq!(read(&machine, 0x605), 0xFF);
        configure(&machine, 0, 0x60, 0xE000_0001);
        assert_eq!(vendor(&machine, 0xE000_0000), 0x29C0_8086);
        configure(&machine, LPC, 0x40, 0x0801);
        configure(&machine, LPC, 0x44, 0x80);
        assert_eq!(read(&machine, 0x805), 0);
        assert_eq!(read(&machine, 0x605), 0xFF);
        machine.port_write(0x804, &[0x01, 0x20]);
        assert_eq!(machine.take_request(), Request::PowerOff);
        machine.reset();
    }
}

/// OVMF asks the clock's cells how much memory there is, as it would a BIOS' (`GetSystemMemorySizeBelow4gb`): in KiB above 1 MiB, in
/// units of 64 KiB above 16 MiB and above 4 GiB.
#[test]
fn firmware_finds_the_memorys_size_in_the_clocks_cells() {
    let clock = FakeClock::default();
    let firmware = FirmwareFittings {
        memory: &Nowhere,
        vcpus: 1,
        ram: RamMap::try_new(1 << 30, 6 << 30).unwrap(),
        files: Vec::new(),
        surface: None,
    };
    let fittings = Fittings {
        start: Start::Firmware,
        firmware: Some(firmware),
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(1, &clock, 0, fittings);
    let cell = |number: u8| {
        machine.port_write(0x70, &[number]);
        u32::from(read(&machine, 0x71))
    };
    let of = |cells: &[u8]| cells.iter().rev().fold(0, |sum, at| sum << 8 | cell(*at));
    for _ in 0..2 {
        assert_eq!(of(&[0x15, 0x16]), 640);
        assert_eq!([of(&[0x17, 0x18]), of(&[0x30, 0x31])], [0xFFFF; 2]);
        assert_eq!(of(&[0x34, 0x35]), (1024 - 16) * 16);
        assert_eq!(of(&[0x5B, 0x5C, 0x5D]), 2048 * 16);
        // The battery keeps them.
        machine.reset();
    }
}

/// Firmware that finds a keyboard controller waits for a keyboard.
#[test]
fn firmware_finds_no_keyboard_controller_but_resets_by_it() {
    let clock = FakeClock::default();
    let machine = started_by_firmware(&clock);
    machine.port_write(0x64, &[0xAA]);
    assert_eq!((read(&machine, 0x60), read(&machine, 0x64)), (0xFF, 0xFF));
    machine.port_write(0x64, &[0xFE]);
    assert_eq!(machine.take_request(), Request::Reset);
}
