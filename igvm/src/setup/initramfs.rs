//! The default initramfs: busybox, one script that checks the guest from inside or gives a shell, and drivers.

use std::fs;
use std::path::{Path, PathBuf};

use super::modules::DRIVERS;
use super::{Archive, Cache, Modules, SetupError, busybox};
use crate::output;

const INIT: &str = include_str!("init.sh");

/// What the guest's first process does; the script reads it from the kernel command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Check itself, say so, power off.
    Check,
    /// Give a shell on the console.
    Shell,
}

impl Mode {
    /// Returns the word for the kernel command line.
    #[must_use]
    pub fn command_line_word(self) -> &'static str {
        match self {
            Self::Check => "stockade.mode=check",
            Self::Shell => "stockade.mode=shell",
        }
    }
}

/// Returns the default initramfs for a kernel file: the distribution's busybox, and the drivers that belong to the kernel.
pub fn default_initramfs(
    cache: &Cache,
    kernel: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf, SetupError> {
    let busybox = busybox(cache, say)?;
    let program = fs::read(&busybox).map_err(SetupError::io(&busybox))?;
    let mut archive = Archive::new();
    archive.file("bin/busybox", &program);
    archive.file("init", INIT.as_bytes());
    let modules = Modules::of_kernel(kernel);
    if let Some(modules) = &modules {
        modules.add_to(&mut archive, &DRIVERS)?;
    }
    let release = modules.as_ref().map_or("any", Modules::release);
    let path = cache
        .folder("initramfs")?
        .join(format!("initramfs-{release}.cpio"));
    let bytes = archive.to_bytes().map_err(SetupError::io(&path))?;
    // Made anew each time, written only when it differs: a changed script must not boot an old archive.
    if fs::read(&path).ok().as_deref() != Some(&bytes) {
        output::write(&path, &bytes).map_err(SetupError::io(&path))?;
    }
    Ok(path)
}
