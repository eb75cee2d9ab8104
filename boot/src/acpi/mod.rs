//! The ACPI tables of the guest's machine (ACPI 6.5), a Q35 PC with legacy hardware.
//!
//! [`build`] returns them with their places: RSDP below 1 MiB, FACS in never-reclaimed memory, everything else in the range the
//! memory map calls reclaimable. [`for_firmware`] returns them for firmware of the guest's, which chooses the places itself. The fixed hardware of [`ports`] is what the devices must answer. There is no SMI command
//! port, which means that the machine is in ACPI mode from the start: `SCI_EN` reads as set.

mod dsdt;
mod fadt;
mod fixed;
mod linked;
mod madt;
pub mod ports;

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use bitflags::bitflags;

use crate::launch::Write;
use crate::layout::guest;
use crate::manifest::GuestFlags;
use crate::ram::RamMap;

pub use linked::for_firmware;

const OEM_ID: [u8; 6] = *b"PCQ35 ";
const OEM_TABLE_ID: [u8; 8] = *b"PCQ35   ";
const OEM_REVISION: u32 = 1;
/// Processors are named C000 to CFFF; a test shows that the tables of so many fit into [`guest::ACPI_TABLES_SIZE`].
pub const MAX_PROCESSORS: u32 = 0x1000;
/// ACPI 6.5, 5.2.10: the FACS is 64-byte aligned; the others are not particular.
const ALIGNMENT: usize = 64;
/// Bytes of the header that tables begin with (ACPI 6.5, 5.2.6).
const HEADER_BYTES: usize = 36;

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
        /// The firmware configuration device.
        const FW_CFG = 1 << 3;
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
    let facs = ram.acpi_nvs().start;
    let places = Places {
        facs,
        presence: Presence::Absent {
            memory_clear_request: ram.memory_clear_request(),
        },
        log: ram.tpm_log(),
    };
    let mut region = Region::new(ram.acpi_tables().start);
    let xsdt = region.assemble(machine, &places)?;
    Ok(vec![
        (guest::RSDP, bytes_of(&Rsdp::new(OEM_ID, xsdt))),
        (region.start, region.bytes),
        (facs, bytes_of(&FACS::new())),
    ])
}

/// Who takes the requests that need somebody present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Nobody. Memory is cleared by whoever starts the guest, who is asked by this byte.
    Absent { memory_clear_request: u64 },
    /// Firmware, in its own way.
    Firmware,
}

/// Where things lie that tables point to.
#[derive(Clone, Debug)]
struct Places {
    facs: u64,
    presence: Presence,
    log: Range<u64>,
}

/// The tables the XSDT names, each with the addresses in it: offset, bytes, and of what.
fn tables(machine: &Machine, places: &Places, dsdt: u64) -> Vec<(Vec<u8>, &'static [Pointer])> {
    let mut tables = vec![
        (fadt::fadt(machine, dsdt, places.facs), fadt::POINTERS),
        (madt::madt(machine), &[][..]),
        (fixed::mcfg(machine), &[]),
        (fixed::waet(), &[]),
        (fixed::wsmt(), &[]),
        (fixed::spcr(), &[]),
    ];
    if machine.devices.contains(Devices::HPET) {
        tables.push((fixed::hpet(), &[]));
    }
    if machine.devices.contains(Devices::TPM) {
        tables.push((fixed::tpm2(&places.log), fixed::TPM2_POINTERS));
    }
    tables
}

fn bytes_of(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// What an address in a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Another table.
    Table,
    /// The TPM's log.
    Log,
}

/// An address in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointer {
    offset: usize,
    bytes: u8,
    target: Target,
}

impl Pointer {
    const fn to_table(offset: usize, bytes: u8) -> Self {
        let target = Target::Table;
        Self {
            offset,
            bytes,
            target,
        }
    }
}

/// A table with addresses in it: where it lies in the region, and they do.
#[derive(Clone, Debug)]
struct Linked {
    table: Range<usize>,
    pointers: Vec<Pointer>,
}

/// Tables one after the other.
struct Region {
    start: u64,
    bytes: Vec<u8>,
    linked: Vec<Linked>,
}

impl Region {
    fn new(start: u64) -> Self {
        Self {
            start,
            bytes: Vec::new(),
            linked: Vec::new(),
        }
    }

    /// Appends all tables and returns the address of the XSDT.
    fn assemble(&mut self, machine: &Machine, places: &Places) -> Result<u64, AcpiError> {
        if machine.vcpu_count > MAX_PROCESSORS {
            return Err(AcpiError::TooManyProcessors(machine.vcpu_count));
        }
        let dsdt = self.add(&dsdt::dsdt(machine, places.presence));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        let mut entries = Vec::new();
        for (table, pointers) in tables(machine, places, dsdt) {
            entries.push(Pointer::to_table(HEADER_BYTES + 8 * entries.len(), 8));
            xsdt.add_entry(self.add_linked(&table, pointers));
        }
        Ok(self.add_linked(&bytes_of(&xsdt), &entries))
    }

    fn add_linked(&mut self, table: &[u8], pointers: &[Pointer]) -> u64 {
        let address = self.add(table);
        let end = self.bytes.len();
        if !pointers.is_empty() {
            self.linked.push(Linked {
                table: end - table.len()..end,
                pointers: pointers.to_vec(),
            });
        }
        address
    }

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
