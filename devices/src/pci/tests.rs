use proptest::prelude::*;
use stockade_bus::{AccessError, Mmio, PortIo};

use super::PciRoot;

fn select(root: &mut PciRoot, address: u32) {
    root.port_write(0, &address.to_le_bytes()).unwrap();
}

fn read_data(root: &mut PciRoot) -> u32 {
    let mut word = [0; 4];
    root.port_read(4, &mut word).unwrap();
    u32::from_le_bytes(word)
}

#[test]
fn host_and_lpc_bridge_are_a_q35s() {
    let mut root = PciRoot::default();
    select(&mut root, 0x8000_0000);
    assert_eq!(read_data(&mut root), 0x29C0_8086);
    select(&mut root, 0x8000_F800);
    assert_eq!(read_data(&mut root), 0x2918_8086);
    select(&mut root, 0x8000_F840);
    assert_eq!(read_data(&mut root), 0x601);
}

/// Linux scans 256 buses; every absent function must answer ones.
#[test]
fn absent_functions_read_as_ones() {
    let mut root = PciRoot::default();
    for bus in 0..=255_u32 {
        select(&mut root, 0x8000_0000 | bus << 16 | 3 << 11);
        assert_eq!(read_data(&mut root), u32::MAX);
    }
}

/// Linux' `pci_check_type1` writes the address register and reads it back.
#[test]
fn address_register_reads_back() {
    let mut root = PciRoot::default();
    select(&mut root, 0x8000_0000);
    let mut word = [0; 4];
    root.port_read(0, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x8000_0000);
}

#[test]
fn data_window_is_absent_while_disabled() {
    let mut root = PciRoot::default();
    select(&mut root, 0);
    assert_eq!(root.port_read(4, &mut [0; 4]), Err(AccessError::NoRegister));
}

#[test]
fn ecam_and_ports_show_the_same_registers() {
    let mut root = PciRoot::default();
    for register in (0..256_u32).step_by(4) {
        select(&mut root, 0x8000_F800 | register);
        let by_port = read_data(&mut root);
        let mut word = [0; 4];
        root.mmio_read(0xF8000 + u64::from(register), &mut word)
            .unwrap();
        assert_eq!(u32::from_le_bytes(word), by_port);
    }
}

#[test]
fn bytes_and_words_read_out_of_the_double_word() {
    let mut root = PciRoot::default();
    select(&mut root, 0x8000_0000);
    let mut word = [0; 2];
    root.port_read(6, &mut word).unwrap();
    assert_eq!(u16::from_le_bytes(word), 0x29C0);
    let mut byte = [0];
    root.port_read(7, &mut byte).unwrap();
    assert_eq!(byte, [0x29]);
}

#[test]
fn identity_cannot_be_written_and_routing_can() {
    let mut root = PciRoot::default();
    select(&mut root, 0x8000_F800);
    root.port_write(4, &[0; 4]).unwrap();
    assert_eq!(read_data(&mut root), 0x2918_8086);
    select(&mut root, 0x8000_F860);
    root.port_write(5, &[0x0B]).unwrap();
    assert_eq!(read_data(&mut root), 0x8080_0B80);
}

proptest! {
    #[test]
    fn traffic_never_panics_and_restores(
        traffic in prop::collection::vec((0_u64..0x1_0000_0000, prop::collection::vec(any::<u8>(), 1..16)), 0..100),
    ) {
        let mut root = PciRoot::default();
        for (offset, data) in &traffic {
            let _ = root.mmio_write(offset % 0x20_0000, data);
            let _ = root.port_write(u16::try_from(offset % 8).unwrap(), data);
        }
        let mut restored = PciRoot::default();
        restored.restore(&root.save()).unwrap();
        prop_assert_eq!(restored.save(), root.save());
    }
}
