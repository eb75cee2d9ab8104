//! The PCI host bridge in AML: its windows, and where the interrupt wires of its slots end.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, EISAName, Else, Equal, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local, Method, Name, NotEqual,
    ONE, OpRegion, OpRegionSpace, Or, Package, PackageBuilder, Path, ResourceTemplate, Return,
    Store, Uuid, ZERO,
};

use super::{Object, device, dword, encoded, hid, io, resources, uid};
use crate::acpi::{Machine, ports};
use crate::layout::{PCI_WINDOW_BASE, PCI_WINDOW_SIZE, PCI_WINDOW64_BASE, PCI_WINDOW64_SIZE};

/// Devices on a PCI bus.
const PCI_DEVICES: u8 = 32;
/// PCI host bridges' `_OSC` (PCI Firmware 3.3, 4.5.1).
const PCI_OSC: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// What the guest may control itself: hot-plug, PME, errors, the PCI Express capability.
const OSC_GRANTED: u8 = 0x1F;
/// The last letters of the wires PIRQA to PIRQH.
const WIRES: &[u8; 8] = b"ABCDEFGH";
/// Which interrupts of the 8259s a wire can be connected to: those no ISA device has.
const CONNECTABLE: [u32; 3] = [5, 10, 11];
/// Set in a wire's register while it is disconnected (ICH9 data sheet 316972, 13.1.16).
const DISCONNECTED: u8 = 0x80;
/// Offset of the number in a resource of one interrupt (ACPI 6.5, 6.4.3.6).
const INTERRUPT_NUMBER: u8 = 5;

/// Returns the interrupt model, which the guest announces by `_PIC` (ACPI 6.5, 5.8.1): 0 for the 8259s, 1 for IOAPICs.
pub(super) fn interrupt_model() -> [Object; 2] {
    let (target, chosen) = (Path::new("PICF"), Arg(0));
    let store = Store::new(&target, &chosen);
    let choose = Method::new("_PIC".into(), 1, false, vec![&store]);
    let model = Name::new("PICF".into(), &ZERO);
    [Box::new(model), encoded(&choose)]
}

/// Returns the host bridge with `children` behind it.
pub(super) fn root(machine: &Machine, children: Vec<Object>) -> Object {
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let mut own: Vec<Object> = vec![
        hid("PNP0A08"),
        Box::new(cid),
        uid(0),
        Box::new(Name::new("_SEG".into(), &ZERO)),
        Box::new(Name::new("_BBN".into(), &ZERO)),
        windows(machine),
        routes("AR00", |device, pin| {
            let gsi = ports::pci_interrupt(device, pin);
            (Box::new(ZERO), gsi)
        }),
        routes("PR00", |device, pin| {
            let letter = char::from(WIRES[usize::from(ports::pci_wire(device, pin) & 7)]);
            let link = Path::new(&format!("\\_SB_.PCI0.ISA_.LNK{letter}"));
            (Box::new(link), 0)
        }),
        choose_routes(),
        operating_system_capabilities(),
    ];
    own.extend(children);
    device("PCI0", &own)
}

fn windows(machine: &Machine) -> Object {
    let not_cacheable = AddressSpaceCacheable::NotCacheable;
    let low = AddressSpace::new_memory(
        not_cacheable,
        true,
        dword(PCI_WINDOW_BASE),
        dword(PCI_WINDOW_BASE + PCI_WINDOW_SIZE - 1),
        None,
    );
    let high = AddressSpace::new_memory(
        not_cacheable,
        true,
        PCI_WINDOW64_BASE,
        PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE - 1,
        None,
    );
    resources(&[
        Box::new(AddressSpace::new_bus_number(0_u16, machine.last_bus.into())),
        io(0xCF8, 8),
        Box::new(AddressSpace::new_io(0_u16, 0xCF7, None)),
        Box::new(AddressSpace::new_io(0xD00_u16, 0xFFFF, None)),
        Box::new(low),
        Box::new(high),
    ])
}

/// A table of INTx for each device on bus 0: to what `end` says of device and pin (ACPI 6.5, 6.2.13).
fn routes(name: &str, end: impl Fn(u8, u8) -> (Object, u8)) -> Object {
    let mut routes = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..4_u8 {
            let address = u32::from(device) << 16 | 0xFFFF;
            let (source, index) = end(device, pin);
            routes.add_element(&Package::new(vec![&address, &pin, &*source, &index]));
        }
    }
    Box::new(Name::new(name.into(), &routes))
}

/// `_PRT`: straight to IOAPIC pins, or for a guest without IOAPIC to the links.
fn choose_routes() -> Object {
    let (by_apic, by_link) = (Path::new("AR00"), Path::new("PR00"));
    let return_apic = Return::new(&by_apic);
    encoded(&Method::new(
        "_PRT".into(),
        0,
        false,
        vec![
            &If::new(&Path::new("PICF"), vec![&return_apic]),
            &Return::new(&by_link),
        ],
    ))
}

