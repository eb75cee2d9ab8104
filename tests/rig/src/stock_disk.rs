//! A Debian 12 disk as an installation leaves it: GPT, an ESP with the signed shim and the signed GRUB, a root file system with the
//! distribution's kernel, a login on the serial console. Nothing of ours is in it but a host name and a password.
//!
//! `mmdebstrap` installs packages into a folder ([`recipe`] says which), [`boot_files`] puts the boot loaders where `grub-install` puts
//! them, [`image`] packs the folder. [`Session`] is for whoever sits at its console. No loop device and no running machine is needed, only root. A disk takes two or three minutes once
//! and lies under `target/stockade/stock-disk`, named by what went in: the recipe and the versions of the packages it names.

mod boot_files;
mod image;
mod recipe;
mod session;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade::setup::Cache;

pub use recipe::KernelFlavour;
pub use session::{PHASES, Phase, Session};

/// How to log in.
pub const USER: &str = "root";
/// The password of [`USER`].
pub const PASSWORD: &str = "stockade";
/// The name before the words of the login prompt.
pub const HOST_NAME: &str = "debian";

/// A disk nobody writes to: tests take a copy.
#[derive(Clone, Debug)]
pub struct StockDisk {
    /// The raw image.
    pub image: PathBuf,
}

impl StockDisk {
    /// Returns the disk with this kernel, made if need be.
    ///
    /// # Panics
    /// If it has to be made and a tool is missing, or nobody is root.
    #[must_use]
    pub fn of(flavour: KernelFlavour) -> Self {
        let cache = Cache::open().expect("the workspace is where this was built");
        let folder = cache.folder("stock-disk").expect("target/ is writable");
        // Test programs that start at the same time wait for each other.
        let lock = File::create(folder.join("lock")).expect("target/ is writable");
        lock.lock().expect("the file system has locks");
        let image = folder.join(format!("{}.img", recipe::key(flavour)));
        if !image.is_file() {
            eprintln!("rig: making a Debian disk, which takes two or three minutes");
            make(flavour, &folder, &image);
        }
        drop(lock);
        Self { image }
    }

    /// Copies it into a folder, holes and all, and returns the copy's path.
    ///
    /// # Panics
    /// If there is no room.
    #[must_use]
    pub fn copy_to(&self, folder: &Path) -> PathBuf {
        let copy = folder.join("debian.img");
        let mut command = Command::new("cp");
        command.args(["--sparse=always", "--reflink=auto"]);
        run(command.arg(&self.image).arg(&copy));
        copy
    }
}

/// Makes it beside where it is to be: a file of that name is whole.
fn make(flavour: KernelFlavour, folder: &Path, image: &Path) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can install Debian into a folder; run this test as root"
    );
    let part = tempfile::tempdir_in(folder).expect("target/ is writable");
    let root = part.path().join("root");
    recipe::install(flavour, &root);
    boot_files::write(&root);
    let made = part.path().join("disk.img");
    image::pack(&root, &made);
    fs::rename(&made, image).expect("they are in one file system");
}

/// Runs a tool to its end.
///
/// # Panics
/// If it is not there or fails, with its last words.
pub(crate) fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("{name}: {error}; `.ci/run` names the packages tests need");
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}{errors}");
    text
}
