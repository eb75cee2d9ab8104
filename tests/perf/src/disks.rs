//! A disk under the same `fio` in the same QEMU TCG: directly, and below us, plain and sealed.
//!
//! Each configuration is booted twice, once without the work, so that what the boot costs can be taken off. The guest of its
//! own that we are compared with when sealed has `dm-crypt` over `dm-integrity`: the same promises, made inside the guest.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stockade_rig::guest::findings;
use stockade_rig::{Initrd, Slot, Stockade, command_line, workshop};

use crate::boots::{Cost, PROCESSOR, measure};

/// Guest memory of all: the initramfs alone is 75 MiB.
const MEMORY: &str = "512M";
/// Size of the disk.
const DISK: u64 = 128 << 20;
/// The four kinds of work: name, `fio`'s name for it, block size, requests.
const WORK: [(&str, &str, &str, u64); 4] = [
    ("read 128 KiB, in order", "read", "128k", 128),
    ("write 128 KiB, in order", "write", "128k", 128),
    ("read 4 KiB, anywhere", "randread", "4k", 1024),
    ("write 4 KiB, anywhere", "randwrite", "4k", 1024),
];

/// What there is between `fio` and QEMU's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing: QEMU's virtio-blk.
    Direct,
    /// QEMU's virtio-blk, and in the guest `dm-crypt` over `dm-integrity`.
    MappedInGuest,
    /// Us.
    Plain,
    /// Us, sealing.
    Sealed,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Plain, Way::MappedInGuest, Way::Sealed];

/// What `fio` said of one kind of work, and what it cost.
#[derive(Clone, Debug)]
struct Figures {
    kib_per_second: f64,
    mean_latency_us: f64,
    cpu_ms_per_request: f64,
    exits_per_request: Option<f64>,
}

/// One run's cost.
struct Run {
    cost: Cost,
    exits: Option<u64>,
    console: String,
}

/// Measures all and returns the table.
pub(crate) fn table() -> String {
    let _alone = Slot::take_all();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut text = String::from(
        "| work, 4 requests in flight | way | MiB/s | mean latency, ms | CPU ms a request | exits a request |\n\
         |---|---|---|---|---|---|\n",
    );
    let idle: Vec<Run> = WAYS.map(|way| run(way, None, folder.path())).into();
    for work in &WORK {
        for (way, idle) in WAYS.iter().zip(&idle) {
            let busy = run(*way, Some(work), folder.path());
            let figures = figures(&busy, idle, work.3);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.2} | {:.2} | {} |",
                work.0,
                way.words(),
                figures.kib_per_second / 1024.0,
                figures.mean_latency_us / 1000.0,
                figures.cpu_ms_per_request,
                figures
                    .exits_per_request
                    .map_or("–".to_owned(), |exits| format!("{exits:.2}")),
            );
        }
    }
    text
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::Direct => "directly on QEMU's virtio-blk",
            Self::MappedInGuest => "the same, dm-crypt over dm-integrity in the guest",
            Self::Plain => "below us, plain",
            Self::Sealed => "below us, sealed",
        }
    }
}

fn figures(busy: &Run, idle: &Run, requests: u64) -> Figures {
    let said = findings(&busy.console);
    let number = |name: &str| -> f64 {
        said.iter()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .expect("the guest says it once fio has run")
    };
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = |total: f64| total / requests as f64;
    Figures {
        kib_per_second: number("bandwidth-kib"),
        mean_latency_us: number("latency-us"),
        cpu_ms_per_request: each((busy.cost.cpu - idle.cost.cpu) * 1000.0),
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        exits_per_request: busy
            .exits
            .zip(idle.exits)
            .map(|(busy, idle)| each(busy.saturating_sub(idle) as f64)),
    }
}

/// The guest's script. `fio`'s terse line has bandwidth (KiB/s) and mean latency (µs) of reads in fields 7 and 40, of writes in 48
/// and 81 (version 3).
fn script(way: Way, work: Option<&(&str, &str, &str, u64)>) -> String {
    let mut text = String::from("modprobe virtio_pci; modprobe virtio_blk\ndisk=/dev/vda\n");
    if way == Way::MappedInGuest {
        text.push_str(
            "for module in dm-crypt dm-integrity algif_skcipher algif_aead gcm ctr ghash-generic ghash-clmulni-intel aesni-intel; do modprobe $module; done\n\
             mkdir -p /run/cryptsetup; echo secret >/key\n\
             cryptsetup luksFormat -q --type luks2 --cipher aes-gcm-random --integrity aead --integrity-no-wipe \
             --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $disk /key 2>&1 || say \"no mapping\"\n\
             cryptsetup open --key-file /key $disk mapped; disk=/dev/mapper/mapped\n\
             dd if=/dev/zero of=$disk bs=1M count=72 oflag=direct 2>/dev/null\n",
        );
    }
    // A sealed disk has to hold something to be read; without work this is part of the boot.
    text.push_str("dd if=/dev/zero of=$disk bs=1M count=16 oflag=direct 2>/dev/null; sync\n");
    if let Some((_, kind, block, requests)) = work {
        let (bandwidth, latency) = if kind.ends_with("read") {
            (7, 40)
        } else {
            (48, 81)
        };
        let size: u64 = if *block == "4k" { 4 } else { 128 };
        let _ = write!(
            text,
            "line=$(fio --name=work --filename=$disk --rw={kind} --bs={block} --size={}k --io_size={}k --direct=1 \
             --ioengine=libaio --iodepth=4 --norandommap --minimal --output-format=terse --terse-version=3 | tail -n 1)\n\
             say \"bandwidth-kib $(echo \"$line\" | cut -d';' -f{bandwidth})\"\n\
             say \"latency-us $(echo \"$line\" | cut -d';' -f{latency})\"\n",
            16 << 10,
            size * requests,
        );
    }
    text.push_str("say done\n");
    text
}

