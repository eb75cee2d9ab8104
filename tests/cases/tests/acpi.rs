//! The ACPI tables as the guest has them in memory, judged by Intel's own compiler: those of each configuration, as the paravisor leaves them
//! for a kernel, and as stock firmware puts them together by the loader script.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stockade_rig::firmware::grub_disk;
use stockade_rig::{Finished, Stockade, command_line, guest, workshop};

/// What the default guest does: it shows every table the kernel knows.
const SHOW_TABLES: &str = "stockade.mode=acpi";
/// Every machine's.
const ALWAYS: [&str; 8] = [
    "APIC", "DSDT", "FACP", "FACS", "MCFG", "SPCR", "WAET", "WSMT",
];
/// What comes of [`WITH_ALL`].
const OF_DEVICES: [&str; 2] = ["HPET", "TPM2"];
/// All that a table comes of.
const WITH_ALL: [&str; 4] = ["--hpet", "--tpm", "--cpus", "2"];

/// Runs a tool of ACPICA in `folder`; returns all it said.
fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("iasl is missing: apt-get install acpica-tools");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    text
}

/// Fails unless the guest has these tables and no others, and each is taken apart as what it is called and put together again without a
/// complaint.
#[track_caller]
fn assert_tables(finished: &Finished, expected: &[&[&str]]) {
    finished.assert_code(0);
    let mut expected = expected.concat();
    expected.sort_unstable();
    let findings = guest::findings(&finished.stdout);
    let begun = findings.iter().filter_map(|it| it.strip_prefix("begin "));
    let mut names: Vec<&str> = begun.collect();
    names.sort_unstable();
    assert_eq!(names, expected, "{}", finished.transcript());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in names {
        let table = guest::dump(&finished.stdout, name)
            .unwrap_or_else(|| unreachable!("half a {name}\n{}", finished.transcript()));
        assert_eq!(&table[..4], name.as_bytes());
        if name != "FACS" {
            let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "the checksum of {name}");
        }
        let (aml, dsl) = (format!("{name}.aml"), format!("{name}.dsl"));
        fs::write(folder.path().join(&aml), table).expect("it is writable");
        let text = iasl(folder.path(), &["-d", &aml]);
        // Data it has no template for are not formatted beyond their header.
        let taken_apart = if name == "DSDT" {
            "ASL Output:"
        } else {
            "Formatted output:"
        };
        let is_known = text.contains(taken_apart) && !text.contains("Unknown");
        let is_clean = !text.contains("Warning") && !text.contains("Error");
        assert!(is_known && is_clean, "{name}: {text}");
        let text = iasl(folder.path(), &["-we", &dsl]);
        let is_clean = text.contains("Compilation successful. 0 Errors, 0 Warnings");
        assert!(is_clean, "{name}: {text}");
    }
}

#[test]
fn the_tables_the_guest_sees_disassemble_and_compile_without_errors() {
    let finished = Stockade::guest(SHOW_TABLES).finish();
    assert_tables(&finished, &[&ALWAYS]);
}

#[test]
fn the_tables_of_every_device_disassemble_and_compile_without_errors() {
    let finished = Stockade::guest(SHOW_TABLES).args(WITH_ALL).finish();
    assert_tables(&finished, &[&ALWAYS, &OF_DEVICES]);
}

/// With a screen the firmware adds a table of its own: where its picture is.
#[test]
fn the_tables_firmware_installs_disassemble_and_compile_without_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let words = command_line(SHOW_TABLES);
    let script = format!("linux /vmlinuz {words}\ninitrd /initrd\nboot\n");
    let read = |path: &Path| fs::read(path).expect("the workshop made it");
    let files: [(&str, &[u8]); 2] = [
        ("vmlinuz", &read(&workshop().kernel)),
        ("initrd", &read(&workshop().initramfs)),
    ];
    let finished = Stockade::new("run")
        .args(WITH_ALL)
        .args(["--memory", "512M", "--disk"])
        .arg(grub_disk(folder.path(), &script, &files))
        .arg("--framebuffer")
        .arg(folder.path().join("screen.ppm"))
        .limit(Duration::from_secs(600))
        .finish();
    assert_tables(&finished, &[&ALWAYS, &OF_DEVICES, &["BGRT"]]);
}
