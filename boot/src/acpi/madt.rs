//! The MADT: local APICs, the IOAPIC and how ISA interrupts reach it (ACPI 6.5, 5.2.12).

use alloc::vec::Vec;

use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of, ports};
use crate::layout::{IOAPIC_BASE, LAPIC_BASE};

const HEADER_BYTES: u32 = 44;
const REVISION: u8 = 4;
/// The machine also has a pair of 8259s.
const PCAT_COMPAT: u32 = 1 << 0;
/// The greatest APIC id of an xAPIC entry: 255 is broadcast.
const MAX_XAPIC_ID: u32 = 254;
const ENABLED: u32 = 1;
/// MPS INTI flags (ACPI 6.5, table 5.26): active high, level-triggered.
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// As the ISA bus has it: active high, edge-triggered.
const AS_BUS: u16 = 0;

/// Processor Local x2APIC (ACPI 6.5, 5.2.12.12).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalX2Apic {
    kind: u8,
    len_bytes: u8,
    reserved: U16,
    x2apic_id: U32,
    flags: U32,
    processor_uid: U32,
}

/// Interrupt Source Override (ACPI 6.5, 5.2.12.5).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct SourceOverride {
    kind: u8,
    len_bytes: u8,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

/// Local APIC NMI (ACPI 6.5, 5.2.12.7).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApicNmi {
    kind: u8,
    len_bytes: u8,
    processor_uid: u8,
    flags: U16,
    lint: u8,
}

/// Local x2APIC NMI (ACPI 6.5, 5.2.12.13).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalX2ApicNmi {
    kind: u8,
    len_bytes: u8,
    flags: U16,
    processor_uid: U32,
    lint: u8,
    reserved: [u8; 3],
}

/// Returns the table.
#[expect(
    clippy::cast_possible_truncation,
    reason = "both bases are below 4 GiB by layout"
)]
pub(super) fn madt(machine: &Machine) -> Vec<u8> {
    let mut structures = Vec::new();
    for id in 0..machine.vcpu_count {
        structures.extend(processor(id));
    }
    let io_apic = IoApic::new(ports::IOAPIC_ID, IOAPIC_BASE as u32, 0);
    structures.extend(bytes_of(&io_apic));
    structures.extend(source_override(0, 2, AS_BUS));
    structures.extend(source_override(ports::SCI, ports::SCI, ACTIVE_HIGH_LEVEL));
    structures.extend_from_slice(
        LocalApicNmi {
            kind: 4,
            len_bytes: 6,
            processor_uid: 0xFF,
            flags: U16::ZERO,
            lint: 1,
        }
        .as_bytes(),
    );
    if machine.vcpu_count > MAX_XAPIC_ID + 1 {
        structures.extend(x2apic_nmi());
    }
    let mut madt = Sdt::new(
        *b"APIC",
        HEADER_BYTES,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    madt.write_u32(36, LAPIC_BASE as u32);
    madt.write_u32(40, PCAT_COMPAT);
    madt.append_slice(&structures);
    madt.as_slice().to_vec()
}

/// The processor's UID in the namespace is its APIC id.
fn processor(id: u32) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(id) if u32::from(id) <= MAX_XAPIC_ID => {
            bytes_of(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled))
        }
        _ => LocalX2Apic {
            kind: 9,
            len_bytes: 16,
            reserved: U16::ZERO,
            x2apic_id: id.into(),
            flags: ENABLED.into(),
            processor_uid: id.into(),
        }
        .as_bytes()
        .to_vec(),
    }
}

fn source_override(source: u8, pin: u8, flags: u16) -> Vec<u8> {
    let entry = SourceOverride {
        kind: 2,
        len_bytes: 10,
        bus: 0,
        source,
        gsi: u32::from(pin).into(),
        flags: flags.into(),
    };
    entry.as_bytes().to_vec()
}

fn x2apic_nmi() -> Vec<u8> {
    let entry = LocalX2ApicNmi {
        kind: 10,
        len_bytes: 12,
        flags: U16::ZERO,
        processor_uid: u32::MAX.into(),
        lint: 1,
        reserved: [0; 3],
    };
    entry.as_bytes().to_vec()
}
