//! What the firmware's ACPI tables say of the machine: its processors, IOAPIC, PM timer and IOMMU.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiTable, AcpiTables, PhysicalMapping};

use super::memory::HostPa;

/// The parts of the ACPI tables the model wants.
#[derive(Debug)]
pub(super) struct Tables {
    /// APIC ids of the processors that can be started, the present one among them.
    pub(super) apic_ids: Vec<u32>,
    /// Address of the IOAPIC.
    pub(super) ioapic: Option<u64>,
    /// Port of the PM timer.
    pub(super) pm_timer_port: Option<u16>,
    /// Address of the IOMMU's registers.
    pub(super) iommu: Option<u64>,
}

impl Tables {
    /// Reads the tables of the firmware.
    ///
    /// # Safety
    ///
    /// 1. `rsdp` is where the loader says the RSDP is, or 0 on a PC BIOS.
    /// 2. Nothing has overwritten the firmware's tables.
    pub(super) unsafe fn read(rsdp: u64) -> Result<Self, AcpiError> {
        let tables = match usize::try_from(rsdp) {
            // SAFETY: (1) without an address from the loader this is a PC BIOS.
            Err(_) | Ok(0) => unsafe { AcpiTables::search_for_rsdp_bios(Direct) }?,
            // SAFETY: (1) the loader vouches for the address.
            Ok(address) => unsafe { AcpiTables::from_rsdp(Direct, address) }?,
        };
        let madt = tables.find_table::<Madt>()?;
        let mut found = Self {
            apic_ids: Vec::new(),
            ioapic: None,
            pm_timer_port: pm_timer(&tables),
            iommu: iommu(&tables),
        };
        for entry in madt.get().entries() {
            match entry {
                MadtEntry::LocalApic(local) if local.flags & 1 != 0 => {
                    found.apic_ids.push(local.apic_id.into())
                }
                MadtEntry::IoApic(ioapic) => found.ioapic = Some(ioapic.io_apic_address.into()),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn pm_timer(tables: &AcpiTables<Direct>) -> Option<u16> {
    let fadt = tables.find_table::<Fadt>().ok()?;
    let block = fadt.pm_timer_block().ok()??;
    u16::try_from(block.address).ok()
}

/// DMA remapping reporting table. VT-d, 8.1. Its structures follow.
#[repr(C, packed)]
struct Dmar {
    header: SdtHeader,
    address_width: u8,
    flags: u8,
    reserved: [u8; 10],
}

// SAFETY: the layout is the specification's, and begins with the header.
unsafe impl AcpiTable for Dmar {
    const SIGNATURE: Signature = Signature::DMAR;

    fn header(&self) -> &SdtHeader {
        &self.header
    }
}

/// Registers of the first remapping unit.
fn iommu(tables: &AcpiTables<Direct>) -> Option<u64> {
    let table = tables.find_table::<Dmar>().ok()?;
    let start: *const u8 = table.virtual_start().as_ptr().cast::<u8>().cast_const();
    // SAFETY: that many bytes are mapped.
    let bytes = unsafe { core::slice::from_raw_parts(start, table.region_length()) };
    first_unit(bytes.get(size_of::<Dmar>()..)?)
}

/// Finds the register base of the first remapping unit (type 0) among the table's structures. VT-d, 8.3.
fn first_unit(mut structures: &[u8]) -> Option<u64> {
    while let [a, b, c, d, ..] = *structures {
        let length = usize::from(u16::from_le_bytes([c, d])).max(4);
        if u16::from_le_bytes([a, b]) == 0 {
            let base = structures.get(8..)?.first_chunk()?;
            return Some(u64::from_le_bytes(*base));
        }
        structures = structures.get(length..)?;
    }
    None
}

/// All memory is mapped one to one.
#[derive(Clone)]
struct Direct;

impl AcpiHandler for Direct {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let start =
            NonNull::new(HostPa::new(address as u64).as_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: the caller vouches for the address, and memory is always mapped.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[cfg(test)]
mod tests {
    use super::first_unit;

    #[test]
    fn the_first_remapping_unit_is_found_behind_other_structures() {
        let mut structures = vec![1, 0, 8, 0, 9, 9, 9, 9];
        assert_eq!(first_unit(&structures), None);
        structures.extend_from_slice(&[0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xD9, 0xFE, 0, 0, 0, 0]);
        assert_eq!(first_unit(&structures), Some(0xFED9_0000));
        assert_eq!(first_unit(&structures[..20]), None);
        assert_eq!(first_unit(&[2, 0, 0, 0]), None);
    }
}
