//! What starts the guest: a kernel of ours to load, or firmware.

use core::ops::Range;

use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

use super::{Manifest, ManifestError, Payload, PayloadKind};
use crate::firmware;

/// What the guest's first vCPU starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// A kernel that the paravisor loads, on a machine set up as firmware would leave it.
    #[default]
    Kernel,
    /// Firmware at the reset vector, on a machine as it is after power-on.
    Firmware,
}

impl Manifest {
    /// Returns what the guest is started with.
    #[must_use]
    pub fn start(&self) -> Start {
        match self.payload(PayloadKind::FIRMWARE) {
            Some(_) => Start::Firmware,
            None => Start::Kernel,
        }
    }

    /// Returns where the firmware's code lies, if there is one.
    #[must_use]
    pub fn firmware_range(&self) -> Option<Range<u64>> {
        let code = self.payload(PayloadKind::FIRMWARE)?;
        Some(firmware::code_range(code.len_bytes.get()))
    }

    /// Returns where the firmware's variables lie, if the image has any.
    #[must_use]
    pub fn variables_range(&self) -> Option<Range<u64>> {
        let code = self.payload(PayloadKind::FIRMWARE)?.len_bytes.get();
        let variables = self.payload(PayloadKind::VARIABLES)?.len_bytes.get();
        Some(firmware::variables_range(variables, code))
    }

    /// Returns what the guest can read and not write: the code, and the variables below it, which are flash.
    #[must_use]
    pub fn rom_range(&self) -> Option<Range<u64>> {
        let code = self.firmware_range()?;
        let variables = self.variables_range();
        Some(variables.map_or(code.start, |range| range.start)..code.end)
    }

    /// Returns files of the firmware's configuration device that the image brings, each with its name.
    pub fn firmware_items(&self) -> impl Iterator<Item = (&Payload, Option<&Payload>)> {
        self.with_words(|kind| kind == PayloadKind::FIRMWARE_ITEM)
    }

    /// Returns the digest of the manifest, which tells machines of one image from those of others.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        Sha384::digest(self.as_bytes()).into()
    }

    /// There is one thing to start, and what goes with the other is not there.
    pub(super) fn check_start(&self) -> Result<(), ManifestError> {
        let has = |kind| self.payload(kind).is_some();
        if !has(PayloadKind::FIRMWARE) {
            let stray = [PayloadKind::VARIABLES, PayloadKind::FIRMWARE_ITEM];
            let stray = stray.into_iter().find(|kind| has(*kind));
            return match (has(PayloadKind::KERNEL), stray) {
                (false, _) => Err(ManifestError::NoKernel),
                (true, Some(kind)) => Err(ManifestError::Stray(kind)),
                (true, None) => Ok(()),
            };
        }
        let stray = [
            PayloadKind::KERNEL,
            PayloadKind::INITRD,
            PayloadKind::COMMAND_LINE,
            PayloadKind::MODULE,
        ];
        match stray.into_iter().find(|kind| has(*kind)) {
            Some(kind) => Err(ManifestError::Stray(kind)),
            None => self.check_firmware(),
        }
    }

    fn check_firmware(&self) -> Result<(), ManifestError> {
        let len_bytes = |kind| self.payload(kind).map_or(0, |file| file.len_bytes.get());
        let (code, variables) = (
            len_bytes(PayloadKind::FIRMWARE),
            len_bytes(PayloadKind::VARIABLES),
        );
        let is_right = firmware::is_size(code)
            && variables.is_multiple_of(crate::layout::PAGE_SIZE)
            && code + variables <= crate::layout::FIRMWARE_MAX_SIZE;
        if is_right {
            Ok(())
        } else {
            Err(ManifestError::Firmware { code, variables })
        }
    }
}
