//! The tables for firmware that puts them where it likes: files, and the script by which it links them.

use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;

use super::{
    ALIGNMENT, AcpiError, Devices, Linked, Machine, OEM_ID, Places, Presence, Region, Target,
    bytes_of,
};
use crate::layout::{TPM_PPI_BASE, guest};
use crate::loader_script::{LoaderScript, Zone};

/// The name of the tables' file.
pub(super) const TABLES: &str = "etc/acpi/tables";
/// The name of the RSDP's file.
pub(super) const RSDP: &str = "etc/acpi/rsdp";
/// The name of the TPM's log.
pub(super) const LOG: &str = "etc/tpm/log";
/// The name of what tells firmware where requests of physical presence are.
pub(super) const TPM_CONFIGURATION: &str = "etc/tpm/config";
/// The name of the script.
pub(super) const SCRIPT: &str = "etc/table-loader";

/// Offset of a table's checksum (ACPI 6.5, 5.2.6).
const CHECKSUM: usize = 9;
/// Offsets in the RSDP (ACPI 6.5, 5.2.5.3): the XSDT's address, and the checksums of its first 20 bytes and of all 36.
const RSDP_XSDT: u32 = 24;
const RSDP_CHECKSUMS: [(usize, u32); 2] = [(8, 20), (32, 36)];

/// Returns the files by which firmware of the guest's gets the tables, by name and content.
///
/// # Errors
/// As for [`super::build`].
pub fn for_firmware(machine: &Machine) -> Result<Vec<(&'static str, Vec<u8>)>, AcpiError> {
    // Addresses are offsets until the script makes them more. The FACS comes first, as it needs its alignment most.
    let mut region = Region::new(0);
    let facs = region.add(&bytes_of(&FACS::new()));
    let places = Places {
        facs,
        presence: Presence::Firmware,
        log: 0..guest::TPM_LOG_SIZE,
    };
    let xsdt = region.assemble(machine, &places)?;
    let mut rsdp = bytes_of(&Rsdp::new(OEM_ID, xsdt));
    clear(&mut rsdp, RSDP_CHECKSUMS.map(|(place, _)| place));
    let Region {
        mut bytes, linked, ..
    } = region;
    clear(
        &mut bytes,
        linked.iter().map(|it| it.table.start + CHECKSUM),
    );
    let script = script(machine, &linked);
    let mut files = vec![(TABLES, bytes), (RSDP, rsdp), (SCRIPT, script.into_bytes())];
    if machine.devices.contains(Devices::TPM) {
        let bytes = usize::try_from(guest::TPM_LOG_SIZE).unwrap_or(0);
        files.push((LOG, vec![0; bytes]));
        files.push((TPM_CONFIGURATION, tpm_configuration()));
    }
    Ok(files)
}

/// Where the requests are, that the TPM is one of version 2.0, and that the interface is of version 1.30 (QEMU `docs/specs/tpm.rst`).
fn tpm_configuration() -> Vec<u8> {
    let [a, b, c, d, ..] = TPM_PPI_BASE.to_le_bytes();
    vec![a, b, c, d, 2, 1]
}

fn script(machine: &Machine, linked: &[Linked]) -> LoaderScript {
    let mut script = LoaderScript::default();
    script.allocate(TABLES, number(ALIGNMENT), Zone::High);
    if machine.devices.contains(Devices::TPM) {
        script.allocate(LOG, 1, Zone::High);
    }
    script.allocate(RSDP, 16, Zone::FSegment);
    for Linked { table, pointers } in linked {
        for pointer in pointers {
            let to = match pointer.target {
                Target::Table => TABLES,
                Target::Log => LOG,
            };
            let offset = number(table.start + pointer.offset);
            script.add_pointer((TABLES, offset), pointer.bytes, to);
        }
        let (start, len) = (number(table.start), number(table.len()));
        script.add_checksum(TABLES, number(table.start + CHECKSUM), start, len);
    }
    script.add_pointer((RSDP, RSDP_XSDT), 8, TABLES);
    for (place, len) in RSDP_CHECKSUMS {
        script.add_checksum(RSDP, number(place), 0, len);
    }
    script
}

/// A checksum is that of a zero in its place until it is made.
fn clear(bytes: &mut [u8], checksums: impl IntoIterator<Item = usize>) {
    for place in checksums {
        if let Some(byte) = bytes.get_mut(place) {
            *byte = 0;
        }
    }
}

/// A number of bytes in tables that are far below 4 GiB.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
