//! A host that lies about sealed disks, while they are in use and between two runs: the guest gets an I/O error for what was
//! forged and nothing else, the log has a line with a code, the other blocks and the other disks are what they were.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod forger;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forger::Forger;
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade};

/// Three machines on two processors are slow.
const LIMIT: Duration = Duration::from_secs(300);
/// Blocks of 4 KiB that the guest writes at the start of each disk.
const BLOCKS: u64 = 16;

/// The first disk is plain and says what to do with the others, so that all boots are of one image and have one key: `write=WORD`
/// fills the blocks with text of that word and their number; `read=WORD` reads them one by one and says of each `DISK NUMBER same`,
/// `error` or `other`.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_blk
sleep 1
head -c 8388608 /dev/urandom >/tmp/canary
sha256sum /tmp/canary >/tmp/canary.sum
block() { yes "$1 of $2, number $3" | head -c 4096; }
numbers="0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"
write() {
    for disk in /dev/vd[b-z]; do
        for n in $numbers; do block "$1" "$disk" $n; done >/tmp/all
        dd if=/tmp/all of=$disk bs=64k count=1 oflag=direct conv=notrunc,fsync 2>/dev/null; say "write $disk $?"
    done
}
read_all() {
    for disk in /dev/vd[b-z]; do
        for n in $numbers; do
            block "$1" "$disk" $n >/tmp/expected
            if ! dd if=$disk of=/tmp/found bs=4k skip=$n count=1 iflag=direct 2>/dev/null; then say "$disk $n error"
            elif cmp -s /tmp/expected /tmp/found; then say "$disk $n same"
            else say "$disk $n other"; fi
        done
    done
}
for word in $(head -c 512 /dev/vda | tr -d '\0'); do
    case $word in
        write=*) write "${word#write=}" ;;
        read=*) read_all "${word#read=}" ;;
    esac
done
sha256sum -c /tmp/canary.sum >/dev/null 2>&1 && say "canary ok"
"#;

fn sealed_disks(folder: &Path, count: usize) -> Vec<PathBuf> {
    let create = |index| {
        let path = folder.join(format!("disk-{index}.img"));
        let made = Stockade::new("disk")
            .args(["create", "--size", "4M"])
            .arg(&path)
            .finish();
        made.assert_code(0);
        path
    };
    (0..count).map(create).collect()
}

/// A disk that is changed once the command has looked at it.
struct Late {
    disk: PathBuf,
    changed: PathBuf,
    true_content: Vec<u8>,
}

impl Late {
    fn new(disk: &Path) -> Self {
        Self {
            disk: disk.into(),
            changed: disk.with_extension("changed"),
            true_content: fs::read(disk).unwrap(),
        }
    }

    /// Puts the true content back until the time has come.
    fn hide(self) -> Self {
        fs::copy(&self.disk, &self.changed).unwrap();
        fs::write(&self.disk, &self.true_content).unwrap();
        self
    }
}

/// A QEMU that changes the disks before anything else.
fn late_qemu(folder: &Path, disks: &[Late]) -> PathBuf {
    let copies = disks.iter().map(|late| {
        let (from, to) = (late.changed.display(), late.disk.display());
        format!("cp '{from}' '{to}'\n")
    });
    let copies: String = copies.collect();
    let path = folder.join("late-qemu");
    let script = format!("#!/bin/sh\n{copies}exec qemu-system-x86_64 \"$@\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Boots the guest with these orders.
fn boot(folder: &Path, disks: &[PathBuf], orders: &str, attack: Option<&str>) -> Finished {
    boot_with(folder, disks, orders, |guest| match attack {
        Some(attack) => guest.attacked_by(attack),
        None => guest,
    })
}

fn boot_with(
    folder: &Path,
    disks: &[PathBuf],
    orders: &str,
    more: impl FnOnce(Stockade) -> Stockade,
) -> Finished {
    let initrd = Initrd::new(SCRIPT).modules(&["virtio_pci", "virtio_blk"]);
    let paper = folder.join("orders.img");
    let mut content = orders.as_bytes().to_vec();
    content.resize(1 << 20, 0);
    fs::write(&paper, content).unwrap();
    let mut guest = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder))
        .limit(LIMIT)
        .args(["--disk", &format!("{},readonly", paper.display())]);
    for disk in disks {
        guest = guest.args(["--disk", &format!("{},mode=sealed", disk.display())]);
    }
    let finished = more(guest).finish();
    finished.assert_code(0);
    assert_eq!(finding(&finished.stdout, "canary"), Some("ok"));
    assert!(!finished.transcript().contains("panicked"));
    finished
}

