//! Firmware's variables at the start: the chip with what the store has of them, or with the image's template.

use alloc::boxed::Box;
use alloc::vec::Vec;

use stockade_abi::terminate::StopReason;
use stockade_boot::manifest::{Manifest, PayloadKind};
use stockade_boot::payload::{self, PayloadError};
use stockade_bus::Gpa;
use stockade_devices::pflash::Window;
use stockade_paravisor::variables::{self, Content, Variables};
use stockade_paravisor::virtio::Bays;
use stockade_platform::memory::GuestRam;

use crate::adapters::Staging;
use crate::store::Keeping;

/// The pages a guest reads the chip in.
struct Pages {
    ram: &'static GuestRam,
    base: Gpa,
}

impl Window for Pages {
    fn show(&self, offset: u32, bytes: &[u8]) {
        if let Some(gpa) = self.base.checked_add(offset.into()) {
            // Pages the host took away are for the guest to find missing.
            let _ = self.ram.write_rom(gpa, bytes);
        }
    }
}

/// Fits the chip, if the image has variables. A store that has them and cannot be read is no reason to begin anew: what is forbidden by
/// the variables must not be allowed by their loss.
pub(crate) fn fit(
    manifest: &Manifest,
    ram: &'static GuestRam,
    keeping: &Keeping,
    bays: &mut Bays,
) -> Result<(), StopReason> {
    let file = manifest.payload(PayloadKind::VARIABLES);
    let (Some(file), Some(place)) = (file, manifest.variables_range()) else {
        return Ok(());
    };
    // Checked even if it is not needed: a host that swaps files is stopped at the first start.
    let template = payload::read(file, &mut Staging(ram)).map_err(|error| {
        log::error!("{error}");
        match error {
            PayloadError::Digest(_) => StopReason::FIRMWARE_DIGEST_MISMATCH,
            PayloadError::Unreadable { .. } => StopReason::PAYLOAD_MISSING,
        }
    })?;
    let content = content(template, keeping)?;
    let records = match keeping {
        Keeping::In(records) => Some(records.clone()),
        Keeping::Nowhere | Keeping::Failed => None,
    };
    let base = Gpa(place.start);
    let pages = Box::new(Pages { ram, base });
    let attention = bays.attention_of_variables();
    let variables = Variables::try_new(base, pages, content, records, attention);
    let variables = variables.map_err(|error| {
        log::error!("firmware variables: {error}");
        StopReason::MANIFEST_INVALID
    })?;
    bays.keep_variables(variables);
    Ok(())
}

fn content(template: Vec<u8>, keeping: &Keeping) -> Result<Content, StopReason> {
    let records = match keeping {
        Keeping::In(records) => records,
        Keeping::Nowhere => {
            log::warn!("firmware variables: kept in memory alone, they end with the machine");
            return Ok(Content::Template(template));
        }
        Keeping::Failed => {
            log::error!("firmware variables: V06: the store that has them is missing");
            return Err(StopReason::VARIABLES_LOST);
        }
    };
    let kept = variables::read(records, template.len()).map_err(|error| {
        log::error!("firmware variables: {error}");
        StopReason::VARIABLES_LOST
    })?;
    Ok(match kept {
        Some(array) => {
            log::info!("firmware variables: from the sealed store");
            Content::Kept(array)
        }
        None => {
            log::info!("firmware variables: new, from the image");
            Content::Template(template)
        }
    })
}
