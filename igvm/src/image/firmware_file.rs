//! Firmware files as distributions package them.

use stockade_boot::firmware::{self, FirmwareError};
use stockade_boot::manifest::PayloadKind;

use super::volume;

/// A file of the firmware's configuration device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirmwareItem {
    /// Its name, such as `opt/org.example/words`.
    pub name: String,
    /// What it holds.
    pub content: Vec<u8>,
}

/// Firmware that starts a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// The code: read-only memory that ends at 4 GiB.
    pub code: Vec<u8>,
    /// What the variables are on a new machine.
    pub variables: Option<Vec<u8>>,
    /// More files for its configuration device.
    pub items: Vec<FirmwareItem>,
}

impl Firmware {
    /// Sees whether a guest can start with the files.
    pub fn check(&self) -> Result<(), FirmwareError> {
        self.check_code()?;
        self.check_variables()
    }

    /// Sees whether a guest can start with the code.
    pub fn check_code(&self) -> Result<(), FirmwareError> {
        firmware::check(&self.code)
    }

    /// Returns whether the code is UEFI firmware: an older BIOS wants devices a guest of ours does not have.
    #[must_use]
    pub fn is_uefi(&self) -> bool {
        volume::has_volume(&self.code)
    }

    /// Returns whether the code has its variables in front of it, in one file.
    #[must_use]
    pub fn is_combined(&self) -> bool {
        volume::begins_with_variables(&self.code)
    }

    /// Returns whether the code begins with a look for system management mode and ends there: a guest of ours has none.
    #[must_use]
    pub fn needs_smm(&self) -> bool {
        volume::needs_smm(&self.code)
    }

    /// Sees whether the variables go with the code.
    pub fn check_variables(&self) -> Result<(), FirmwareError> {
        match &self.variables {
            Some(variables) => firmware::check_variables(variables, self.code.len() as u64),
            None => Ok(()),
        }
    }

    /// Returns the files as payload.
    pub(super) fn files(&self) -> impl Iterator<Item = (PayloadKind, &[u8])> {
        let code = (PayloadKind::FIRMWARE, self.code.as_slice());
        let variables = self.variables.as_deref();
        let variables = variables.map(|file| (PayloadKind::VARIABLES, file));
        let items = self.items.iter().flat_map(|item| {
            let name = (PayloadKind::MODULE_COMMAND_LINE, item.name.as_bytes());
            [(PayloadKind::FIRMWARE_ITEM, item.content.as_slice()), name]
        });
        [Some(code), variables].into_iter().flatten().chain(items)
    }
}
