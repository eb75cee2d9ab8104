//! The ACPI tables of the guest's machine (ACPI 6.5), a Q35 PC with legacy hardware.
//!
//! [`build`] returns them with their places: RSDP below 1 MiB, FACS in never-reclaimed memory, everything else in the range the
//! memory map calls reclaimable. The fixed hardware of [`ports`] is what the devices must answer. There is no SMI command
//! port, which means that the machine is in ACPI mode from the start: `SCI_EN` reads as set.

mod dsdt;
mod fadt;
mod fixed;
mod madt;
pub mod ports;

use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use bitflags::bitflags;

use crate::launch::Write;
use crate::layout::guest;
use crate::manifest::GuestFlags;
use crate::ram::RamMap;

const OEM_ID: [u8; 6] = *b"PCQ35 ";
const OEM_TABLE_ID: [u8; 8] = *b"PCQ35   ";
const OEM_REVISION: u32 = 1;
/// Processors are named C000 to CFFF; a test shows that the tables of so many fit into [`guest::ACPI_TABLES_SIZE`].
pub const MAX_PROCESSORS: u32 = 0x1000;
/// ACPI 6.5, 5.2.10: the FACS is 64-byte aligned; the others are not particular.
const ALIGNMENT: usize = 64;

bitflags! {
    /// Devices the machine may or may not have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Devices: u8 {
        /// High precision event timer.
        const HPET = 1 << 0;
        /// TPM 2.0 behind a command-response buffer.
        const TPM = 1 << 1;
        /// Keyboard controller.
        const I8042 = 1 << 2;
    }
}

/// The machine to be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How many vCPUs; their APIC ids count up from 0.
    pub vcpu_count: u32,
    /// The last PCI bus; the fewer there are the fewer a guest scans.
    pub last_bus: u8,
    /// Which optional devices it has.
    pub devices: Devices,
}

impl Machine {
    /// Returns the machine that a manifest's flags ask for: one PCI bus, a keyboard controller.
    #[must_use]
    pub fn new(vcpu_count: u32, flags: GuestFlags) -> Self {
        let mut devices = Devices::I8042;
        devices.set(Devices::HPET, flags.contains(GuestFlags::HPET));
        devices.set(Devices::TPM, flags.contains(GuestFlags::TPM));
        Self {
            vcpu_count,
            last_bus: 0,
            devices,
        }
    }
}

/// Why there are no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// More vCPUs than [`MAX_PROCESSORS`].
    #[error("{0} vCPUs, ACPI names for {MAX_PROCESSORS} are there")]
    TooManyProcessors(u32),
}

/// Returns what to write where in guest memory; the RSDP is at [`guest::RSDP`].
pub fn build(machine: &Machine, ram: &RamMap) -> Result<Vec<Write>, AcpiError> {
    if machine.vcpu_count > MAX_PROCESSORS {
        return Err(AcpiError::TooManyProcessors(machine.vcpu_count));
    }
    let facs = ram.acpi_nvs().start;
    let mut region = Region {
        start: ram.acpi_tables().start,
        bytes: Vec::new(),
    };
    let dsdt = region.add(&dsdt::dsdt(machine, ram));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in tables(machine, ram, dsdt) {
        xsdt.add_entry(region.add(&table));
    }
    let xsdt = region.add(&bytes_of(&xsdt));
    Ok(vec![
        (guest::RSDP, bytes_of(&Rsdp::new(OEM_ID, xsdt))),
        (region.start, region.bytes),
        (facs, bytes_of(&FACS::new())),
    ])
}

/// The tables the XSDT names.
fn tables(machine: &Machine, ram: &RamMap, dsdt: u64) -> Vec<Vec<u8>> {
    let mut tables = vec![
        fadt::fadt(machine, dsdt, ram.acpi_nvs().start),
        madt::madt(machine),
        fixed::mcfg(machine),
        fixed::waet(),
    ];
    if machine.devices.contains(Devices::HPET) {
        tables.push(fixed::hpet());
    }
    if machine.devices.contains(Devices::TPM) {
        tables.push(fixed::tpm2(ram));
    }
    tables
}

fn bytes_of(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// Tables one after the other.
struct Region {
    start: u64,
    bytes: Vec<u8>,
}

impl Region {
    /// Appends a table and returns its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = self.start + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

#[cfg(test)]
mod tests;
