use super::*;
use std::collections::BTreeMap;

/// Registers that keep what is written where a mask allows.
#[derive(Default)]
struct Fake {
    words: BTreeMap<(u32, u8), (u32, u32)>,
}

impl Fake {
    fn set(&mut self, device: u8, register: u8, value: u32, writable: u32) {
        let key = (Address::on_bus_0(device << 3).port_value(0), register);
        self.words.insert(key, (value, writable));
    }
}

impl ConfigSpace for Fake {
    fn read(&mut self, address: Address, register: u8, bytes: usize) -> u32 {
        let key = (address.port_value(0), register & 0xFC);
        let word = self
            .words
            .get(&key)
            .map_or(if register < 4 { u32::MAX } else { 0 }, |(value, _)| *value);
        let mask = if bytes == 4 {
            u32::MAX
        } else {
            (1 << (8 * bytes)) - 1
        };
        word >> (8 * (register & 3)) & mask
    }

    fn write(&mut self, address: Address, register: u8, bytes: usize, value: u32) {
        assert!(bytes == 4 || register & 3 == 0);
        let key = (address.port_value(0), register & 0xFC);
        if let Some((word, writable)) = self.words.get_mut(&key) {
            let wanted = if bytes == 4 {
                *writable
            } else {
                *writable & 0xFFFF
            };
            *word = *word & !wanted | value & wanted;
        }
    }
}

/// A disk as QEMU makes them: BAR1 of 4 KiB with the message table, BAR4 of 16 KiB with four regions.
fn disk() -> Fake {
    let mut fake = Fake::default();
    let words = [
        (0x00, 0x1042_1AF4, 0),
        (0x04, 0x0010_0007, 7),
        (0x0C, 0, 0),
        (0x10, 0, 0),
        (0x14, 0xFEBF_0000, 0xFFFF_F000),
        (0x18, 0, 0),
        (0x1C, 0, 0),
        (0x20, 0x0000_000C, 0xFFFF_C000),
        (0x24, 0x0000_0008, 0xFFFF_FFFF),
        (0x34, 0x98, 0),
        (0x98, 0x8001_4011, 0),
        (0x9C, 0x0000_0001, 0),
        (0x40, 0x0110_5009, 0),
        (0x44, 4, 0),
        (0x48, 0, 0),
        (0x4C, 0x1000, 0),
        (0x50, 0x0214_0009, 0),
        (0x54, 4, 0),
        (0x58, 0x3000, 0),
        (0x5C, 0x1000, 0),
        (0x60, 4, 0),
    ];
    for (register, value, writable) in words {
        fake.set(2, register, value, writable);
    }
    fake
}

fn bus(fake: &mut Fake) -> Pci {
    let mut pci = Pci::new([0xC000_0000..0xFEC0_0000, 0x1_0000_0000..0x80_0000_0000]);
    pci.scan(fake);
    pci
}

#[test]
fn windows_are_measured_and_put_back() {
    let mut fake = disk();
    let pci = bus(&mut fake);
    let [function] = pci.functions() else {
        unreachable!()
    };
    assert_eq!(function.virtio, Some(VirtioKind::Block));
    assert_eq!(function.address.device(), 2);
    let windows: Vec<_> = function
        .bars
        .iter()
        .map(|bar| (bar.index, bar.len, bar.base))
        .collect();
    let expected = [
        (1, 0x1000, Some(0xFEBF_0000)),
        (4, 0x4000, Some(0x8_0000_0000)),
    ];
    assert_eq!(windows, expected);
    assert_eq!(function.notify_step, 4);
}

#[test]
fn an_access_is_a_windows_only_when_all_of_it_is() {
    let mut fake = disk();
    let pci = bus(&mut fake);
    let place = pci.window(0xFEBF_0FFC, 4).unwrap();
    assert_eq!((place.bar, place.offset), (1, 0xFFC));
    assert_eq!(pci.window(0xFEBF_0FFE, 4), None);
    assert_eq!(pci.window(0xFEBE_FFFF, 4), None);
    assert_eq!(pci.window(u64::MAX, 4), None);
}

#[test]
fn registers_are_told_apart_by_the_capabilities() {
    let mut fake = disk();
    let pci = bus(&mut fake);
    let at = |gpa| pci.register(pci.window(gpa, 1).unwrap());
    assert_eq!(at(0x8_0000_0014), Register::Common(0x14));
    assert_eq!(at(0x8_0000_3004), Register::Notify(4));
    assert_eq!(at(0x8_0000_2000), Register::Other);
    assert_eq!(at(0xFEBF_000C), Register::MessageTable(12));
    assert_eq!(at(0xFEBF_0020), Register::Other);
    let function = &pci.functions()[0];
    assert_eq!(function.locate(Register::Common(0x14)), Some(0x8_0000_0014));
}

#[test]
fn a_window_moves_with_its_register_and_goes_with_the_command() {
    let mut fake = disk();
    let mut pci = bus(&mut fake);
    let mut write = |pci: &mut Pci, register: u32, value| {
        pci.write_latch(0xCF8, Width::Double, 0x8000_1000 | register);
        let access = pci.access(0xCFC, Width::Double).unwrap();
        fake.write(access.address, access.register, access.bytes, value);
        pci.written(access, &mut fake);
    };
    write(&mut pci, 0x14, 0xD000_0000);
    assert_eq!(pci.window(0xFEBF_0000, 4), None);
    assert!(pci.window(0xD000_0000, 4).is_some());
    // RAM and the chipset are nobody's window, wherever a register points.
    write(&mut pci, 0x14, 0xFEC0_0000);
    assert_eq!(pci.window(0xFEC0_0000, 4), None);
    write(&mut pci, 0x14, 0x0010_0000);
    assert_eq!(pci.window(0x0010_0000, 4), None);
    write(&mut pci, 0x14, 0xD000_0000);
    write(&mut pci, 0x04, 0);
    assert_eq!(pci.window(0xD000_0000, 4), None);
}

#[test]
fn the_address_port_is_a_latch_of_double_words() {
    let mut pci = Pci::default();
    assert_eq!(pci.access(0xCFC, Width::Double), None);
    pci.write_latch(0xCF8, Width::Double, 0xFFFF_FFFF);
    assert_eq!(pci.read_latch(0xCF8, Width::Double), 0x80FF_FFFC);
    pci.write_latch(0xCFB, Width::Byte, 1);
    pci.write_latch(0xCF8, Width::Word, 1);
    assert_eq!(pci.read_latch(0xCF8, Width::Double), 0x80FF_FFFC);
    assert_eq!(pci.read_latch(0xCFB, Width::Byte), 0xFF);
    let access = pci.access(0xCFE, Width::Word).unwrap();
    assert_eq!((access.register, access.bytes), (0xFE, 2));
    assert_eq!(pci.access(0xCFE, Width::Double), None);
    assert_eq!(pci.access(0xCF8, Width::Double), None);
}
