//! Disks, as a guest uses them: a file system, a workload that checks what it wrote, a reboot, and what the host has of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, appended, host_view, package_file};

const DISK_BYTES: u64 = 128 << 20;
/// TCG runs the workload at a fraction of a processor's speed.
const LIMIT: Duration = Duration::from_secs(400);
/// Written by the guest, looked for in the host's file.
const SECRET: &str = "nobody-but-the-guest-wrote-this-line";
/// Files of the workload that are this and nothing else.
const PATTERN: &str = "pattern-of-guest";
/// What else a file system holds: names of its own, and its label.
const WORDS: [&str; 5] = [
    SECRET,
    PATTERN,
    "lost+found",
    "direct-random.0.0",
    "label-of-guest",
];

/// Loads the drivers. The first boot makes the file system if there is none; a workload of `fio` writes and checks 80 MiB; the guest
/// reboots itself; the second boot checks all of it again, and the file system.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_blk
sleep 1
[ -b /dev/vda ] || { say "no disk"; poweroff -f; }
say "sectors $(cat /sys/block/vda/size)"
mkdir -p /m
mount -t ext4 /dev/vda /m 2>/dev/null || { /sbin/mke2fs -q -t ext4 -L label-of-guest /dev/vda && mount -t ext4 /dev/vda /m; }
grep -q ' /m ' /proc/mounts || { say "no file system"; poweroff -f; }
job() {
    fio --name="$1" --directory=/m --size=4M --ioengine="$2" --direct="$3" --rw="$4" --bs=16k --iodepth=8 --numjobs=4 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --fallocate=none --randrepeat=1 --group_reporting $5 >/tmp/fio.log 2>&1
    say "$1 $6 $?"
    grep -iE 'verify|error|bad' /tmp/fio.log | head -3
}
all() {
    job direct-random libaio 1 randwrite "$1" "$2"
    job direct-sequential libaio 1 write "$1" "$2"
    job buffered-random psync 0 randwrite "$1" "$2"
    job buffered-sequential psync 0 write "$1" "$2"
    # "pattern-of-guest"
    job pattern psync 0 write "--verify=pattern --verify_pattern=0x7061747465726e2d6f662d6775657374 $1" "$2"
}
if [ -f /m/secret ]; then
    say "secret $(cat /m/secret)"
    all --verify_only again
    umount /m
    /sbin/e2fsck -fn /dev/vda >/tmp/fsck.log 2>&1
    say "fsck $?"
else
    all "" written
    echo nobody-but-the-guest-wrote-this-line >/m/secret
    sync
    umount /m
    reboot -f
    sleep 60
fi
"#;

fn initrd(folder: &Path) -> PathBuf {
    Initrd::new(SCRIPT)
        .modules(&["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"])
        .fio()
        .ext4()
        .write(folder)
}

fn disk_file(folder: &Path) -> PathBuf {
    let path = folder.join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    path
}

fn run(folder: &Path, disk: &Path, words: &str, arguments: &[&str]) -> Finished {
    let disk = format!("{}{words}", disk.display());
    // Half of the memory is for the files of the initramfs, and fio brings many.
    Stockade::new("run")
        .args(["--memory", "768M", "--append", &appended("")])
        .args(arguments)
        .arg("--initrd")
        .arg(initrd(folder))
        .args(["--disk", &disk])
        .limit(LIMIT)
        .finish()
}

/// Everything the script says of a disk in good order.
fn assert_all_good(run: &Finished) {
    run.assert_code(0);
    let said = findings(&run.stdout);
    for job in [
        "direct-random",
        "direct-sequential",
        "buffered-random",
        "buffered-sequential",
        "pattern",
    ] {
        for time in ["written", "again"] {
            let good = format!("{job} {time} 0");
            assert!(said.contains(&good.as_str()), "{}", run.transcript());
        }
    }
    assert_eq!(finding(&run.stdout, "secret"), Some(SECRET));
    assert_eq!(finding(&run.stdout, "fsck"), Some("0"));
}