fn run(way: Way, work: Option<&(&str, &str, &str, u64)>, folder: &Path) -> Run {
    let initrd = Initrd::new(&script(way, work))
        .modules(&MODULES)
        .program("cryptsetup-bin", "sbin/cryptsetup", &CRYPTSETUP_LIBRARIES)
        .fio()
        .write(folder);
    let disk = folder.join("disk");
    let run = match way {
        Way::Direct | Way::MappedInGuest => directly(&initrd, &disk),
        Way::Plain => below_us(&initrd, &disk, "plain", folder),
        Way::Sealed => below_us(&initrd, &disk, "sealed", folder),
    };
    assert_eq!(
        findings(&run.console).last(),
        Some(&"done"),
        "{}",
        run.console
    );
    run
}

/// Drivers of the disk, and what the mapping in the guest is made of.
const MODULES: [&str; 12] = [
    "virtio_pci",
    "virtio_blk",
    "dm-crypt",
    "dm-integrity",
    "algif_skcipher",
    "algif_aead",
    "gcm",
    "ctr",
    "ghash-generic",
    "ghash-clmulni-intel",
    "aesni-intel",
    "authenc",
];

/// Packages of the libraries of `cryptsetup`.
const CRYPTSETUP_LIBRARIES: [&str; 13] = [
    "libcryptsetup12",
    "libpopt0",
    "libblkid1",
    "libuuid1",
    "libargon2-1",
    "libdevmapper1.02.1",
    "libssl3",
    "libjson-c5",
    "libudev1",
    "libselinux1",
    "libpcre2-8-0",
    "libcap2",
    "libgcc-s1",
];

fn directly(initrd: &Path, disk: &Path) -> Run {
    File::create(disk)
        .and_then(|file| file.set_len(DISK))
        .expect("the folder is writable");
    let mut console = String::new();
    let cost = measure(|| {
        let output = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-machine", "q35", "-accel", "tcg"])
            .args(["-cpu", PROCESSOR, "-m", MEMORY, "-serial", "stdio"])
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=raw,cache=none,file={}",
                disk.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk,disable-legacy=on"])
            .arg("-kernel")
            .arg(&workshop().kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", &command_line("")])
            .stdin(Stdio::null())
            .output()
            .expect("QEMU is there, for the rig has run it");
        console = String::from_utf8_lossy(&output.stdout).into_owned();
    });
    Run {
        cost,
        exits: None,
        console,
    }
}

fn below_us(initrd: &Path, disk: &Path, mode: &str, folder: &Path) -> Run {
    let stats: PathBuf = folder.join("stats.json");
    // Whatever was there is nothing to the next run.
    let _ = std::fs::remove_file(disk);
    Stockade::new("disk")
        .args(["create", "--size", "128M", &format!("--{mode}")])
        .arg(disk)
        .finish()
        .assert_code(0);
    let finished = Stockade::new("run")
        .args(["--memory", MEMORY, "--append", "panic=-1", "--initrd"])
        .arg(initrd)
        .arg("--disk")
        .arg(format!("{},mode={mode}", disk.display()))
        .arg("--stats")
        .arg(&stats)
        .with_slots_taken()
        .finish();
    finished.assert_code(0);
    let text = std::fs::read_to_string(&stats).expect("the run wrote it");
    let figures: Value = serde_json::from_str(&text).expect("it is JSON");
    let seconds = |name: &str| figures.get(name).and_then(Value::as_f64);
    let exits = figures
        .pointer("/paravisor/exits")
        .and_then(Value::as_object);
    Run {
        cost: Cost {
            cpu: seconds("cpu_seconds").expect("a run says its CPU time"),
            wall: seconds("wall_seconds").expect("a run says its time"),
        },
        exits: exits.map(|kinds| kinds.values().filter_map(Value::as_u64).sum()),
        console: finished.stdout,
    }
}
