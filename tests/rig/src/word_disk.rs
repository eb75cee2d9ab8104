//! The smallest thing that shows whether a disk opens: a guest that says what stands at its start, and writes a word there.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::guest::finding;
use crate::{Finished, Initrd, Stockade};

/// The word comes from the command line, `test.write=WORD`, or is `abc`.
const SCRIPT: &str = "modprobe -a virtio_pci virtio_blk
    sleep 1
    text=abc
    for word in $(cat /proc/cmdline); do case $word in test.write=*) text=${word#test.write=};; esac; done
    [ -b /dev/vda ] || say \"no disk\"
    [ -b /dev/vda ] && say \"was $(head -c 3 /dev/vda | tr -d '\\0')\"
    [ -b /dev/vda ] && printf %s $text | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; say \"write $?\"";

/// A folder with a sealed disk, the initramfs of its guest and whatever a test puts beside them.
pub struct WordDisk {
    folder: TempDir,
    initrd: PathBuf,
}

impl WordDisk {
    /// Returns one whose disk is not made yet.
    ///
    /// # Panics
    /// If there is no place for it.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let initrd = Initrd::new(SCRIPT)
            .modules(&["virtio_pci", "virtio_blk"])
            .write(folder.path());
        Self { folder, initrd }
    }

    /// Makes the disk anew; `arguments` are those of `stockade disk create` besides its size.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn create(&self, arguments: &[&str]) {
        // None is there the first time.
        let _ = fs::remove_file(self.disk());
        let made = Stockade::new("disk").args(["create", "--size", "8M"]);
        let made = made.args(arguments).arg(self.disk());
        made.finish().assert_code(0);
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The disk's file.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path("disk.img")
    }

    /// The disk with words behind it, as `--disk` takes it.
    #[must_use]
    pub fn disk_as(&self, words: &str) -> String {
        format!("{},{words}", self.disk().display())
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self) -> &Path {
        &self.initrd
    }

    /// The guest, still without its disk; `words` are for its command line.
    #[must_use]
    pub fn guest(&self, words: &str) -> Stockade {
        Stockade::guest(words).arg("--initrd").arg(&self.initrd)
    }
}

impl Default for WordDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// Fails unless the guest has found this on its disk, and could write.
#[track_caller]
pub fn assert_opens(run: &Finished, was: &str) {
    let found = ["was", "write"].map(|name| finding(&run.stdout, name));
    assert_eq!(found, [Some(was), Some("0")], "{}", run.transcript());
}

/// Fails unless the guest had no disk and our log has these words.
#[track_caller]
pub fn assert_missing(run: &Finished, words: &[&str]) {
    let found = finding(&run.stdout, "no");
    assert_eq!(found, Some("disk"), "{}", run.transcript());
    run.assert_says(words);
}
