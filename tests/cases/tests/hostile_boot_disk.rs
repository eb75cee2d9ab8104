//! A host that withholds the disk the firmware starts from, in the midst of reading the boot loader or from the beginning. The firmware goes on
//! without it, the paravisor lives, the variables stay, and the disk starts the guest again when the host has it back.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use stockade_rig::firmware::{FirmwarePc, SecureBoot, linux_disk};
use stockade_rig::guest::findings;
use stockade_rig::shell::{self, Variable};
use stockade_rig::{Finished, Initrd, Stockade};

/// Two starts of firmware, and the minute a disk has to answer.
const LIMIT: Duration = Duration::from_secs(400);
const COLOR: Variable = Variable("Color");

/// A machine with a disk of its own, and what it keeps.
struct Place {
    folder: tempfile::TempDir,
    pc: FirmwarePc,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = linux_disk(folder.path(), &Initrd::new("say up"), "");
        let pc = FirmwarePc::new(folder.path(), SecureBoot::Off);
        let pc = pc.disk(&disk).memory_mib(256).limit(LIMIT);
        Self { folder, pc }
    }

    fn start(&self) -> Stockade {
        self.pc.confidentially()
    }

    /// The disk without a word of ours: nothing is written to it.
    fn disk(&self) -> Vec<u8> {
        let path: &Path = self.folder.path();
        std::fs::read(path.join("fat.img")).unwrap()
    }

    /// Keeps a variable, with a disk the host withholds; returns what was said.
    fn without_disk(&self, attack: &str, value: &[u8]) -> Finished {
        let mut guest = self.start().attacked_by(attack).start();
        shell::enter(&mut guest);
        COLOR.set(&mut guest, value);
        guest.send(b"reset -s\r");
        let run = guest.finish();
        run.assert_code(0);
        run.assert_says(&["attack virtio-"]);
        assert!(findings(&run.stdout).is_empty(), "{}", run.transcript());
        run
    }

    /// Fails unless the guest starts, by a machine that has the variables it had.
    fn assert_starts(&self) {
        let run = self.start().finish();
        run.assert_code(0);
        run.assert_says(&["firmware variables: from the sealed store"]);
        assert_eq!(findings(&run.stdout), ["up"], "{}", run.transcript());
    }
}

#[test]
fn a_boot_disk_that_vanishes_leaves_the_firmware_its_shell_and_its_variables() {
    let place = Place::new();
    let disk = place.disk();
    let attack = "virtio-device-vanishes:2";
    let run = place.without_disk(attack, b"teal");
    run.assert_says(&["host disk 00:02.0 is offline, code 9:"]);
    let mut guest = place.start().attacked_by(attack).start();
    shell::enter(&mut guest);
    assert_eq!(COLOR.read(&mut guest), b"teal");
    drop(guest);
    place.assert_starts();
    assert!(place.disk() == disk);
}

#[test]
fn a_boot_disk_that_falls_silent_leaves_the_firmware_its_shell_and_its_variables() {
    let place = Place::new();
    let disk = place.disk();
    let run = place.without_disk("virtio-silence:2", b"teal");
    run.assert_says(&["host disk 00:02.0 is offline, code 12:"]);
    place.assert_starts();
    assert!(place.disk() == disk);
}