/// Also the control of the test on a sealed disk: in plain mode the same search finds the guest's words.
#[test]
fn a_plain_disk_keeps_what_a_workload_wrote_over_a_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk_file(folder.path());
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-L", "label-of-guest"])
        .arg(&disk)
        .status();
    assert!(made.unwrap().success());
    // The least there is: half of what it has by itself.
    let run = run(folder.path(), &disk, "", &["--bounce", "2M"]);
    assert_all_good(&run);
    for word in WORDS {
        assert!(host_view::count(&disk, word.as_bytes()) > 0, "{word}");
    }
    let checked = Command::new("e2fsck").arg("-fn").arg(&disk).output();
    assert_eq!(checked.unwrap().status.code(), Some(0));
}

fn sealed_disk(folder: &Path) -> PathBuf {
    let path = folder.join("sealed.img");
    let made = Stockade::new("disk")
        .args(["create", "--size", "128M"])
        .arg(&path)
        .finish();
    made.assert_code(0);
    path
}

/// The guest makes the file system itself; the host never has a byte of it in clear.
#[test]
fn a_sealed_disk_keeps_what_a_workload_wrote_and_shows_the_host_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = sealed_disk(folder.path());
    let run = run(folder.path(), &disk, ",mode=sealed", &[]);
    assert_all_good(&run);
    for word in WORDS {
        assert_eq!(host_view::count(&disk, word.as_bytes()), 0, "{word}");
    }
    assert!(run.stderr.contains("sealed, Formatted"), "{}", run.stderr);
}

/// Writes the first MiB of a disk and reads it again.
fn touch(disk: &Path, folder: &Path, words: &str) -> Finished {
    let script = "modprobe -a virtio_pci virtio_blk
        sleep 1
        [ -b /dev/vda ] || say \"no disk\"
        [ -f /sys/block/vda/size ] && dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null; say \"write $?\"
        echo 3 >/proc/sys/vm/drop_caches
        dd if=/dev/vda of=/dev/null bs=64k count=16 2>/dev/null; say \"read $?\"";
    let initrd = Initrd::new(script).modules(&["virtio_pci", "virtio_blk"]);
    Stockade::guest(words)
        .arg("--initrd")
        .arg(initrd.write(folder))
        .args(["--disk", &format!("{},mode=sealed", disk.display())])
        .finish()
}

/// Another image gets another key of the secure processor.
#[test]
fn a_sealed_disk_opens_for_its_own_image_only() {
    let folder = tempfile::tempdir().unwrap();
    let disk = sealed_disk(folder.path());
    let own = touch(&disk, folder.path(), "");
    own.assert_code(0);
    assert_eq!(finding(&own.stdout, "read"), Some("0"));
    let other = touch(&disk, folder.path(), "another.image");
    other.assert_code(0);
    assert_eq!(finding(&other.stdout, "no"), Some("disk"));
    other.assert_says(&["D06", "probably sealed by another image", "--seal family"]);
    let again = touch(&disk, folder.path(), "");
    assert_eq!(finding(&again.stdout, "read"), Some("0"));
}

/// The guest can write neither by its driver, which is told, nor past it.
/// Firmware that set the disks' queues up would have some of them in memory that the image is loaded to later, and QEMU write there.
#[test]
fn the_firmware_of_the_model_leaves_disks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("firmware.log");
    let disks = ["first", "second"].map(|name| folder.path().join(name));
    let mut machine = Stockade::guest("stockade.mode=check");
    for disk in &disks {
        File::create(disk).unwrap().set_len(1 << 20).unwrap();
        machine = machine.arg("--disk").arg(disk);
    }
    let run = machine
        .arg("--qemu-arg=-debugcon")
        .arg(format!("--qemu-arg=file:{}", log.display()))
        .arg("--qemu-arg=-global")
        .arg("--qemu-arg=isa-debugcon.iobase=0x402")
        .finish();
    run.assert_code(0);
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(
        said.matches("skipping init of a non-bootable virtio-blk")
            .count(),
        2,
        "{said}"
    );
    assert!(!said.contains("virtio mode"), "{said}");
}

