//! The bench guest on Linux KVM, in a QEMU of the same kind: emulated SVM under the distribution's kernel, whose first process is a
//! virtual machine monitor of ours.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use stockade::setup::{Archive, Cache, Modules};
use stockade_perf::bench::{Observed, guest, parse, words};
use stockade_rig::{Slot, workshop};

/// The model's processor, which SVM is a part of.
const PROCESSOR: &str = "EPYC-Milan,+svm,phys-bits=48";
/// The second is only there to be sent interrupts. Linux does not start a second processor under `-icount`.
const VIRTUAL_PROCESSORS: usize = 2;
/// KVM and what it needs.
const MODULES: [&str; 1] = ["kvm_amd"];
/// Loops that measure the processor against a timer are dear where time stands still but for instructions, and serve nobody here.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 tsc=reliable tsc_early_khz=1000000 lpj=4000000 no_timer_check \
                            mitigations=off random.trust_cpu=on";

/// Runs it with two virtual processors on one processor: a guest's interrupt to another is sent while that one does not run, which costs
/// KVM less than an interrupt to another processor would.
pub(crate) fn run() -> Vec<Observed> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initramfs = folder.path().join("initramfs.cpio");
    std::fs::write(&initramfs, archive()).expect("the folder is writable");
    let _slot = Slot::take();
    let output = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-machine", "q35", "-accel", "tcg"])
        .args(["-icount", "shift=1,sleep=off", "-seed", "1"])
        .args(["-cpu", PROCESSOR, "-m", "512M", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&workshop().kernel)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", KERNEL_WORDS])
        .stdin(Stdio::null())
        .output()
        .expect("QEMU is there, for the rig has run it");
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(console.contains("done: bench"), "{console}");
    parse(&console)
}

/// The monitor as the first process, the guest, KVM's modules.
fn archive() -> Vec<u8> {
    let read = |path: PathBuf| std::fs::read(path).expect("cargo built it");
    let mut archive = Archive::new();
    archive.folder("dev");
    archive.file("init", &read(monitor()));
    archive.file("guest", &read(guest()));
    archive.file("guest.words", words(VIRTUAL_PROCESSORS).as_bytes());
    let modules = Modules::of_kernel(&workshop().kernel);
    let modules = modules.expect("the kernel's package has its modules");
    modules
        .add_to(&mut archive, &MODULES)
        .expect("the modules can be read");
    archive.to_bytes().expect("memory takes everything")
}

/// Builds the monitor without a dynamic linker, which the initramfs has not, and apart from everything else, whose flags differ.
fn monitor() -> PathBuf {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let cache = Cache::open().expect("the workspace is where this was built");
    let folder = cache.folder("kvm").expect("target/ is writable");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(cache.workspace())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", "stockade-perf-kvm", "--target-dir"])
        .arg(&folder)
        .status()
        .expect("cargo ran this, so it is there");
    assert!(status.success(), "the monitor does not build");
    folder.join(TARGET).join("release/kvm-init")
}
