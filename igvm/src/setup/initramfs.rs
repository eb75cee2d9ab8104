//! The default initramfs: busybox and one script that checks the guest from inside or gives a shell.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::write_whole;
use super::{Archive, Cache, SetupError, busybox};

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

/// Returns the default initramfs, made once from the distribution's busybox.
pub fn default_initramfs(cache: &Cache, say: &mut dyn FnMut(&str)) -> Result<PathBuf, SetupError> {
    let busybox = busybox(cache, say)?;
    let program = fs::read(&busybox).map_err(SetupError::io(&busybox))?;
    let path = cache.folder("initramfs")?.join("initramfs.cpio");
    let archive = archive(&program).map_err(SetupError::io(&path))?;
    // Made anew each time, written only when it differs: a changed script must not boot an old archive.
    if fs::read(&path).ok().as_deref() != Some(&archive) {
        write_whole(&path, &archive)?;
    }
    Ok(path)
}

fn archive(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("bin/busybox", busybox);
    archive.file("init", INIT.as_bytes());
    archive.to_bytes()
}