#[test]
fn a_read_only_disk_is_read_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk_file(folder.path());
    let content: Vec<u8> = (0..DISK_BYTES / 8).flat_map(u64::to_le_bytes).collect();
    std::fs::write(&disk, &content).unwrap();
    let script = "modprobe -a virtio_pci virtio_blk
        sleep 1
        say \"ro $(cat /sys/block/vda/ro)\"
        say \"serial $(cat /sys/block/vda/serial)\"
        say \"sum $(md5sum /dev/vda | cut -c1-32)\"
        dd if=/dev/zero of=/dev/vda bs=4k count=1 2>/dev/null; say \"write $?\"";
    let initrd = Initrd::new(script).modules(&["virtio_pci", "virtio_blk"]);
    let run = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .args(["--disk", &format!("{},readonly", disk.display())])
        .finish();
    run.assert_code(0);
    assert_eq!(finding(&run.stdout, "ro"), Some("1"));
    // What the driver asks for when it wants to know which disk this is.
    assert_eq!(finding(&run.stdout, "serial"), Some("stockade-disk-00"));
    let sum = Command::new("md5sum").arg(&disk).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(finding(&run.stdout, "sum"), sum.get(..32));
    assert_eq!(finding(&run.stdout, "write"), Some("1"));
    assert!(std::fs::read(&disk).unwrap() == content);
}

/// Writes 4 MiB from the first MiB on and reads them again.
const WRITE_AND_READ: &str = "modprobe -a virtio_pci virtio_blk
    sleep 1
    say \"sectors $(cat /sys/block/vda/size)\"
    yes nobody-but-the-guest-wrote-this-line | head -c 4194304 >/tmp/written
    dd if=/tmp/written of=/dev/vda bs=64k seek=16 conv=notrunc,fsync 2>/dev/null; say \"write $?\"
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda of=/tmp/read bs=64k skip=16 count=64 2>/dev/null; say \"read $?\"
    cmp /tmp/written /tmp/read; say \"compared $?\"";

