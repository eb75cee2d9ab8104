//! The conformance guest: built once, started by the command on the model, or by plain QEMU.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use stockade::setup::Cache;

use crate::{Slot, Stockade, workshop};

/// First word of a multiboot header, as it lies in the file.
const MULTIBOOT_MAGIC: [u8; 4] = 0x1BAD_B002_u32.to_le_bytes();
/// The header lies in so many first bytes of the file (multiboot 1, 3.1).
const MULTIBOOT_SEARCH: usize = 8192;
/// Enough for the slowest of the runs on a machine with other work.
const LIMIT: Duration = Duration::from_secs(400);

/// Two nanoseconds an instruction, as `--icount` has it; when all processors wait, their next timer comes at once.
const COUNT: &str = "shift=1,sleep=off";

/// How the loader is to start the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By its multiboot header.
    Multiboot,
    /// By its PVH note; the file has its multiboot header taken out.
    Pvh,
}

impl Start {
    /// What the guest says when it was started so.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Multiboot => "start multiboot",
            Self::Pvh => "start pvh",
        }
    }
}

/// Returns the guest's file for this kind of start.
///
/// # Panics
///
/// If it does not build: a test cannot go on without it.
#[must_use]
pub fn guest(start: Start) -> &'static Path {
    static FILES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let (multiboot, pvh) = FILES.get_or_init(make);
    match start {
        Start::Multiboot => multiboot,
        Start::Pvh => pvh,
    }
}

/// `stockade run` with the guest as kernel, all it needs from the machine, and these words on its command line.
#[must_use]
pub fn on_the_model(start: Start, cpus: usize, words: &str) -> Stockade {
    Stockade::new("run")
        .limit(LIMIT)
        .arg("--kernel")
        .arg(guest(start))
        .args(["--memory", "128M", "--test-devices", "--hpet"])
        .args(["--timeout", "360"])
        .arg("--cpus")
        .arg(cpus.to_string())
        .arg("--append")
        .arg(format!("cpus={cpus} trace {words}"))
}

/// Whose time the guest lives in on plain QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// This machine's; each processor has a thread.
    Real,
    /// The number of instructions; processors take turns on one thread, and a busy machine takes nothing from them.
    Counted,
}

/// Runs the guest on plain QEMU without anything of ours, and returns what it wrote and QEMU's exit status.
///
/// # Panics
///
/// If QEMU does not start.
#[must_use]
pub fn on_plain_qemu(cpus: usize, words: &str, clock: Clock) -> (String, Option<i32>) {
    let slot = Slot::take();
    let accelerator: &[_] = match clock {
        Clock::Real => &["-accel", "tcg,thread=multi"],
        Clock::Counted => &["-accel", "tcg", "-icount", COUNT],
    };
    let output = Command::new("timeout")
        .arg(LIMIT.as_secs().to_string())
        .arg("qemu-system-x86_64")
        .args(["-M", "q35", "-cpu", "max", "-smp", &cpus.to_string()])
        .args(accelerator)
        .args(["-m", "128", "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-device", "pc-testdev", "-append"])
        .arg(format!("cpus={cpus} trace {words}"))
        .arg("-kernel")
        .arg(guest(Start::Multiboot))
        .output()
        .expect("QEMU starts");
    drop(slot);
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    (console, output.status.code())
}

fn make() -> (PathBuf, PathBuf) {
    let cache = Cache::open().expect("the workspace is where this was built");
    let folder = cache.folder("rig").expect("target/ is writable");
    let lock = File::create(workshop().locks.join("guests.lock")).expect("target/ is writable");
    lock.lock().expect("the file system has locks");
    let built = fs::read(build(&cache)).expect("cargo built it");
    let multiboot = write_if_changed(&folder.join("guests"), &built);
    let pvh = write_if_changed(&folder.join("guests-pvh"), &without_multiboot(built));
    drop(lock);
    (multiboot, pvh)
}

fn build(cache: &Cache) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(cache.workspace())
        .args(["build", "--quiet", "--profile", "image"])
        .args(["--features", "image", "--package", "stockade-guests"])
        .arg("--target-dir")
        .arg(cache.target())
        .status()
        .expect("cargo ran this test, so it is there");
    assert!(status.success(), "the conformance guest does not build");
    cache.target().join("image/guests")
}

fn without_multiboot(mut file: Vec<u8>) -> Vec<u8> {
    let search = file.len().min(MULTIBOOT_SEARCH);
    let at = (0..search)
        .step_by(4)
        .find(|at| file[*at..].starts_with(&MULTIBOOT_MAGIC))
        .expect("the guest has a multiboot header");
    file[at..at + 4].fill(0);
    file
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> PathBuf {
    if fs::read(path).ok().as_deref() != Some(bytes) {
        let part = path.with_extension("part");
        fs::write(&part, bytes).expect("target/ is writable");
        fs::rename(&part, path).expect("target/ is writable");
    }
    path.to_path_buf()
}