/// Returns the wires' registers in the ISA bridge, and a link device for each (ACPI 6.5, 6.2.13).
pub(super) fn links() -> Vec<Object> {
    let registers = OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &0x60_u8, &0x0C_u8);
    let name = |letter: &u8| FieldEntry::Named([b'P', b'R', b'Q', *letter], 8);
    let (low, high) = WIRES.split_at(4);
    let mut entries: Vec<FieldEntry> = low.iter().map(name).collect();
    entries.push(FieldEntry::Reserved(32));
    entries.extend(high.iter().map(name));
    let fields = Field::new(
        "PIRQ".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        entries,
    );
    let mut objects = vec![encoded(&registers), encoded(&fields)];
    objects.extend((1..).zip(WIRES).map(|(id, letter)| link(id, *letter)));
    objects
}

fn link(id: u8, letter: u8) -> Object {
    let letter = char::from(letter);
    let register = Path::new(&format!("PRQ{letter}"));
    let possible = ResourceTemplate::new(vec![&Interrupts(&CONNECTABLE)]);
    let disconnect = Or::new(&register, &register, &DISCONNECTED);
    device(
        &format!("LNK{letter}"),
        &[
            hid("PNP0C0F"),
            uid(id),
            Box::new(Name::new("_PRS".into(), &possible)),
            link_status(&register),
            encoded(&Method::new("_DIS".into(), 0, false, vec![&disconnect])),
            link_current(&register),
            link_set(&register),
        ],
    )
}

/// `_STA` (ACPI 6.5, 6.3.7): present, functioning, and enabled while connected.
fn link_status(register: &Path) -> Object {
    let is_disconnected = And::new(&ZERO, register, &DISCONNECTED);
    let (disabled, enabled) = (0x09_u8, 0x0B_u8);
    let return_disabled = Return::new(&disabled);
    encoded(&Method::new(
        "_STA".into(),
        0,
        false,
        vec![
            &If::new(&is_disconnected, vec![&return_disabled]),
            &Return::new(&enabled),
        ],
    ))
}

/// `_CRS`: the interrupt it is connected to, 0 for none.
fn link_current(register: &Path) -> Object {
    let (buffer, number) = (Path::new("BUF0"), Path::new("NUM0"));
    let none = ResourceTemplate::new(vec![&Interrupts(&[0])]);
    let is_disconnected = And::new(&ZERO, register, &DISCONNECTED);
    let connected = And::new(&number, register, &0x0F_u8);
    encoded(&Method::new(
        "_CRS".into(),
        0,
        true,
        vec![
            &Name::new("BUF0".into(), &none),
            &CreateDWordField::new(&number, &buffer, &INTERRUPT_NUMBER),
            &If::new(&Equal::new(&is_disconnected, &ZERO), vec![&connected]),
            &Return::new(&buffer),
        ],
    ))
}

/// `_SRS`: connects it to the interrupt chosen.
fn link_set(register: &Path) -> Object {
    let number = Path::new("NUM0");
    encoded(&Method::new(
        "_SRS".into(),
        1,
        true,
        vec![
            &CreateDWordField::new(&number, &Arg(0), &INTERRUPT_NUMBER),
            &Store::new(register, &number),
        ],
    ))
}

/// Extended interrupt descriptor (ACPI 6.5, 6.4.3.6): one of these, level-triggered, active low, shared.
struct Interrupts<'a>(&'a [u32]);

impl Aml for Interrupts<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        const DESCRIPTOR: u8 = 0x89;
        const CONSUMER_LEVEL_LOW_SHARED: u8 = 0b1101;
        let count = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        sink.byte(DESCRIPTOR);
        sink.word(2 + 4 * u16::from(count));
        sink.byte(CONSUMER_LEVEL_LOW_SHARED);
        sink.byte(count);
        for number in self.0.iter().take(count.into()) {
            sink.dword(*number);
        }
    }
}

/// `_OSC` of a PCI host bridge (ACPI 6.5, 6.2.11.3).
fn operating_system_capabilities() -> Object {
    let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
    let granted = Local(0);
    let grant = And::new(&granted, &control, &OSC_GRANTED);
    let (revision, masked) = (0x08_u8, 0x10_u8);
    let add_revision = Or::new(&status, &status, &revision);
    let add_masked = Or::new(&status, &status, &masked);
    let unrecognized = Or::new(&status, &status, &0x04_u8);
    let uuid = Uuid::new(PCI_OSC);
    encoded(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &uuid),
                vec![
                    &CreateDWordField::new(&control, &Arg(3), &8_u8),
                    &grant,
                    &If::new(&NotEqual::new(&Arg(1), &ONE), vec![&add_revision]),
                    &If::new(&NotEqual::new(&control, &granted), vec![&add_masked]),
                    &Store::new(&control, &granted),
                ],
            ),
            &Else::new(vec![&unrecognized]),
            &Return::new(&Arg(3)),
        ],
    ))
}
