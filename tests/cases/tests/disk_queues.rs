//! Disks with several requests at a time: by several rings, from the guest's processors, and large ones side by side.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade, appended};

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

/// A plain disk and a sealed one, 16 MiB each, as `--disk` takes them.
fn disks(folder: &Path) -> [String; 2] {
    let plain = folder.join("plain");
    File::create(&plain)
        .and_then(|file| file.set_len(16 << 20))
        .unwrap();
    let sealed = folder.join("sealed");
    let made = Stockade::new("disk").args(["create", "--size", "16M"]);
    made.arg(&sealed).finish().assert_code(0);
    [
        plain.display().to_string(),
        format!("{},mode=sealed", sealed.display()),
    ]
}

#[test]
fn two_processors_use_rings_of_their_own_of_two_disks_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, sealed] = disks(folder.path());
    let initrd = Initrd::new(SCRIPT).modules(&["virtio_pci", "virtio_blk"]);
    let run = Stockade::guest("")
        .args(["--cpus", "2", "--initrd"])
        .arg(initrd.write(folder.path()))
        .args(["--disk", &plain, "--disk", &sealed])
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

/// Memory in large pages, so that a request of 1 MiB has few enough pieces for one; what a disk has carried says how large requests were.
const LARGE: &str = r#"
modprobe -a virtio_pci virtio_blk
sleep 1
echo 24 >/proc/sys/vm/nr_hugepages
for disk in vda vdb; do
    read -r reads _ read _ writes _ written _ </sys/block/$disk/stat; before=$((reads + writes)) sectors=$((read + written))
    fio --name=large --filename=/dev/$disk --size=16M --rw=randwrite --bs=1M --ioengine=libaio --direct=1 --iodepth=8 --mem=mmaphuge \
        --hugepage-size=2M --verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=1 >/tmp/log 2>&1
    say "$disk $?"
    grep -iE 'verify|error|bad' /tmp/log | head -3
    read -r reads _ read _ writes _ written _ </sys/block/$disk/stat
    say "$disk-requests $((reads + writes - before))"
    say "$disk-sectors $((read + written - sectors))"
done
"#;

/// Eight of them are 8 MiB, and half of `--bounce` is 2: those that find no room wait for it.
#[test]
fn requests_of_a_mib_side_by_side_wait_for_room_and_carry_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, sealed] = disks(folder.path());
    let initrd = Initrd::new(LARGE)
        .modules(&["virtio_pci", "virtio_blk"])
        .fio();
    let run = Stockade::new("run")
        .args(["--memory", "768M", "--append", &appended(""), "--initrd"])
        .arg(initrd.write(folder.path()))
        .args(["--disk", &plain, "--disk", &sealed])
        .limit(Duration::from_secs(300))
        .finish();
    run.assert_code(0);
    for disk in ["vda", "vdb"] {
        let number = |name: &str| -> u64 {
            let found = finding(&run.stdout, &format!("{disk}{name}"));
            found.unwrap_or_default().parse().unwrap_or(u64::MAX)
        };
        assert_eq!(number(""), 0, "{}", run.transcript());
        // Written and read once each; a few small ones are the kernel's own looks at the disk.
        let (requests, sectors) = (number("-requests"), number("-sectors"));
        assert!((2 * 32768..3 * 32768).contains(&sectors), "{sectors}");
        assert!(
            (32..40).contains(&requests),
            "{requests}: {}",
            run.transcript()
        );
    }
}
