//! The paravisor's modules: which files they are, and what each may use.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Manifest, ManifestError, Payload, PayloadKind};
use crate::layout::{LARGE_PAGE_SIZE, MODULES_MAX_SIZE};

/// What each module may use.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ModuleLimits {
    /// MiB of memory, page tables included.
    pub memory_mib: U16,
    /// Seconds of processor time from one wait for a request to the next.
    pub busy_seconds: U16,
}

impl ModuleLimits {
    /// Returns these limits.
    #[must_use]
    pub fn new(memory_mib: u16, busy_seconds: u16) -> Self {
        Self {
            memory_mib: memory_mib.into(),
            busy_seconds: busy_seconds.into(),
        }
    }
}

impl Manifest {
    /// Returns the manifest with these limits for the paravisor's modules.
    pub fn with_module_limits(self, limits: ModuleLimits) -> Result<Self, ManifestError> {
        let manifest = Self {
            module_limits: limits,
            ..self
        };
        manifest.check_module_limits()?;
        Ok(manifest)
    }

    /// Returns what each of the paravisor's modules may use.
    #[must_use]
    pub fn module_limits(&self) -> ModuleLimits {
        self.module_limits
    }

    /// Returns the paravisor's modules, each with its words if it has any.
    pub fn paravisor_modules(&self) -> impl Iterator<Item = (&Payload, Option<&Payload>)> {
        self.with_words(|kind| kind == PayloadKind::PARAVISOR_MODULE)
    }

    /// Returns how much memory all of them have together: whole large pages.
    #[must_use]
    pub fn module_memory_bytes(&self) -> u64 {
        let count = self.paravisor_modules().count() as u64;
        let mib = count * u64::from(self.module_limits.memory_mib.get());
        let bytes = mib << 20;
        bytes.next_multiple_of(LARGE_PAGE_SIZE)
    }

    /// Without modules the limits are zero; with them none is, and the memory fits its place.
    pub(super) fn check_module_limits(&self) -> Result<(), ManifestError> {
        let count = self.paravisor_modules().count() as u64;
        let limits = self.module_limits;
        let is_right = if count == 0 {
            limits == ModuleLimits::default()
        } else {
            limits.memory_mib.get() != 0
                && limits.busy_seconds.get() != 0
                && self.module_memory_bytes() <= MODULES_MAX_SIZE
        };
        if is_right {
            return Ok(());
        }
        Err(ManifestError::ModuleLimits {
            count,
            memory_mib: limits.memory_mib.get(),
        })
    }
}
