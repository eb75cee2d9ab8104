//! Disks with several rings, for the guest's processors to use at the same time.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::time::Duration;

use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade};

/// Each processor writes one half of both disks while the other one writes the other, and reads what the other wrote.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_blk
sleep 1
say "rings $(ls /sys/block/vda/mq | wc -l) $(ls /sys/block/vdb/mq | wc -l)"
dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null
half() { taskset $1 dd if=/tmp/data of=$2 bs=64k count=16 skip=$3 seek=$3 oflag=direct 2>/dev/null; }
for disk in vda vdb; do half 1 /dev/$disk 0 & half 2 /dev/$disk 16 & done
wait
again() { taskset $1 dd if=$2 of=/tmp/$3 bs=64k count=16 skip=$4 iflag=direct 2>/dev/null; }
for disk in vda vdb; do again 2 /dev/$disk $disk.0 0 & again 1 /dev/$disk $disk.1 16 & done
wait
for disk in vda vdb; do
    cat /tmp/$disk.0 /tmp/$disk.1 | cmp - /tmp/data; say "$disk $?"
done
say "used $(awk '/req/ { for (i = 2; i < 4; i++) if ($i > 0) used++ } END { print (used >= 4) }' /proc/interrupts)"
"#;

#[test]
fn two_processors_use_rings_of_their_own_of_two_disks_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    File::create(&plain)
        .and_then(|file| file.set_len(16 << 20))
        .unwrap();
    let sealed = folder.path().join("sealed");
    let made = Stockade::new("disk").args(["create", "--size", "16M"]);
    made.arg(&sealed).finish().assert_code(0);
    let initrd = Initrd::new(SCRIPT).modules(&["virtio_pci", "virtio_blk"]);
    let run = Stockade::guest("")
        .args(["--cpus", "2", "--initrd"])
        .arg(initrd.write(folder.path()))
        .args(["--disk", &plain.display().to_string()])
        .args(["--disk", &format!("{},mode=sealed", sealed.display())])
        .limit(Duration::from_secs(300))
        .finish();
    run.assert_code(0);
    assert_eq!(finding(&run.stdout, "rings"), Some("2 2"));
    for disk in ["vda", "vdb"] {
        assert_eq!(
            finding(&run.stdout, disk),
            Some("0"),
            "{}",
            run.transcript()
        );
    }
    assert_eq!(
        finding(&run.stdout, "used"),
        Some("1"),
        "{}",
        run.transcript()
    );
}