fn qemu_img(arguments: &[&OsStr]) {
    let program = package_file("qemu-utils", "usr/bin/qemu-img");
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The file grows with what is in it, and the guest sees a disk as any other.
#[test]
fn a_disk_in_qemus_own_format_is_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (disk, raw) = (path("disk.qcow2"), path("disk.img"));
    let words = |words: [&'static str; 4]| words.map(OsStr::new);
    let [create, flag, format, size] = words(["create", "-f", "qcow2", "64M"]);
    qemu_img(&[create, flag, format, disk.as_ref(), size]);
    let run = Stockade::guest("")
        .arg("--initrd")
        .arg(
            Initrd::new(WRITE_AND_READ)
                .modules(&["virtio_pci", "virtio_blk"])
                .write(folder.path()),
        )
        .args(["--disk", &format!("{},format=qcow2", disk.display())])
        .finish();
    run.assert_code(0);
    assert_eq!(finding(&run.stdout, "sectors"), Some("131072"));
    for what in ["write", "read", "compared"] {
        let found = finding(&run.stdout, what);
        assert_eq!(found, Some("0"), "{what}: {}", run.transcript());
    }
    let bytes = disk.metadata().unwrap().len();
    assert!((4 << 20..16 << 20).contains(&bytes), "{bytes}");
    let [convert, flag, format, _] = words(["convert", "-O", "raw", ""]);
    qemu_img(&[convert, flag, format, disk.as_ref(), raw.as_ref()]);
    let content = std::fs::read(&raw).unwrap();
    let line = format!("{SECRET}\n").into_bytes();
    let (before, from) = content.split_at(1 << 20);
    let (written, behind) = from.split_at(4 << 20);
    assert!(written.iter().eq(line.iter().cycle().take(4 << 20)));
    assert!(before.iter().chain(behind).all(|byte| *byte == 0));
}

/// What the guest gives up reads as zeros, on a plain disk also for the host: its file has holes there. A sealed disk keeps its file as it is.
#[test]
fn ranges_the_guest_gives_up_are_zeros_and_the_plain_file_gives_them_back() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.img");
    std::fs::write(&plain, vec![0xA5; 16 << 20]).unwrap();
    let room = |path: &Path| path.metadata().unwrap().blocks() * 512;
    let before = room(&plain);
    let script = "modprobe -a virtio_pci virtio_blk
        sleep 1
        dd if=/dev/vda of=/dev/vdb bs=128k conv=fsync 2>/dev/null
        for disk in /dev/vda /dev/vdb; do
            blkdiscard -o 4194304 -l 8388608 $disk
            say \"$disk discard $?\"
            dd if=$disk bs=1M skip=4 count=8 iflag=direct 2>/dev/null | tr -d '\\0' >/tmp/left
            say \"$disk left $(wc -c </tmp/left)\"
            dd if=$disk bs=1M skip=3 count=1 iflag=direct 2>/dev/null | tr -d '\\245' >/tmp/other
            say \"$disk other $(wc -c </tmp/other)\"
        done
        sync";
    let initrd = Initrd::new(script).modules(&["virtio_pci", "virtio_blk"]);
    let run = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .args(["--disk", &plain.display().to_string()])
        .args([
            "--disk",
            &format!("{},mode=sealed", sealed_disk(folder.path()).display()),
        ])
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    for disk in ["/dev/vda", "/dev/vdb"] {
        for what in ["discard", "left", "other"] {
            let found = finding(&run.stdout, &format!("{disk} {what}"));
            assert_eq!(found, Some("0"), "{}", run.transcript());
        }
    }
    assert!(room(&plain) + (8 << 20) <= before, "{}", room(&plain));
}

/// What a file system has no use for any more is given up when the guest says so, and the host's file shrinks while the guest runs.
#[test]
fn fstrim_gives_the_host_back_what_a_deleted_file_had_on_a_plain_disk() {
    use std::os::unix::fs::MetadataExt as _;
    const FILE_MIB: u64 = 48;
    let folder = tempfile::tempdir().unwrap();
    let disk = disk_file(folder.path());
    let room_mib = || disk.metadata().unwrap().blocks() / 2048;
    let script = format!(
        "modprobe -a virtio_pci virtio_blk
        sleep 1
        /sbin/mke2fs -q -t ext4 /dev/vda
        mkdir -p /m
        mount -t ext4 /dev/vda /m
        echo nobody-but-the-guest-wrote-this-line >/m/secret
        dd if=/dev/urandom of=/m/large bs=1M count={FILE_MIB} conv=fsync 2>/dev/null
        sync
        say \"wrote $?\"
        read line
        rm /m/large
        sync
        fstrim /m
        say \"trimmed $?\"
        read line
        umount /m
        /sbin/e2fsck -fn /dev/vda >/tmp/fsck.log 2>&1
        say \"fsck $?\"
        mount -t ext4 -o ro /dev/vda /m
        say \"secret $(cat /m/secret)\""
    );
    let initrd = Initrd::new(&script)
        .modules(&["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"])
        .ext4();
    let mut machine = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--disk")
        .arg(&disk)
        .limit(LIMIT)
        .start();
    machine.expect("wrote 0");
    let full = room_mib();
    assert!(full >= FILE_MIB, "{full} MiB");
    machine.send_line("go on");
    machine.expect("trimmed 0");
    let left = room_mib();
    assert!(left + FILE_MIB * 9 / 10 <= full, "{left} of {full} MiB");
    machine.send_line("go on");
    let run = machine.finish();
    run.assert_code(0);
    assert_eq!(finding(&run.stdout, "fsck"), Some("0"));
    assert_eq!(finding(&run.stdout, "secret"), Some(SECRET));
}
