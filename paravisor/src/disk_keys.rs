//! Where the keys of sealed disks come from, at the start: the secure processor's secret, or whoever holds them elsewhere.
//!
//! A disk whose entry in the manifest names a key gets that one or none; how it is asked for is in `docs/key-release.md`.

use alloc::vec::Vec;

use stockade_abi::guest_message::{GuestFieldSelect, KeyRequest};
use stockade_abi::report::AttestationReport;
use stockade_backend::console::Console;
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::{Binding, DiskEntry, DiskMode, Manifest, Sealing};
use stockade_bus::Clock;
use stockade_paravisor::key_line::KeyLine;
use stockade_platform::Ghcb;
use stockade_platform::psp::Psp;
use stockade_platform::random;
use stockade_storage::release::{self, REPORT_BYTES};
use stockade_storage::{DiskKey, KeyId, RootSecret};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use crate::adapters::{PlatformHost, Time};
use crate::sealing::SealingError;

const _: () = assert!(size_of::<AttestationReport>() == REPORT_BYTES);

/// The labels of the disks' keys, by the place in the manifest.
const LABELS: [&str; 14] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13",
];

/// The keys of sealed disks, and of the store.
pub(crate) struct DiskKeys {
    secret: Result<RootSecret, SealingError>,
    released: Result<Vec<(KeyId, DiskKey)>, SealingError>,
}

impl DiskKeys {
    /// Asks for what the manifest's devices need and for nothing else. `console` opens the way to who holds the released keys.
    pub(crate) fn new(
        manifest: &Manifest,
        asking: &mut Asking<'_>,
        console: impl FnOnce(&mut PlatformHost) -> Result<Console<AnyShared>, SealingError>,
    ) -> Self {
        Self {
            secret: asking.secret(manifest),
            released: asking.released(manifest, console),
        }
    }

    /// Returns the secret that the store's key comes from.
    pub(crate) fn secret(&self) -> Result<&RootSecret, SealingError> {
        self.secret.as_ref().map_err(|error| *error)
    }

    /// Takes the key of a disk.
    pub(crate) fn take(&mut self, disk: &DiskEntry, index: u8) -> Result<DiskKey, SealingError> {
        let Some(id) = disk.key_id() else {
            let label = LABELS.get(usize::from(index)).unwrap_or(&"");
            return Ok(self.secret()?.disk_key(label));
        };
        let released = self.released.as_mut().map_err(|error| *error)?;
        let place = released.iter().position(|(found, _)| found.0 == *id);
        let place = place.ok_or(SealingError::Unasked)?;
        Ok(released.swap_remove(place).1)
    }
}

/// Whom keys are asked of, and by what way.
pub(crate) struct Asking<'a> {
    pub(crate) psp: &'a mut Psp,
    pub(crate) ghcb: &'a Ghcb,
    pub(crate) host: &'a mut PlatformHost,
    pub(crate) clock: &'a Time,
}

impl Asking<'_> {
    fn secret(&mut self, manifest: &Manifest) -> Result<RootSecret, SealingError> {
        let devices = manifest.devices();
        let is_ours = |disk: &DiskEntry| disk.mode() == DiskMode::SEALED && disk.key_id().is_none();
        if !devices.disks().any(is_ours) && devices.store().is_none() {
            return Err(SealingError::Unasked);
        }
        root_secret(self.psp, self.ghcb, manifest.sealing())
    }

    fn released(
        &mut self,
        manifest: &Manifest,
        console: impl FnOnce(&mut PlatformHost) -> Result<Console<AnyShared>, SealingError>,
    ) -> Result<Vec<(KeyId, DiskKey)>, SealingError> {
        let ids: Vec<KeyId> = manifest.devices().key_ids().copied().map(KeyId).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let begun_ns = self.clock.now_ns();
        let console = console(self.host)?;
        let mut entropy = Zeroizing::new([0; 32]);
        random::fill(&mut entropy[..])?;
        let (psp, ghcb) = (&mut *self.psp, self.ghcb);
        let attest = |data: &[u8; 64]| match psp.report(ghcb, data) {
            Ok(report) => report.as_bytes().try_into().ok(),
            Err(error) => {
                log::error!("no attestation report: {error}");
                None
            }
        };
        let mut line = KeyLine::new(console, self.host, self.clock);
        let keys = release::ask(&mut line, attest, &entropy, &ids);
        line.close();
        let keys = keys?;
        let us = self.clock.now_ns().saturating_sub(begun_ns) / 1000;
        log::info!(
            "{} disk keys released by their holder in {us} microseconds",
            keys.len()
        );
        Ok(ids.into_iter().zip(keys).collect())
    }
}

/// Returns the secret all keys of sealed disks and of the store come from: the secure processor's, on this chip, for what the manifest
/// binds it to.
fn root_secret(psp: &mut Psp, ghcb: &Ghcb, sealing: Sealing) -> Result<RootSecret, SealingError> {
    let fields = match sealing.binding() {
        Binding::FAMILY => {
            log::warn!(
                "sealed data is bound to the image's family: every image a host launches with these ids gets its keys"
            );
            GuestFieldSelect::FAMILY_ID
                | GuestFieldSelect::IMAGE_ID
                | GuestFieldSelect::GUEST_SVN
                | GuestFieldSelect::POLICY
        }
        _ => GuestFieldSelect::MEASUREMENT | GuestFieldSelect::POLICY,
    };
    let mut request = KeyRequest::default();
    request.root_key_select = KeyRequest::ROOT_VCEK;
    request.guest_field_select = fields.bits();
    request.guest_svn = sealing.svn();
    Ok(RootSecret::new(*psp.derived_key(ghcb, &request)?))
}
