//! What outlives a machine: `--state` remembers how new each sealed disk is, so that a host that brings back an older one is noticed.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use stockade_rig::guest::finding;
use stockade_rig::word_disk::{WordDisk, assert_missing, assert_opens};
use stockade_rig::{Finished, Initrd, Stockade};

/// A folder with a disk, a state and an initramfs: all of one machine.
struct Machine(WordDisk);

impl Machine {
    fn new() -> Self {
        let machine = Self(WordDisk::new());
        machine.0.create(&[]);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn disk(&self) -> PathBuf {
        self.0.disk()
    }

    fn store(&self) -> PathBuf {
        self.path("state/stockade.store")
    }

    /// The machine with its disk and its state; the guest does the same every time, so it is the same image.
    fn start(&self) -> Stockade {
        self.start_with(&self.path("state"))
    }

    fn start_with(&self, state: &Path) -> Stockade {
        self.0
            .guest("test.write=abc")
            .args(["--disk", &self.0.disk_as("mode=sealed")])
            .arg("--state")
            .arg(state)
    }

    fn run(&self) -> Finished {
        let run = self.start().finish();
        run.assert_code(0);
        run
    }

    /// Runs, and expects the disk to be what the last run left.
    fn run_well(&self, was: &str) -> Finished {
        let run = self.run();
        assert_opens(&run, was);
        run
    }

    /// Runs, and expects that the guest has no disk and our log says why.
    fn run_refused(&self, code: &str) -> Finished {
        let run = self.run();
        assert_missing(&run, &[code]);
        run
    }

    fn keep(&self) -> Copies {
        Copies {
            disk: fs::read(self.disk()).unwrap(),
            store: fs::read(self.store()).unwrap(),
        }
    }
}

/// Both files as they once were.
struct Copies {
    disk: Vec<u8>,
    store: Vec<u8>,
}

/// An older disk is refused, an older store too; both together are what the documents say is not noticed; and with everything in
/// its place again nothing is lost.
#[test]
fn a_disk_or_a_store_brought_back_alone_is_noticed() {
    let machine = Machine::new();
    let first = machine.run_well("");
    first.assert_says(&["Formatted", "remembered by the store from now on"]);
    let old = machine.keep();
    machine
        .run_well("abc")
        .assert_says(&["as the store remembers it"]);
    machine.run_well("abc");
    let new = machine.keep();
    assert!(old.disk != new.disk && old.store != new.store);

    fs::write(machine.disk(), &old.disk).unwrap();
    machine.run_refused("D07");
    fs::write(machine.disk(), &new.disk).unwrap();
    fs::write(machine.store(), &old.store).unwrap();
    machine.run_refused("D09");
    // Nothing outside both files remembers more.
    fs::write(machine.disk(), &old.disk).unwrap();
    let both = machine.run_well("abc");
    both.assert_says(&["of unknown age"]);

    fs::write(machine.disk(), &new.disk).unwrap();
    fs::write(machine.store(), &new.store).unwrap();
    machine.run_well("abc");
}

/// A store that is emptied, damaged, cut short, or another machine's: the disk is not there, the guest runs.
#[test]
fn a_store_that_is_not_the_one_takes_its_disks_away_and_nothing_else() {
    let machine = Machine::new();
    machine.run_well("");
    machine.run_well("abc");
    let whole = machine.keep();

    let mut flipped = whole.store.clone();
    // In the tag of the first entry, on which later ones depend.
    flipped[4096 + 52] ^= 1;
    fs::write(machine.store(), &flipped).unwrap();
    machine.run_refused("S07").assert_says(&["D15"]);

    fs::remove_file(machine.store()).unwrap();
    machine.run_refused("D14");

    // Another chip's keys made this one.
    let other = Machine::new();
    let run = other.start().args(["--model-arg", "seed=7"]).finish();
    run.assert_code(0).assert_says(&["remembered by the store"]);
    fs::copy(other.store(), machine.store()).unwrap();
    machine.run_refused("S06").assert_says(&["D15"]);

    fs::write(machine.store(), &whole.store).unwrap();
    machine.run_well("abc");
}

/// A host that does not connect what the image counts on: what it measures is what its operator had in mind, what it launches is not.
#[test]
fn a_store_left_out_by_the_host_takes_its_disks_away() {
    let machine = Machine::new();
    let disk = machine.0.disk_as("mode=sealed");
    let image = machine.path("guest.igvm");
    let initrd = machine.0.initrd();
    Stockade::new("build")
        .arg("-o")
        .arg(&image)
        .arg("--initrd")
        .arg(initrd)
        .args(["--disk", &disk, "--state", "wherever"])
        .finish()
        .assert_code(0);
    let run = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd)
        .args(["--disk", &disk])
        .swapped_for(&image)
        .finish();
    run.assert_code(17);
    assert_missing(&run, &["D15"]);
}

