//! What firmware of the guest's finds in its machine, put together at the start.

use alloc::string::String;
use alloc::vec::Vec;

use stockade_abi::terminate::StopReason;
use stockade_boot::manifest::{Manifest, Start};
use stockade_boot::payload::{self, PayloadError};
use stockade_devices::fw_cfg::{File, FileError};
use stockade_paravisor::firmware_files::{self, Facts};
use stockade_paravisor::machine::FirmwareFittings;
use stockade_platform::Launch;
use stockade_platform::memory::GuestRam;

use crate::adapters::Staging;
use crate::fit::Fit;

/// Returns what firmware finds in its machine, if firmware starts the guest.
pub(crate) fn fittings(
    launch: &Launch,
    ram: &'static GuestRam,
    fit: &Fit,
) -> Result<Option<FirmwareFittings>, StopReason> {
    if launch.manifest.start() == Start::Kernel {
        return Ok(None);
    }
    let [signature, _, _, features] = launch.cpuid.own_answer(1, 0);
    let vcpus = launch.parameters.vcpu_count;
    let files = firmware_files::files(&Facts {
        manifest: &launch.manifest,
        store: fit.bays.records().and_then(|records| records.store()),
        vcpus,
        ram: *ram.map(),
        processor_id: [signature, features],
        boot_order: &fit.boot_order,
    });
    let mut files = files.map_err(|error| {
        log::error!("{error}");
        StopReason::MANIFEST_INVALID
    })?;
    files.extend(items(&launch.manifest, ram)?);
    Ok(Some(FirmwareFittings {
        memory: ram,
        vcpus: u16::try_from(vcpus).unwrap_or(u16::MAX),
        ram: *ram.map(),
        files,
        surface: fit.bays.screen().map(|screen| screen.surface().clone()),
    }))
}

/// Returns the files of the firmware's configuration device that the image brings.
fn items(manifest: &Manifest, ram: &'static GuestRam) -> Result<Vec<File>, StopReason> {
    let mut files = Vec::new();
    for (item, name) in manifest.firmware_items() {
        let read = |file| {
            payload::read(file, &mut Staging(ram)).map_err(|error| {
                log::error!("{error}");
                match error {
                    PayloadError::Digest(_) => StopReason::FIRMWARE_DIGEST_MISMATCH,
                    PayloadError::Unreadable { .. } => StopReason::PAYLOAD_MISSING,
                }
            })
        };
        let name = name.map(read).transpose()?.unwrap_or_default();
        let file = File::try_new(&String::from_utf8_lossy(&name), read(item)?);
        let file = file.and_then(|file| {
            match files.iter().any(|other: &File| other.name() == file.name()) {
                true => Err(FileError::Duplicate(file.name().into())),
                false => Ok(file),
            }
        });
        files.push(file.map_err(|error| {
            log::error!("{error}");
            StopReason::MANIFEST_INVALID
        })?);
    }
    Ok(files)
}
