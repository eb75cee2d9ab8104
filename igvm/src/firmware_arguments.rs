//! What `stockade run` and `stockade build` are told of firmware.

use std::path::{Path, PathBuf};

use clap::Args;
use stockade::image::{self, Firmware};
use stockade::setup::{self, Cache};

use crate::failure::Failure;
use crate::voice::Voice;

/// Firmware that starts the guest.
#[derive(Debug, Default, Args)]
pub(crate) struct FirmwareArguments {
    /// Start the guest with this firmware in place of a kernel, such as OVMF_CODE_4M.fd [default, and without a kernel but with a disk:
    /// the distribution's OVMF]
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["kernel", "initrd", "module", "append"])]
    firmware: Option<Option<PathBuf>>,
    /// The firmware's variables on a new machine [default: those of the distribution's OVMF]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "module", "append"])]
    vars: Option<PathBuf>,
}

impl FirmwareArguments {
    /// Returns whether firmware was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.firmware.is_some() || self.vars.is_some()
    }

    /// Reads the files, or the distribution's, and sees that they can start a guest.
    pub(crate) fn open(&self, cache: &Cache, voice: &mut Voice) -> Result<Firmware, Failure> {
        let (code, variables) = match &self.firmware {
            Some(Some(code)) => (code.clone(), self.vars.clone()),
            _ => {
                let files = setup::firmware(cache, &mut |text| voice.say(text))?;
                voice.say(&format!("firmware {}", files.code.display()));
                let variables = self.vars.clone().unwrap_or(files.variables);
                (files.code, Some(variables))
            }
        };
        let firmware = Firmware {
            code: image::read(&code)?,
            variables: variables.as_deref().map(image::read).transpose()?,
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::Firmware { path, error }
        };
        firmware.check_code().map_err(failed(&code))?;
        if let Some(variables) = &variables {
            firmware.check_variables().map_err(failed(variables))?;
        }
        Ok(firmware)
    }
}
