//! What an image tells its firmware: files for whoever asks, and what to start from first.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_rig::firmware::{grub_disk, linux_disk};
use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade};

/// A start of firmware and of a kernel on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

fn run() -> Stockade {
    Stockade::new("run").args(["--memory", "512M"]).limit(LIMIT)
}

/// What a kernel's driver finds: files of ours and of the image.
const NAMES: &str = "etc/acpi/rsdp etc/acpi/tables etc/e820 etc/smbios/smbios-anchor etc/smbios/smbios-tables \
    etc/system-states etc/table-loader opt/org.example/file opt/org.example/text";

/// A kernel's driver reads what the image brings, from a file and from a text; next to them is what is ours to say, and nothing of what
/// the host's QEMU tells its own guests.
#[test]
fn a_guest_reads_the_files_of_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let words = folder.path().join("words");
    let content: Vec<u8> = (0..=255).cycle().take(60_000).collect();
    fs::write(&words, &content).unwrap();
    let script = "modprobe qemu_fw_cfg || say \"no module\"
        cd /sys/firmware/qemu_fw_cfg/by_name || say \"no device\"
        say \"text $(cat opt/org.example/text/raw)\"
        cmp /words opt/org.example/file/raw && say \"file the same\"
        say \"names $(find * -type l | sort | tr '\\n' ' ')\"";
    let initrd = Initrd::new(script).modules(&["qemu_fw_cfg"]);
    let initrd = initrd.file("words", &content);
    let disk = linux_disk(folder.path(), &initrd, "");
    let run = run()
        .arg("--disk")
        .arg(disk)
        .args(["--fw-cfg", "name=opt/org.example/text,string=a=b, c"])
        .arg("--fw-cfg")
        .arg(format!(
            "name=opt/org.example/file,file={}",
            words.display()
        ))
        .args(["--qemu-arg=-fw_cfg", "--qemu-arg=name=opt/evil,string=x"])
        .finish();
    run.assert_code(0);
    assert_eq!(
        finding(&run.stdout, "text"),
        Some("a=b, c"),
        "{}",
        run.transcript()
    );
    assert_eq!(finding(&run.stdout, "file"), Some("the same"));
    assert_eq!(finding(&run.stdout, "names"), Some(NAMES));
}

#[test]
fn two_files_of_a_name_are_one_too_many() {
    let item = ["--fw-cfg", "name=opt/a,string=x"];
    let call = run().args(item).args(["--fw-cfg", "opt/a,string=y"]);
    call.finish().assert_refused(&["--fw-cfg", "opt/a"]);
}

/// A disk whose boot loader says something and switches off.
fn talking_disk(folder: &Path, words: &str) -> PathBuf {
    let place = folder.join(words);
    fs::create_dir(&place).unwrap();
    grub_disk(&place, &format!("echo {words}\nhalt\n"), &[])
}

/// Without a word the first disk starts; a boot index makes it the other, wherever it is on the bus.
#[test]
fn firmware_starts_from_the_disk_with_the_lowest_boot_index() {
    let folder = tempfile::tempdir().unwrap();
    let first = talking_disk(folder.path(), "THIS-IS-THE-FIRST");
    let second = talking_disk(folder.path(), "THIS-IS-THE-SECOND");
    let (first, second) = (first.display(), second.display());
    for (indexes, words) in [
        (["", ""], "THIS-IS-THE-FIRST"),
        (["", ",bootindex=0"], "THIS-IS-THE-SECOND"),
        ([",bootindex=9", ",bootindex=3"], "THIS-IS-THE-SECOND"),
        ([",bootindex=1", ",bootindex=3"], "THIS-IS-THE-FIRST"),
    ] {
        let [of_first, of_second] = indexes;
        let run = run()
            .args(["--net", "user"])
            .args(["--disk", &format!("{first}{of_first}")])
            .args(["--disk", &format!("{second}{of_second}")])
            .finish();
        run.assert_code(0);
        assert!(run.stdout.contains(words), "{}", run.transcript());
        let said = run.stdout.matches("THIS-IS-THE-").count();
        assert_eq!(said, 1, "{}", run.transcript());
    }
}

#[test]
fn two_disks_of_one_boot_index_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, [0; 512]).unwrap();
        format!("{},bootindex=4", path.display())
    };
    let run = run().args(["--disk", &disk("a"), "--disk", &disk("b")]);
    run.finish().assert_refused(&["bootindex=4"]);
}
