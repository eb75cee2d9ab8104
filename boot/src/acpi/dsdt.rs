//! The DSDT: processors, PCI, and what sits on the ISA bus, in AML.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{Devices, Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Presence, ports};
use crate::layout::{ECAM_BASE, ECAM_SIZE, HPET_BASE, IOAPIC_BASE, LAPIC_BASE};

mod pci;
mod presence;
mod tpm;

/// Revision 2: integers have 64 bits.
const REVISION: u8 = 2;
const HEADER_BYTES: u32 = 36;
/// The ISA bridge is device 31, function 0, as on every ICH9.
const ISA_BRIDGE: u32 = 0x001F_0000;

type Object = Box<dyn Aml>;

/// Returns the table.
pub(super) fn dsdt(machine: &Machine, presence: Presence) -> Vec<u8> {
    let mut aml = Vec::new();
    let mut devices = processors(machine);
    devices.push(motherboard());
    devices.push(pci::root(machine, vec![isa_bridge(machine)]));
    if machine.devices.contains(Devices::HPET) {
        devices.push(device(
            "HPET",
            &[hid("PNP0103"), memory_resource(HPET_BASE, 0x400)],
        ));
    }
    if machine.devices.contains(Devices::TPM) {
        devices.push(tpm::tpm(presence));
    }
    if machine.devices.contains(Devices::FW_CFG) {
        devices.push(firmware_configuration());
    }
    for object in pci::interrupt_model() {
        object.to_aml_bytes(&mut aml);
    }
    Scope::new("_SB_".into(), borrow(&devices)).to_aml_bytes(&mut aml);
    let sleep = ports::S5_SLEEP_TYPE;
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&sleep, &sleep, &ZERO, &ZERO]),
    )
    .to_aml_bytes(&mut aml);

    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml);
    dsdt.as_slice().to_vec()
}

fn processors(machine: &Machine) -> Vec<Object> {
    (0..machine.vcpu_count)
        .map(|id| {
            let hid = Name::new("_HID".into(), &"ACPI0007");
            let uid = Name::new("_UID".into(), &id);
            device(&format!("C{id:03X}"), &[Box::new(hid), Box::new(uid)])
        })
        .collect()
}

/// Ranges that belong to no other device: nothing may be put there.
fn motherboard() -> Object {
    let crs: Vec<Object> = vec![
        io(0x61, 1),
        io(0x80, 1),
        io(0x92, 1),
        io(ports::PM1A_EVENT, ports::PM_BLOCK_BYTES),
        memory(ECAM_BASE, ECAM_SIZE),
        memory(IOAPIC_BASE, 0x1000),
        memory(LAPIC_BASE, 0x1000),
    ];
    device("MBRD", &[hid("PNP0C02"), uid(0), resources(&crs)])
}

fn isa_bridge(machine: &Machine) -> Object {
    let mut children: Vec<Object> = vec![
        Box::new(Name::new("_ADR".into(), &ISA_BRIDGE)),
        legacy(
            "PIC_",
            "PNP0000",
            &[(0x20, 2), (0xA0, 2), (0x4D0, 2)],
            Some(2),
        ),
        legacy("TIMR", "PNP0100", &[(0x40, 4)], Some(0)),
        legacy("RTC_", "PNP0B00", &[(0x70, 2)], Some(8)),
        legacy(
            "COM1",
            "PNP0501",
            &[(ports::COM1, 8)],
            Some(ports::COM1_INTERRUPT.into()),
        ),
    ];
    if machine.devices.contains(Devices::I8042) {
        children.push(legacy("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], Some(1)));
        children.push(legacy("MOU_", "PNP0F13", &[], Some(12)));
    }
    children.extend(pci::links());
    device("ISA_", &children)
}

/// The device that firmware and Linux read files from; no user interface shows it.
fn firmware_configuration() -> Object {
    const PRESENT_HIDDEN: u8 = 0x0B;
    device(
        "FWCF",
        &[
            Box::new(Name::new("_HID".into(), &"QEMU0002")),
            Box::new(Name::new("_STA".into(), &PRESENT_HIDDEN)),
            resources(&[io(ports::FW_CFG, ports::FW_CFG_PORTS)]),
        ],
    )
}

/// A device on the ISA bus with its ports and its interrupt.
fn legacy(name: &str, id: &str, ranges: &[(u16, u8)], interrupt: Option<u32>) -> Object {
    let mut crs: Vec<Object> = ranges.iter().map(|(port, len)| io(*port, *len)).collect();
    if let Some(number) = interrupt {
        crs.push(Box::new(Interrupt::new(true, true, false, false, number)));
    }
    device(name, &[hid(id), resources(&crs)])
}

fn device(name: &str, children: &[Object]) -> Object {
    encoded(&Device::new(name.into(), borrow(children)))
}

fn hid(id: &str) -> Object {
    Box::new(Name::new("_HID".into(), &EISAName::new(id)))
}

fn uid(id: u8) -> Object {
    Box::new(Name::new("_UID".into(), &id))
}

fn resources(children: &[Object]) -> Object {
    Box::new(Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(borrow(children)),
    ))
}

fn memory_resource(base: u64, len_bytes: u64) -> Object {
    resources(&[memory(base, len_bytes)])
}

fn memory(base: u64, len_bytes: u64) -> Object {
    Box::new(Memory32Fixed::new(true, dword(base), dword(len_bytes)))
}

fn io(port: u16, len: u8) -> Object {
    Box::new(IO::new(port, port, 1, len))
}

fn borrow(objects: &[Object]) -> Vec<&dyn Aml> {
    objects.iter().map(|object| &**object).collect()
}

/// Every address of the machine's devices is below 4 GiB by layout.
#[expect(
    clippy::cast_possible_truncation,
    reason = "constants of the layout below 4 GiB"
)]
fn dword(value: u64) -> u32 {
    value as u32
}

/// An object that is its encoding: frees it of what it borrowed.
fn encoded(aml: &dyn Aml) -> Object {
    struct Encoded(Vec<u8>);
    impl Aml for Encoded {
        fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
            sink.vec(&self.0);
        }
    }
    Box::new(Encoded(super::bytes_of(aml)))
}
