//! The files firmware of the guest's reads from its configuration device: what machine it is on, and the tables for whoever it starts.
//!
//! All of it is made here of what is measured and of what the paravisor knows. Of the host are two numbers, how many vCPUs there are and
//! where memory ends, which `stockade_boot::parameters` has checked, and what a machine with a state is told from others by.

use alloc::vec::Vec;

use sha2::{Digest, Sha384};
use stockade_boot::acpi::{self, AcpiError, Devices};
use stockade_boot::manifest::{GuestFlags, Manifest};
use stockade_boot::measured;
use stockade_boot::memory_map::{E820Entry, E820Kind};
use stockade_boot::ram::RamMap;
use stockade_boot::smbios;
use stockade_devices::fw_cfg::{File, FileError, ramfb};
use zerocopy::IntoBytes;

use crate::boot_order::BootOrder;

/// QEMU's `etc/system-states`, a byte a state: bit 7 says that there is it, the rest is its sleep type. S0 and S5 there are.
const SYSTEM_STATES: [u8; 6] = [1 << 7, 0, 0, 1, 2, 1 << 7];

/// The log of what was measured before the firmware, which its own log does not know.
const EARLY_LOG: &str = "etc/tpm/early-log";

/// Why there are no files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// No ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Not a name, or two of them.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the files are of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the image is.
    pub manifest: &'a Manifest,
    /// The identity of its sealed store, if it has one.
    pub store: Option<[u8; 16]>,
    /// How many vCPUs.
    pub vcpus: u32,
    /// The memory.
    pub ram: RamMap,
    /// CPUID leaf 1: EAX and EDX.
    pub processor_id: [u32; 2],
    /// What it is to start from.
    pub boot_order: &'a BootOrder,
}

/// Returns the files of a machine.
///
/// # Errors
/// There are more processors than tables can name.
pub fn files(facts: &Facts<'_>) -> Result<Vec<File>, FilesError> {
    let mut machine = acpi::Machine::new(facts.vcpus, facts.manifest.flags());
    machine.devices.insert(Devices::FW_CFG);
    // Nothing is plugged into the keyboard controller.
    machine.devices.remove(Devices::I8042);
    let mut files = Vec::new();
    for (name, content) in acpi::for_firmware(&machine)? {
        files.push(File::try_new(name, content)?);
    }
    let tables = smbios::tables(&smbios::Machine {
        vcpus: u16::try_from(facts.vcpus).unwrap_or(u16::MAX),
        ram: facts.ram,
        uuid: uuid(facts),
        version: env!("CARGO_PKG_VERSION"),
        processor_id: facts.processor_id,
    });
    files.push(File::try_new(smbios::ANCHOR, smbios::anchor(&tables))?);
    files.push(File::try_new(smbios::TABLES, tables)?);
    if let Some(order) = facts.boot_order.file() {
        files.push(File::try_new("bootorder", order)?);
    }
    if facts.manifest.flags().contains(GuestFlags::SCREEN) {
        files.push(File::try_writable(ramfb::NAME, ramfb::BYTES)?);
    }
    files.push(File::try_new("etc/e820", memory_map(&facts.ram))?);
    files.push(File::try_new("etc/system-states", SYSTEM_STATES.to_vec())?);
    if facts.manifest.flags().contains(GuestFlags::TPM) {
        let log = measured::log(&measured::measurements(facts.manifest));
        files.push(File::try_new(EARLY_LOG, log)?);
    }
    Ok(files)
}

/// The ranges of RAM, all of them the firmware's.
fn memory_map(ram: &RamMap) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in ram.ranges() {
        let entry = E820Entry {
            address: range.start.into(),
            len_bytes: (range.end - range.start).into(),
            kind: E820Kind::RAM,
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

/// Tells machines apart that keep a state; of others all of one image are the same.
///
/// A store's identity is the host's to choose when it makes the store. That may make two machines look like one, but like none in particular.
fn uuid(facts: &Facts<'_>) -> [u8; 16] {
    match facts.store {
        Some(store) => {
            let digest = Sha384::new_with_prefix(b"stockade smbios uuid 1").chain_update(store);
            smbios::uuid(&digest.finalize())
        }
        None => smbios::uuid(&facts.manifest.digest()),
    }
}

#[cfg(test)]
mod tests {
    use stockade_boot::layout::STAGING_BASE;
    use stockade_boot::manifest::{Payload, PayloadKind};

    use super::*;

    fn facts_of(flags: GuestFlags) -> Manifest {
        let kernel = Payload::new(PayloadKind::KERNEL, STAGING_BASE, 1, [0; 48]);
        Manifest::new(51, 4, flags, &[kernel]).unwrap()
    }

    fn names(flags: GuestFlags) -> Vec<std::string::String> {
        let manifest = facts_of(flags);
        let files = files(&Facts {
            manifest: &manifest,
            store: None,
            vcpus: 4,
            ram: RamMap::of_size(4 << 30).unwrap(),
            processor_id: [1, 2],
            boot_order: &BootOrder::default(),
        });
        let files = files.unwrap();
        files.iter().map(|file| file.name().into()).collect()
    }

    #[test]
    fn stock_firmware_finds_the_files_it_asks_for() {
        let names = names(GuestFlags::TPM);
        for name in [
            "etc/acpi/rsdp",
            "etc/acpi/tables",
            "etc/e820",
            "etc/smbios/smbios-anchor",
            "etc/smbios/smbios-tables",
            "etc/system-states",
            "etc/table-loader",
            "etc/tpm/config",
            "etc/tpm/early-log",
            "etc/tpm/log",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }

    #[test]
    fn machines_with_a_state_have_identities_of_their_own() {
        let manifest = facts_of(GuestFlags::empty());
        let uuid = |store| {
            uuid(&Facts {
                manifest: &manifest,
                store,
                vcpus: 4,
                ram: RamMap::of_size(4 << 30).unwrap(),
                processor_id: [1, 2],
                boot_order: &BootOrder::default(),
            })
        };
        let all = [None, Some([1; 16]), Some([2; 16])].map(uuid);
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        assert_eq!(uuid(Some([1; 16])), all[1]);
        // Version 8, of RFC 9562's variant.
        assert!(all.iter().all(|it| it[7] >> 4 == 8 && it[8] >> 6 == 2));
    }

    #[test]
    fn memory_map_is_all_ram() {
        let ram = RamMap::of_size(4 << 30).unwrap();
        let map = memory_map(&ram);
        assert_eq!(map.len(), 40);
        assert_eq!(map[..8], [0; 8]);
        assert_eq!(map[8..16], 0xB000_0000_u64.to_le_bytes());
        assert_eq!(map[16..20], [1, 0, 0, 0]);
        assert_eq!(map[20..28], 0x1_0000_0000_u64.to_le_bytes());
    }
}
