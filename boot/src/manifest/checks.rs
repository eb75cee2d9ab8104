//! What must be so in a manifest, although it is measured.

use zerocopy::little_endian::U32;

use super::{GuestFlags, MAGIC, MAX_VCPUS, Manifest, ManifestError, Payload, PayloadKind, VERSION};
use crate::layout;

impl Manifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.magic != MAGIC {
            return Err(ManifestError::Magic);
        }
        if self.version.get() != VERSION {
            return Err(ManifestError::Version(self.version.get()));
        }
        if usize::try_from(self.len_bytes.get()) != Ok(size_of::<Self>()) {
            return Err(ManifestError::Length(self.len_bytes.get()));
        }
        if GuestFlags::from_bits(self.flags.get()).is_none() {
            return Err(ManifestError::Flags(self.flags.get()));
        }
        // Above vTOM, or a private address of the guest would be a shared one of ours.
        if !(47..=51).contains(&self.c_bit()) {
            return Err(ManifestError::CBit(self.c_bit()));
        }
        if !(1..=MAX_VCPUS).contains(&self.max_vcpus()) {
            return Err(ManifestError::Vcpus(self.max_vcpus()));
        }
        let extra = self.extra_bytes();
        let is_whole = extra.is_multiple_of(layout::LARGE_PAGE_SIZE);
        if extra > layout::paravisor::EXTRA_MAX_SIZE || !is_whole {
            return Err(ManifestError::ExtraMemory(extra));
        }
        self.sealing.check()?;
        self.devices.check()?;
        self.check_payloads()
    }

    fn check_payloads(&self) -> Result<(), ManifestError> {
        for (index, payload) in self.payloads.iter().enumerate() {
            match payload.kind {
                PayloadKind::NONE if *payload == Payload::EMPTY => continue,
                PayloadKind::NONE => return Err(ManifestError::Reserved(PayloadKind::NONE)),
                PayloadKind::KERNEL
                | PayloadKind::INITRD
                | PayloadKind::COMMAND_LINE
                | PayloadKind::MODULE
                | PayloadKind::PARAVISOR_MODULE
                | PayloadKind::FIRMWARE
                | PayloadKind::VARIABLES
                | PayloadKind::FIRMWARE_ITEM => {}
                PayloadKind::MODULE_COMMAND_LINE => self.check_follows_module(index)?,
                PayloadKind(other) => return Err(ManifestError::PayloadKind(other.get())),
            }
            if payload.reserved != U32::ZERO {
                return Err(ManifestError::Reserved(payload.kind));
            }
            let (start, end) = payload.pages()?;
            for other in self.payloads[..index]
                .iter()
                .filter(|p| p.kind != PayloadKind::NONE)
            {
                if other.kind == payload.kind && !payload.kind.may_repeat() {
                    return Err(ManifestError::Duplicate(payload.kind));
                }
                let (other_start, other_end) = other.pages()?;
                if start < other_end && other_start < end {
                    return Err(ManifestError::Overlap(payload.kind, other.kind));
                }
            }
        }
        self.check_start()
    }

    fn check_follows_module(&self, index: usize) -> Result<(), ManifestError> {
        let before = index
            .checked_sub(1)
            .and_then(|before| self.payloads.get(before));
        match before.map(|file| file.kind) {
            Some(
                PayloadKind::MODULE
                | PayloadKind::INITRD
                | PayloadKind::PARAVISOR_MODULE
                | PayloadKind::FIRMWARE_ITEM,
            ) => Ok(()),
            _ => Err(ManifestError::StrayCommandLine),
        }
    }
}
