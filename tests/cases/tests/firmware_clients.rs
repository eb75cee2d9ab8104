//! Other programs the firmware starts than an operating system's loader: iPXE from a disk, which drives the network card by itself.

use std::time::Duration;

use stockade_rig::firmware::{FirmwarePc, SecureBoot, fat_disk};
use stockade_rig::package_file;

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
