//! A PC that starts by the distribution's UEFI firmware: the same one on plain QEMU and on the model, to hold one against the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::stock_disk::run;
use crate::{Initrd, Running, Slot, Stockade, command_line, package_file, workshop};

/// Where Debian's package `ovmf` has its firmware.
const FOLDER: &str = "usr/share/OVMF";
/// Firmware that keeps Secure Boot's promises without SMM, and starts what it likes without keys.
const CODE: &str = "OVMF_CODE_4M.fd";
/// The processor of plain QEMU, with the physical addresses a guest of ours is told of: firmware takes longer the more there are.
const PROCESSOR: &str = "EPYC-Milan,phys-bits=41";
/// Firmware, GRUB, kernel and userland take a while on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
/// Enough for FAT32, which firmware reads from anywhere.
const FAT_MIB: u64 = 40;

/// Returns a file of the distribution's firmware: installed, or of its package, fetched if need be.
#[must_use]
pub fn firmware(name: &str) -> PathBuf {
    let path = Path::new("/").join(FOLDER).join(name);
    if path.is_file() {
        return path;
    }
    package_file("ovmf", &format!("{FOLDER}/{name}"))
}

/// Whether the firmware starts signed programs only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// No keys are there.
    Off,
    /// The keys that sign the distribution's shim are there.
    On,
}

impl SecureBoot {
    const fn template(self) -> &'static str {
        match self {
            Self::Off => "OVMF_VARS_4M.fd",
            Self::On => "OVMF_VARS_4M.ms.fd",
        }
    }
}

/// A PC, being put together.
#[derive(Clone, Debug)]
pub struct FirmwarePc {
    folder: PathBuf,
    secure_boot: SecureBoot,
    disks: Vec<PathBuf>,
    cpus: u32,
    memory_mib: u64,
    has_card: bool,
    limit: Duration,
}

impl FirmwarePc {
    /// Returns one with a processor, 1 GiB, and variables of its own in `folder`, which stay there.
    #[must_use]
    pub fn new(folder: &Path, secure_boot: SecureBoot) -> Self {
        Self {
            folder: folder.to_path_buf(),
            secure_boot,
            disks: Vec::new(),
            cpus: 1,
            memory_mib: 1024,
            has_card: false,
            limit: LIMIT,
        }
    }

    /// Adds a raw disk.
    #[must_use]
    pub fn disk(mut self, image: &Path) -> Self {
        self.disks.push(image.to_path_buf());
        self
    }

    /// Sets how many processors it has.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets how much memory it has.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Adds a network card, on QEMU's own network.
    #[must_use]
    pub fn card(mut self) -> Self {
        self.has_card = true;
        self
    }

    /// Gives up after this time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it in QEMU without anything of ours; `slot` is kept while it runs.
    ///
    /// # Panics
    /// If the folder cannot be written.
    #[must_use]
    pub fn start_plainly(&self, slot: Option<Slot>) -> Running {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-machine", "q35", "-accel", "tcg", "-cpu", PROCESSOR])
            .args(["-m", &format!("{}M", self.memory_mib), "-serial", "stdio"])
            .args(["-smp", &self.cpus.to_string()]);
        let variables = self.folder.join("variables.fd");
        if !variables.is_file() {
            let template = firmware(self.secure_boot.template());
            fs::copy(template, &variables).expect("the folder is writable");
        }
        let code = firmware(CODE);
        let flash = [(code.as_path(), ",readonly=on"), (&variables, "")];
        for (unit, (path, words)) in flash.into_iter().enumerate() {
            let path = path.display();
            let drive = format!("if=pflash,format=raw,unit={unit},file={path}{words}");
            command.args(["-drive", &drive]);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let drive = format!("if=none,id=d{index},format=raw,file={}", disk.display());
            let device = format!("virtio-blk-pci,drive=d{index},disable-legacy=on");
            command.args(["-drive", &drive, "-device", &device]);
        }
        if self.has_card {
            command.args(["-netdev", "user,id=n"]);
            command.args([
                "-device",
                "virtio-net-pci,netdev=n,disable-legacy=on,romfile=",
            ]);
        }
        Running::start(&mut command, "plain QEMU".to_owned(), self.limit, slot)
    }

    /// Returns the same PC as a confidential guest, to be started.
    #[must_use]
    pub fn confidentially(&self) -> Stockade {
        let call = Stockade::new("run")
            .arg("--firmware")
            .arg(firmware(CODE))
            .arg("--vars")
            .arg(firmware(self.secure_boot.template()))
            .arg("--state")
            .arg(self.folder.join("state"))
            .args(["--cpus", &self.cpus.to_string()])
            .args(["--memory", &format!("{}M", self.memory_mib)])
            .limit(self.limit);
        let call = if self.has_card {
            call.args(["--net", "user"])
        } else {
            call
        };
        self.disks
            .iter()
            .fold(call, |call, disk| call.arg("--disk").arg(disk))
    }
}

/// Makes a disk that is one FAT file system with these files in it, at the top or below folders, and returns its path.
///
/// # Panics
/// If the folder cannot be written, or `mtools` are missing.
#[must_use]
pub fn fat_disk(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let image = folder.join("fat.img");
    let file = fs::File::create(&image).expect("the folder is writable");
    file.set_len(FAT_MIB * MIB).expect("holes take no room");
    run(Command::new("mkfs.vfat")
        .args(["-F", "32", "-s", "1"])
        .arg(&image));
    let content = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        let path = content.path().join(name);
        let parent = path.parent().expect("it is below the folder");
        fs::create_dir_all(parent).expect("the folder is writable");
        fs::write(&path, bytes).expect("the folder is writable");
    }
    let top = fs::read_dir(content.path()).expect("it was just made");
    if files.is_empty() {
        return image;
    }
    let mut copy = Command::new("mcopy");
    copy.args(["-s", "-i"]).arg(&image);
    copy.args(top.flatten().map(|entry| entry.path()));
    run(copy.arg("::"));
    image
}

/// A boot loader as distributions sign it, and where it looks for its script.
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const LOADER_SCRIPT: &str = "EFI/debian/grub.cfg";

/// Makes such a disk with the distribution's GRUB, which firmware starts and which carries out `script`; and with these files.
///
/// # Panics
/// As [`fat_disk`].
#[must_use]
pub fn grub_disk(folder: &Path, script: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let grub = package_file(
        "grub-efi-amd64-signed",
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    );
    let grub = fs::read(grub).expect("the package is whole");
    let own: [(&str, &[u8]); 2] = [(LOADER, &grub), (LOADER_SCRIPT, script.as_bytes())];
    fat_disk(folder, &[&own, files].concat())
}

/// Makes such a disk that starts the distribution's kernel with an initramfs and these words.
///
/// # Panics
/// As [`fat_disk`].
#[must_use]
pub fn linux_disk(folder: &Path, initrd: &Initrd, words: &str) -> PathBuf {
    let kernel = fs::read(&workshop().kernel).expect("the workshop made it");
    let initrd = fs::read(initrd.write(folder)).expect("it was just written");
    let words = command_line(words);
    let script = format!("linux /vmlinuz {words}\ninitrd /initrd\nboot\n");
    let files: [(&str, &[u8]); 2] = [("vmlinuz", &kernel), ("initrd", &initrd)];
    grub_disk(folder, &script, &files)
}
