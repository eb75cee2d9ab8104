//! The default initramfs: busybox and one script that checks the guest from inside or gives a shell.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use cpio::newc::{Builder, trailer};

use super::write_whole;
use super::{Cache, SetupError, busybox};

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
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CHARACTER_DEVICE: u32 = 0o020_600;

    let mut out = Vec::new();
    for (inode, name) in (1..).zip(["bin", "dev", "proc", "sys", "tmp"]) {
        let entry = Builder::new(name).ino(inode).mode(DIRECTORY);
        entry.write(&mut out, 0).finish()?;
    }
    // The kernel opens the console before /dev is mounted.
    let console = Builder::new("dev/console")
        .ino(100)
        .mode(CHARACTER_DEVICE)
        .rdev_major(5)
        .rdev_minor(1);
    console.write(&mut out, 0).finish()?;
    for (inode, name, bytes) in [
        (101, "bin/busybox", busybox),
        (102, "init", INIT.as_bytes()),
    ] {
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut file = Builder::new(name)
            .ino(inode)
            .mode(PROGRAM)
            .write(&mut out, size);
        file.write_all(bytes)?;
        file.finish()?;
    }
    trailer(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::archive;

    #[test]
    fn archive_lists_init_and_busybox() {
        let bytes = archive(b"\x7fELF").unwrap();
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        assert!(names.contains(&"init".to_owned()) && names.contains(&"bin/busybox".to_owned()));
        assert_eq!(names.len(), 8);
    }
}
