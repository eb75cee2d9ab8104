//! Xen of the distribution with the distribution's kernel as its first domain: a whole other kernel that drives local APIC,
//! IOAPIC, timers and ACPI, started by multiboot with two modules.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use stockade_rig::guest::findings;
use stockade_rig::{Finished, Initrd, Stockade, package_file};

/// SMAP is off because QEMU before 9.1 applies it to an IRET executed in ring 3, where the first domain's kernel runs
/// (`docs/decisions/0009-xen-on-tcg.md`).
const XEN_WORDS: &str = "com1=115200,8n1 console=com1 vga=none dom0_mem=384M smap=0";
/// Far more than a boot took (13 to 33 s): for a machine with much other work.
const LIMIT: Duration = Duration::from_secs(400);
const DOMAIN_WORDS: &str = "console=hvc0 quiet";

/// What the first process of the first domain has to say.
const SCRIPT: &str = r#"
say "domain $(cat /sys/hypervisor/type) $(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)"
say "cpus $(grep -c ^processor /proc/cpuinfo)"
say done
"#;

/// The cloud kernel cannot be a first domain; the ordinary one can.
fn kernel() -> PathBuf {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output();
    let output = output.expect("apt-cache comes with Debian");
    let text = String::from_utf8_lossy(&output.stdout);
    let package = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let release = package.expect("linux-image-amd64 is missing: apt-get update");
    package_file(
        &format!("linux-image-{release}"),
        &format!("boot/vmlinuz-{release}"),
    )
}

/// Loaders unpack it; we take it as it is then.
fn xen(folder: &std::path::Path) -> PathBuf {
    let packed = package_file("xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz");
    let path = folder.join("xen");
    let file = std::fs::File::create(&path).expect("the folder is writable");
    let status = Command::new("gzip")
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::from(file))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "gzip unpacks Xen"
    );
    path
}

/// Runs Xen on so many processors until its first domain powers the machine off.
fn boot(cpus: usize) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(SCRIPT).write(folder.path());
    Stockade::new("run")
        .limit(LIMIT)
        .args(["--kernel".as_ref(), xen(folder.path()).as_os_str()])
        .args(["--append", XEN_WORDS, "--memory", "768M"])
        .args(["--cpus", &cpus.to_string()])
        .arg("--module")
        .arg(format!("{} {DOMAIN_WORDS}", kernel().display()))
        .arg("--module")
        .arg(initrd)
        .finish()
}

#[track_caller]
fn assert_reached_init(finished: &Finished, cpus: &str) {
    finished.assert_code(0);
    let said = findings(&finished.stdout);
    for claim in ["domain xen 4.17", cpus] {
        assert!(
            said.contains(&claim),
            "not {claim:?}\n{}",
            finished.transcript()
        );
    }
    assert_eq!(said.last(), Some(&"done"), "{}", finished.transcript());
}

#[test]
fn xen_boots_its_first_domain_to_its_init() {
    assert_reached_init(&boot(1), "cpus 1");
}

/// Xen starts the second processor by code whose place it learns from the BIOS data area, after calls of the BIOS.
#[test]
fn xen_on_two_processors_gives_both_to_its_first_domain() {
    let finished = boot(2);
    assert_reached_init(&finished, "cpus 2");
    let console = &finished.stdout;
    assert!(
        console.contains("(XEN) Brought up 2 CPUs"),
        "{}",
        finished.transcript()
    );
}