/// Runs with a state that cannot be used: one line, an exit code, and not a byte of the folder changed.
fn assert_refused(machine: &Machine, state: &Path, words: &[&str]) {
    let before = snapshot(machine.0.folder());
    machine.start_with(state).finish().assert_refused(words);
    assert!(snapshot(machine.0.folder()) == before);
}

/// Every file and folder below a folder, with its content.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
            all.push((path, None));
        } else {
            let content = fs::read(&path).unwrap();
            all.push((path, Some(content)));
        }
    }
    all.sort();
    all
}

#[test]
fn a_state_that_cannot_be_used_is_refused_and_nothing_of_it_changed() {
    let machine = Machine::new();
    let state = machine.path("state");
    let store = machine.store();
    fs::write(&state, "a file").unwrap();
    assert_refused(&machine, &state, &["state", "not a directory"]);
    fs::remove_file(&state).unwrap();
    let nowhere = machine.path("no/such/place");
    assert_refused(&machine, &nowhere, &["no/such/place", "--state"]);
    // A file system nobody writes to, whoever he is.
    assert_refused(
        &machine,
        Path::new("/sys/kernel"),
        &["/sys/kernel", "--state"],
    );

    fs::create_dir(&state).unwrap();
    fs::create_dir(&store).unwrap();
    assert_refused(&machine, &state, &["state", "--state"]);
    fs::remove_dir(&store).unwrap();
    Stockade::new("disk")
        .arg("create-store")
        .arg(&store)
        .finish()
        .assert_code(0);
    let good = fs::read(&store).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (bytes, code) in [
        (changed(8, 2), "S03"),
        (changed(20, 1), "S04"),
        (changed(0, 0), "S02"),
        (good[..good.len() / 2].to_vec(), "S05"),
        (Vec::new(), "S02"),
        (b"somebody's diary".to_vec(), "S02"),
    ] {
        fs::write(&store, &bytes).unwrap();
        assert_refused(&machine, &state, &["stockade.store", code]);
    }
}

#[test]
fn a_state_is_one_machines_at_a_time() {
    let machine = Machine::new();
    let state = machine.path("state");
    let mut running = Stockade::guest("stockade.mode=echo")
        .arg("--state")
        .arg(&state)
        .start();
    running.expect("guest-check: echoing");
    let second = Stockade::new("run")
        .arg("--state")
        .arg(&state)
        .with_slots_taken()
        .finish();
    second.assert_refused(&["state", "in use by another VM", "--state"]);
}

/// An image says itself whether it has a state; a host that forgets it, or brings one along, is told.
#[test]
fn an_image_and_its_state_belong_together() {
    let machine = Machine::new();
    let image = machine.path("guest.igvm");
    let built = Stockade::new("build")
        .arg("-o")
        .arg(&image)
        .arg("--state")
        .arg("wherever")
        .finish();
    built.assert_code(0);
    let listed = Stockade::new("inspect").arg(&image).finish();
    assert!(listed.stdout.contains("state: "), "{}", listed.transcript());
    Stockade::image(&image)
        .finish()
        .assert_refused(&["--state DIR"]);
    assert!(!machine.path("wherever").exists());
}

/// The paravisor's memory grows with what the image is built for.
#[test]
fn as_many_sealed_disks_as_there_are_places_find_memory() {
    const DISKS: usize = 14;
    let folder = tempfile::tempdir().unwrap();
    let script = "modprobe -a virtio_pci virtio_blk
        sleep 1
        say \"disks $(ls /sys/block | grep -c vd)\"
        for disk in /dev/vd?; do printf abc | dd of=$disk conv=fsync,notrunc 2>/dev/null || say \"$disk failed\"; done
        say \"written\"";
    let initrd = Initrd::new(script).modules(&["virtio_pci", "virtio_blk"]);
    let mut run = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--state")
        .arg(folder.path().join("state"));
    for index in 0..DISKS {
        let disk = folder.path().join(format!("{index}.img"));
        let made = Stockade::new("disk").args(["create", "--size", "4M"]);
        made.arg(&disk).finish().assert_code(0);
        run = run
            .arg("--disk")
            .arg(format!("{},mode=sealed", disk.display()));
    }
    let run = run.finish();
    run.assert_code(0);
    assert_eq!(
        finding(&run.stdout, "disks"),
        Some("14"),
        "{}",
        run.transcript()
    );
    assert_eq!(
        finding(&run.stdout, "written"),
        Some(""),
        "{}",
        run.transcript()
    );
    assert!(!run.stdout.contains("failed"), "{}", run.transcript());
}