/// Returns the blocks of a disk that could not be read; fails if any was read that is not as it was written.
#[track_caller]
fn errors(run: &Finished, disk: &str) -> Vec<u64> {
    let verdict = |n: u64| finding(&run.stdout, &format!("{disk} {n}"));
    let blocks = (0..BLOCKS).filter(|n| match verdict(*n) {
        Some("same") => false,
        Some("error") => true,
        other => panic!("block {n} of {disk}: {other:?}\n{}", run.transcript()),
    });
    blocks.collect()
}

/// Two rounds of writes, so that there is something older, then a look at each block.
fn lied_about(lie: &str, disks: usize) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let disks = sealed_disks(folder.path(), disks);
    let orders = "write=older write=newer read=newer";
    let run = boot(
        folder.path(),
        &disks,
        orders,
        Some(&format!("virtio-{lie}")),
    );
    run.assert_says(&[&format!("attack virtio-{lie}: ")]);
    run
}

#[test]
fn sealed_flipped_a_changed_bit_is_an_error_of_its_block_only() {
    let run = lied_about("sealed-flipped", 1);
    assert_eq!(errors(&run, "/dev/vdb"), [0], "{}", run.transcript());
    run.assert_says(&["sealed disk: D20", "for block 0"]);
}

#[test]
fn sealed_swapped_both_blocks_are_errors() {
    let run = lied_about("sealed-swapped", 1);
    assert_eq!(errors(&run, "/dev/vdb"), [0, 1], "{}", run.transcript());
    run.assert_says(&["sealed disk: D20"]);
}

#[test]
fn sealed_older_what_a_block_once_was_is_an_error() {
    let run = lied_about("sealed-older", 1);
    assert_eq!(errors(&run, "/dev/vdb"), [0], "{}", run.transcript());
    run.assert_says(&["sealed disk: D20"]);
}

#[test]
fn sealed_foreign_a_block_of_another_disk_is_an_error() {
    let run = lied_about("sealed-foreign", 2);
    assert_eq!(errors(&run, "/dev/vdb"), [0_u64; 0]);
    assert_eq!(errors(&run, "/dev/vdc"), [0], "{}", run.transcript());
    run.assert_says(&["sealed disk: D20"]);
}

#[test]
fn sealed_refused_a_block_the_host_fails_is_an_error_of_its_own_kind() {
    let run = lied_about("sealed-refused", 1);
    assert_eq!(errors(&run, "/dev/vdb"), [0], "{}", run.transcript());
    run.assert_says(&["sealed disk: D23", "block 0"]);
}

/// Two runs write, the host changes the files, and a third run looks.
#[test]
fn what_a_host_did_to_files_between_two_runs_is_an_error_where_it_did_it() {
    let folder = tempfile::tempdir().unwrap();
    let disks = sealed_disks(folder.path(), 5);
    boot(folder.path(), &disks, "write=older", None);
    let older = Forger::open(&disks[1]);
    let older = older.read(older.data(10));
    boot(folder.path(), &disks, "write=newer", None);
    let [untouched, forged, leaf, cut, header] =
        [0, 1, 2, 3, 4].map(|index: usize| Forger::open(&disks[index]));
    forged.flip(forged.data(3), 77);
    let pair = [5, 6].map(|n| forged.read(forged.data(n)));
    forged.write(forged.data(5), &pair[1]);
    forged.write(forged.data(6), &pair[0]);
    forged.write(forged.data(8), &untouched.read(untouched.data(8)));
    forged.write(forged.data(10), &older);
    leaf.flip(leaf.leaf(0), 8);
    // What the command would see itself the host does after it has looked.
    let late = [&disks[3], &disks[4]].map(|disk| Late::new(disk));
    cut.truncate();
    header.flip(stockade_storage::HostBlock(0), 30);
    let late = late.map(Late::hide);

    let qemu = late_qemu(folder.path(), &late);
    let run = boot_with(folder.path(), &disks, "read=newer", |guest| {
        guest.arg("--qemu").arg(&qemu)
    });
    assert_eq!(errors(&run, "/dev/vdb"), [0_u64; 0]);
    let transcript = run.transcript();
    assert_eq!(errors(&run, "/dev/vdc"), [3, 5, 6, 8, 10], "{transcript}");
    let all: Vec<u64> = (0..BLOCKS).collect();
    assert_eq!(errors(&run, "/dev/vdd"), all, "{transcript}");
    // The last two are not there at all.
    let said = findings(&run.stdout);
    assert!(!said.iter().any(|line| line.starts_with("/dev/vde")));
    run.assert_says(&["D20", "for block 3", "for block 10", "D21", "D05", "D04"]);
}
