//! A PCI function as the stock kernel finds it: its windows, its interrupts in all three ways, and moved to where the kernel likes.

use stockade_rig::guest::findings;
use stockade_rig::{Initrd, Stockade};

/// Loads the driver and says what became of the function; `dd` from the entropy source proves that interrupts arrive.
const SCRIPT: &str = r#"
D=/sys/bus/pci/devices/0000:00:01.0
modprobe virtio_pci
modprobe virtio_rng
say "identity $(cat $D/vendor) $(cat $D/device) $(cat $D/class)"
windows() { awk '$2 != "0x0000000000000000" { print $1 }' $D/resource | while read -r at; do say "window $at"; done; }
draw() {
    say "source $(cat /sys/class/misc/hw_random/rng_current)"
    say "bytes $(dd if=/dev/hwrng bs=16 count=8 2>/dev/null | wc -c)"
}
interrupts() { awk '/virtio/ && $2 > 0 { sub(":", "", $1); print $1, $3, $NF }' /proc/interrupts | while read -r it; do say "interrupt $it"; done; }
windows
draw
interrupts
"#;

/// The kernel gives the function new places when it finds it again: 64-bit windows above 4 GiB.
const MOVE: &str = r#"
echo 1 >$D/remove
echo 1 >/sys/bus/pci/rescan
windows
draw
echo 0000:00:01.0 >/sys/bus/pci/drivers/virtio-pci/unbind
say "reset $(cat $D/reset_method)"
echo 1 >$D/reset && say "reset done"
echo 0000:00:01.0 >/sys/bus/pci/drivers/virtio-pci/bind
draw
"#;

const COMPLAIN: &str = r#"
dmesg | grep -iE "irq.*nobody cared|can.t (claim|assign|reserve)|conflict|ACPI (Error|BIOS Error)|BUG:|WARNING:|no compatible bridge" |
    grep -v 'Speculative Return Stack' | while read -r line; do say "complaint $line"; done
say done
"#;

/// Boots the kernel with an entropy source; returns what the script says.
fn boot(words: &str, more: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd =
        Initrd::new(&format!("{SCRIPT}{more}{COMPLAIN}")).modules(&["virtio_pci", "virtio_rng"]);
    let finished = Stockade::guest(words)
        .arg("--rng")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .finish();
    finished.assert_code(0);
    let found = findings(&finished.stdout);
    assert_eq!(found.last(), Some(&"done"), "{}", finished.transcript());
    found.into_iter().map(str::to_owned).collect()
}

const START: [&str; 5] = [
    "identity 0x1af4 0x1044 0x00ff00",
    "window 0x00000000c0000000",
    "window 0x00000000c0004000",
    "source virtio_rng.0",
    "bytes 128",
];

#[test]
fn function_works_by_messages_and_moves_above_4_gib() {
    let found = boot("", MOVE);
    assert_eq!(found[..5], START);
    assert!(found[5].ends_with("PCI-MSI virtio0-input"), "{found:?}");
    let moved = [
        "window 0x00000000c0000000",
        "window 0x0000010000000000",
        "source virtio_rng.0",
        "bytes 128",
        "reset af_flr",
        "reset done",
        "source virtio_rng.0",
        "bytes 128",
        "done",
    ];
    assert_eq!(found[6..], moved);
}

#[test]
fn function_works_by_its_wire_at_the_ioapic() {
    let found = boot("pci=nomsi", "");
    assert_eq!(found[..5], START);
    assert_eq!(found[5..], ["interrupt 17 IO-APIC virtio0", "done"]);
}

#[test]
fn function_works_by_its_wire_at_the_8259s() {
    let found = boot("noapic pci=nomsi", "");
    assert_eq!(found[..5], START);
    assert_eq!(found[5..], ["interrupt 10 XT-PIC virtio0", "done"]);
}
