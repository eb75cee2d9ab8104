//! Other programs the firmware starts than an operating system's loader: iPXE from a disk, which drives the network card by itself, and the
//! firmware's own shell.

use std::time::Duration;

use stockade_rig::firmware::{FirmwarePc, SecureBoot, fat_disk};
use stockade_rig::shell::{self, Variable};
use stockade_rig::{Running, package_file};

/// Where firmware looks on a disk it knows nothing of.
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

#[test]
fn ipxe_gets_an_address() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = package_file("ipxe", "boot/ipxe.efi");
    let program = std::fs::read(program).expect("the package is whole");
    let disk = fat_disk(folder.path(), &[(LOADER, &program)]);
    let pc = FirmwarePc::new(folder.path(), SecureBoot::Off);
    let pc = pc.disk(&disk).memory_mib(512).card();
    let mut machine = pc.limit(Duration::from_secs(420)).confidentially().start();
    machine.expect("iPXE initialising devices");
    machine.expect("Configuring (net0");
    machine.expect(" ok");
    // It looks for something to boot for ever; dropped, the machine is switched off.
}

/// Returns the machine's UUID as the shell dumps it.
fn identity(machine: &mut Running) -> String {
    let answer = shell::ask(machine, "smbiosview -t 1");
    let dump = answer.split_once("Dump Uuid").and_then(|(_, rest)| {
        let (_, digits) = rest.split_once("00000000: ")?;
        Some(digits.split_once('*')?.0.trim().to_owned())
    });
    let dump = dump.unwrap_or_else(|| unreachable!("no UUID: {answer}"));
    assert_eq!(dump.len(), 3 * 16 - 1, "{dump}");
    dump
}

/// It looks at the machine: its version, memory, PCI functions, SMBIOS tables, variables; and one of its own is there after the next
/// power-on.
#[test]
fn the_shell_finds_the_machine_and_keeps_a_variable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let color = Variable("Color");
    // A disk to look at. With a network card and nothing to start, the firmware would try the network for minutes first.
    let disk = fat_disk(folder.path(), &[]);
    let pc = FirmwarePc::new(folder.path(), SecureBoot::Off);
    let pc = pc.disk(&disk).memory_mib(512);
    let pc = pc.limit(Duration::from_secs(420));
    let mut machine = pc.confidentially().start();
    shell::enter(&mut machine);
    for (line, words) in [
        ("ver", ["UEFI Interactive Shell v2.2", "UEFI v2.70"]),
        ("memmap", ["ACPI_Recl", "511 MB (536,477,696 Bytes)"]),
        ("pci", ["Host/PCI bridge", "Vendor 1AF4 Device 1042"]),
        (
            "smbiosview -t 1",
            ["Manufacturer: Stockade", "Stockade Q35"],
        ),
        ("smbiosview -t 4", ["Processor Information", "ProcessorId"]),
        ("dmpstore BootOrder", ["EFIGlobalVariable", "DataSize"]),
    ] {
        let answer = shell::ask(&mut machine, line);
        for word in words {
            assert!(answer.contains(word), "{line}: {word}: {answer}");
        }
    }
    let identity = identity(&mut machine);
    color.set(&mut machine, b"teal");
    machine.send(b"reset -s\r");
    machine.finish().assert_code(0);
    let mut machine = pc.confidentially().start();
    shell::enter(&mut machine);
    assert_eq!(color.read(&mut machine), b"teal");
    assert_eq!(self::identity(&mut machine), identity);
    machine.send(b"reset -s\r");
    machine.finish().assert_code(0);
}
