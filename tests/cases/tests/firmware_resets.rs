//! An operating system resets the PC in the ways the firmware's shell cannot: by a triple fault and by the FADT's register, and comes back
//! through the firmware. `firmware.rs` has EFI, CF9, the keyboard controller's line and port 92.

use std::time::Duration;

use stockade_rig::firmware::linux_disk;
use stockade_rig::{Initrd, Stockade};

/// Three starts of firmware, GRUB and a kernel on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// Each life counts in the last sector of its disk, has the kernel reset in a way of its own, and the last one powers off.
const SCRIPT: &str = "modprobe -a virtio_pci virtio_blk
    sleep 1
    last=$(($(cat /sys/block/vda/size) - 1))
    life=$(dd if=/dev/vda bs=512 skip=$last count=1 2>/dev/null | tr -dc 0-9)
    life=$((${life:-0} + 1))
    printf $life | dd of=/dev/vda bs=512 seek=$last conv=notrunc,fsync 2>/dev/null
    case $life in 1) way=triple ;; 2) way=acpi ;; *) way= ;; esac
    [ -n \"$way\" ] && echo $way >/sys/kernel/reboot/type
    say \"life $life ends by ${way:-power-off}, type $(cat /sys/kernel/reboot/type)\"
    sleep 1
    [ -n \"$way\" ] && reboot -f && sleep 60";

#[test]
fn a_kernel_comes_back_from_a_triple_fault_and_from_the_fadts_reset() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(SCRIPT).modules(&["virtio_pci", "virtio_blk"]);
    let disk = linux_disk(folder.path(), &initrd, "");
    let finished = Stockade::new("run")
        .args(["--memory", "512M", "--cpus", "2"])
        .arg("--disk")
        .arg(disk)
        .limit(LIMIT)
        .finish();
    finished.assert_code(0);
    for words in [
        "life 1 ends by triple, type triple",
        "life 2 ends by acpi, type acpi",
        "life 3 ends by power-off",
    ] {
        let times = finished.stdout.matches(words).count();
        assert_eq!(times, 1, "{words}: {}", finished.transcript());
    }
    // By the shutdown of the processor, and not by what a kernel tries next.
    let resets = |words: &str| finished.stderr.matches(words).count();
    assert_eq!(resets("the guest resets by a triple fault"), 1);
    assert_eq!(resets("the guest resets"), 2);
}
