//! The model itself, before anything of ours runs on it: its machine by a self-test, its SEV-SNP by a guest of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use stockade::run::devices::{Disk, HostDevices};
use stockade_rig::workshop;

/// What the model says to QEMU's exit device when all is well, as QEMU's status.
const WELL: i32 = 33;
/// The same when a claim does not hold.
const FAILED: i32 = 41;
/// 128 timers, each at a moment of its own: on a busy machine some come late. It is judged in counted time.
const TIMED: &str = "probe: FAIL so it does whenever it comes";
const REAL_TIME: [&str; 2] = ["-accel", "tcg,thread=multi"];
const COUNTED_TIME: [&str; 4] = ["-accel", "tcg", "-icount", "shift=1,sleep=off"];

/// Runs the model without an image; returns its log.
fn run(word: &str, processors: &str, folder: &Path) -> String {
    run_with(&HostDevices::default(), word, processors, folder)
}

/// The same with devices of the host.
fn run_with(devices: &HostDevices, word: &str, processors: &str, folder: &Path) -> String {
    let (status, log) = finish(devices, word, processors, &REAL_TIME, folder);
    let is_late = status == Some(FAILED) && log.contains(TIMED);
    assert!(status == Some(WELL) || is_late, "{status:?}: {log}");
    log
}

/// Returns what does not hold, but for what is judged in counted time.
fn failures(log: &str) -> Vec<&str> {
    let is_failure = |line: &&str| line.contains("FAIL") && !line.starts_with(TIMED);
    log.lines().filter(is_failure).collect()
}

fn finish(
    devices: &HostDevices,
    word: &str,
    processors: &str,
    time: &[&str],
    folder: &Path,
) -> (Option<i32>, String) {
    let log = folder.join(word);
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-m", "1G"])
        .args(["-machine", "q35", "-cpu", "EPYC-Milan,+la57,phys-bits=52"])
        .args(time)
        .args(["-smp", processors])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-serial", "null", "-serial", "null", "-append", word])
        .args(devices.arguments())
        .arg("-debugcon")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(&workshop().model);
    let output = qemu.output().expect("QEMU starts");
    let log = fs::read_to_string(log).expect("the model logs");
    (output.status.code(), log)
}

#[test]
fn the_machine_and_vmrun_do_what_the_model_builds_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = run("selftest", "3", folder.path());
    assert!(log.contains("selftest: 0 failures"), "{log}");
}

/// One line a claim: RMP, #VC, #HV, both protocols, a lower VMPL with reflected exits and alternate injection, two vCPUs.
#[test]
fn a_guest_made_of_the_model_finds_sev_snp_as_specified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = run("probe", "3", folder.path());
    let claims = log.lines().filter(|line| line.starts_with("probe: ok"));
    assert!(claims.count() >= 42, "{log}");
    assert!(
        log.contains("probe: done") && failures(&log).is_empty(),
        "{log}"
    );
}

#[test]
fn the_probe_does_without_a_second_processor() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let none = HostDevices::default();
    let (status, log) = finish(&none, "probe", "1", &COUNTED_TIME, folder.path());
    assert_eq!(status, Some(WELL), "{log}");
    assert!(log.contains("no second vCPU"), "{log}");
    assert!(log.contains("so it does whenever it comes"), "{log}");
}

/// Configuration ports, windows, DMA to shared memory and not to private, messages on the doorbell.
#[test]
fn a_disk_of_the_host_reaches_shared_memory_only_and_is_heard() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("disk");
    let mut content = b"stockade".to_vec();
    content.resize(1 << 20, 0);
    fs::write(&file, content).expect("the folder is writable");
    let devices = HostDevices {
        disks: vec![Disk::new(file)],
        ..HostDevices::default()
    };
    let log = run_with(&devices, "probe", "3", folder.path());
    for claim in [
        "what is no window floats",
        "a message cannot have an exception's vector",
        "its message raises #HV with its vector",
        "it reads and writes shared memory at guest addresses",
        "its message comes again, into HLT, too",
        "it does not reach a private page",
        "nor one that is shared no more",
    ] {
        assert!(
            log.contains(&format!("probe: ok   {claim}")),
            "{claim}\n{log}"
        );
    }
    // What the IOMMU says of it: the disk's function, the page it was not to have.
    assert!(
        log.contains("a device was refused memory: 00:02.0 at 0x80"),
        "{log}"
    );
    assert!(
        log.contains("probe: done") && failures(&log).is_empty(),
        "{log}"
    );
}
