//! What the firmware's ACPI tables say of the machine: its processors, IOAPIC and PM timer.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};

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
