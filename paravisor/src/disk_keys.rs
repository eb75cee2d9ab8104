//! Where the keys of sealed disks come from, at the start: the secure processor's secret, or whoever holds them elsewhere.
//!
//! A disk whose entry in the manifest names a key gets that one or none; how it is asked for is in `docs/key-release.md`.

use alloc::vec::Vec;

use stockade_abi::guest_message::{GuestFieldSelect, KeyRequest};
use stockade_abi::report::AttestationReport;
use stockade_abi::terminate::StopReason;
use stockade_backend::console::Console;
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::{Binding, DiskEntry, DiskMode, Manifest, Sealing};
use stockade_bus::Clock;
use stockade_paravisor::key_line::KeyLine;
use stockade_platform::Ghcb;
use stockade_platform::psp::{Psp, PspError};
use stockade_platform::random;
use stockade_storage::release::{self, REPORT_BYTES, RefusalCode, ReleaseError, Wanted};
use stockade_storage::{DiskKey, KeyId, RootSecret};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use crate::adapters::{PlatformHost, Time};
use crate::sealing::{PATIENCE_NS, SealingError};
use crate::store::Keeping;

const _: () = assert!(size_of::<AttestationReport>() == REPORT_BYTES);

/// The labels of the disks' keys, by the place in the manifest.
const LABELS: [&str; 14] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13",
];

/// How long after a host was too busy it is asked again.
const BUSY_PAUSE_NS: u64 = 1_000_000;

/// The secret that the keys of the store and of disks come from, unless a disk's is released elsewhere.
pub(crate) struct Secret(Result<RootSecret, SealingError>);

impl Secret {
    /// Asks the secure processor, if the manifest's devices need it.
    pub(crate) fn ask(manifest: &Manifest, psp: &mut Psp, ghcb: &Ghcb, clock: &Time) -> Self {
        let devices = manifest.devices();
        let is_ours = |disk: &DiskEntry| disk.mode() == DiskMode::SEALED && disk.key_id().is_none();
        if !devices.disks().any(is_ours) && devices.store().is_none() {
            return Self(Err(SealingError::Unasked));
        }
        let request = key_request(manifest.sealing());
        let secret = patiently(clock, || psp.derived_key(ghcb, &request));
        Self(
            secret
                .map(|secret| RootSecret::new(*secret))
                .map_err(SealingError::Key),
        )
    }

    /// Returns it.
    pub(crate) fn get(&self) -> Result<&RootSecret, SealingError> {
        self.0.as_ref().map_err(|error| *error)
    }
}

/// Keys by their ids, or why there are none.
type Released = Result<Vec<(KeyId, DiskKey)>, SealingError>;

/// The keys of sealed disks.
pub(crate) struct DiskKeys {
    secret: Secret,
    released: Released,
}

impl DiskKeys {
    /// Returns the keys that come from the secret and those that were released.
    pub(crate) fn new(secret: Secret, released: Released) -> Self {
        Self { secret, released }
    }

    /// A guest is not started with a store that whoever holds its disks' keys knows for an older copy: what is in it beside the disks' states, a
    /// TPM's and firmware's variables, would be older, too. A host that says so in the holder's name only denies.
    pub(crate) fn check_store(&self) -> Result<(), StopReason> {
        let old = ReleaseError::Refused(RefusalCode::OLD_STORE);
        match &self.released {
            Err(SealingError::Release(error)) if *error == old => {
                log::error!("sealed store: {error}");
                Err(StopReason::STORE_ROLLED_BACK)
            }
            _ => Ok(()),
        }
    }

    /// Takes the key of a disk.
    pub(crate) fn take(&mut self, disk: &DiskEntry, index: u8) -> Result<DiskKey, SealingError> {
        let Some(id) = disk.key_id() else {
            let label = LABELS.get(usize::from(index)).unwrap_or(&"");
            return Ok(self.secret.get()?.disk_key(label));
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
    /// What is open by now.
    pub(crate) keeping: &'a Keeping,
}

impl Asking<'_> {
    /// Asks for the keys the manifest names, if it names any, and tells who has them which starts the store remembers. `console` opens the way there.
    pub(crate) fn released(
        &mut self,
        manifest: &Manifest,
        console: impl FnOnce(&mut PlatformHost) -> Result<Console<AnyShared>, SealingError>,
    ) -> Released {
        let ids: Vec<KeyId> = manifest.devices().key_ids().copied().map(KeyId).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let begun_ns = self.clock.now_ns();
        let starts = self.keeping.begin_start(self.host, self.clock);
        let console = console(self.host)?;
        let mut entropy = Zeroizing::new([0; 32]);
        random::fill(&mut entropy[..])?;
        let (psp, ghcb, clock) = (&mut *self.psp, self.ghcb, self.clock);
        let attest = |data: &[u8; 64]| match patiently(clock, || psp.report(ghcb, data)) {
            Ok(report) => report.as_bytes().try_into().ok(),
            Err(error) => {
                log::error!("no attestation report: {error}");
                None
            }
        };
        let mut line = KeyLine::new(console, self.host, self.clock);
        let keys = release::ask(&mut line, attest, &entropy, Wanted { ids: &ids, starts });
        line.close();
        let keys = keys?;
        let us = self.clock.now_ns().saturating_sub(begun_ns) / 1000;
        log::info!(
            "{} disk keys released by their holder in {us} microseconds",
            keys.len()
        );
        if let Some(starts) = starts {
            self.keeping.confirm_start(starts);
            log::info!("their holder was told of the starts the sealed store remembers");
        }
        Ok(ids.into_iter().zip(keys).collect())
    }
}

/// Asks until the host is not too busy to pass it on, for as long as a disk is waited for.
fn patiently<T>(clock: &Time, mut ask: impl FnMut() -> Result<T, PspError>) -> Result<T, PspError> {
    let end = clock.now_ns().saturating_add(PATIENCE_NS);
    loop {
        let answer = ask();
        let next = clock.now_ns().saturating_add(BUSY_PAUSE_NS);
        if !matches!(answer, Err(PspError::Busy)) || next > end {
            return answer;
        }
        while clock.now_ns() < next {
            core::hint::spin_loop();
        }
    }
}

/// Returns how to ask for the secret all keys of sealed disks and of the store come from: the secure processor's, on this chip, for what the
/// manifest binds it to.
fn key_request(sealing: Sealing) -> KeyRequest {
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
    request
}
