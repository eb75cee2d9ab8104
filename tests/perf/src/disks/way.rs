//! What there is between `fio` and QEMU's disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use stockade::image::{self, EnlightenedOptions, enlightened};
use stockade::run::devices::{Disk, HostDevices};
use stockade_rig::{Running, Stockade, workshop};

use super::script::{Mapping, Work, initrd};
use super::{Ran, Window};
use crate::directly;

/// Guest memory of all: the initramfs alone is 75 MiB.
const MEMORY_MIB: u64 = 512;
/// Size of the disk.
const DISK: u64 = 128 << 20;
const LIMIT: Duration = Duration::from_secs(400);

/// What there is between `fio` and QEMU's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Nothing: QEMU's virtio-blk.
    Direct,
    /// Us.
    Plain,
    /// Nobody: the kernel is an SNP guest by itself and bounces what the disk reads and writes through its swiotlb.
    Enlightened,
    /// Us, sealing.
    Sealed,
    /// QEMU's virtio-blk, and in the guest `dm-crypt` over `dm-integrity`.
    Mapped,
    /// Nobody, and in the guest `dm-crypt` over `dm-integrity`: what a sealed disk promises, by a guest's own means.
    EnlightenedMapped,
}

impl Way {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Plain,
        Self::Enlightened,
        Self::Sealed,
        Self::Mapped,
        Self::EnlightenedMapped,
    ];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Plain => "below us, plain",
            Self::Enlightened => "an SNP guest by itself, swiotlb",
            Self::Sealed => "below us, sealed",
            Self::Mapped => "directly, dm-crypt and dm-integrity",
            Self::EnlightenedMapped => "an SNP guest by itself, dm-crypt and dm-integrity",
        }
    }

    /// Boots and does these kinds of work.
    pub(super) fn run(self, folder: &Path, works: &[Work]) -> Ran {
        let is_enlightened = matches!(self, Self::Enlightened | Self::EnlightenedMapped);
        let mapping = match self {
            Self::Mapped | Self::EnlightenedMapped => Mapping::Sealing,
            _ => Mapping::None,
        };
        let initrd = initrd(mapping, works).write(folder);
        let disk = folder.join("disk");
        let stats = folder.join("stats.json");
        // Whatever was there is nothing to the next run.
        let _ = fs::remove_file(&disk);
        let _ = fs::remove_file(&stats);
        let mut running = match self {
            Self::Direct | Self::Mapped => directly(&initrd, &disk),
            Self::Plain => below_us(&initrd, &disk, "plain", &stats),
            Self::Sealed => below_us(&initrd, &disk, "sealed", &stats),
            Self::Enlightened | Self::EnlightenedMapped => {
                enlightened_guest(&initrd, &disk, folder)
            }
        };
        let (windows, mut console) = follow(&mut running, works);
        console += &running.expect("guest-check: done");
        if is_enlightened {
            // Without ACPI the kernel cannot switch the machine off.
            running.signal(Signal::SIGTERM);
        }
        let finished = running.finish();
        let text = fs::read_to_string(&stats).unwrap_or_default();
        Ran {
            windows,
            console: console + &finished.stdout,
            stats: serde_json::from_str(&text).unwrap_or(Value::Null),
        }
    }
}

/// Reads clock and processor time at both ends of each piece of work.
fn follow(running: &mut Running, works: &[Work]) -> (Vec<Window>, String) {
    let mut console = String::new();
    let windows = works.iter().enumerate().map(|(index, _)| {
        console += &running.expect(&format!("begin {index}"));
        let (begun, before) = (Instant::now(), running.cpu());
        console += &running.expect(&format!("end {index}"));
        Window {
            wall: begun.elapsed(),
            cpu: running.cpu() - before,
        }
    });
    let windows = windows.collect();
    (windows, console)
}

fn directly(initrd: &Path, disk: &Path) -> Running {
    File::create(disk)
        .and_then(|file| file.set_len(DISK))
        .expect("the folder is writable");
    let mut command = directly::qemu(initrd, &format!("{MEMORY_MIB}M"), "");
    command
        .arg("-drive")
        .arg(format!(
            "if=none,id=disk,format=raw,cache=writeback,file={}",
            disk.display()
        ))
        .args(["-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]);
    Running::start(&mut command, "qemu".to_owned(), LIMIT, None)
}

fn below_us(initrd: &Path, disk: &Path, mode: &str, stats: &Path) -> Running {
    Stockade::new("disk")
        .args(["create", "--size", "128M", &format!("--{mode}")])
        .arg(disk)
        .finish()
        .assert_code(0);
    Stockade::new("run")
        .args(["--memory", &format!("{MEMORY_MIB}M")])
        .args(["--append", "panic=-1", "--initrd"])
        .arg(initrd)
        .arg("--disk")
        .arg(format!("{},mode={mode}", disk.display()))
        .arg("--stats")
        .arg(stats)
        .limit(LIMIT)
        .with_slots_taken()
        .start()
}

fn enlightened_guest(initrd: &Path, disk: &Path, folder: &Path) -> Running {
    File::create(disk)
        .and_then(|file| file.set_len(DISK))
        .expect("the folder is writable");
    let kernel = image::read(&workshop().kernel).expect("the kernel is readable");
    let mut options = EnlightenedOptions::new(kernel, MEMORY_MIB << 20);
    options.initrd = Some(image::read(initrd).expect("it was just written"));
    options.command_line = "console=ttyS0 quiet acpi=off panic=-1".to_owned();
    let bytes = enlightened(&options).expect("the kernel and its files fit");
    let path: PathBuf = folder.join("enlightened.igvm");
    image::write(&path, &bytes).expect("the folder is writable");
    let devices = HostDevices {
        disks: vec![Disk::new(disk)],
        ..HostDevices::default()
    };
    let arguments = devices.arguments();
    let arguments = arguments.iter().map(|word| format!("--qemu-arg={word}"));
    Stockade::new("run")
        .args(["--memory", &format!("{MEMORY_MIB}M")])
        .arg("--image")
        .arg(path)
        .args(arguments)
        .limit(LIMIT)
        .with_slots_taken()
        .start()
}
