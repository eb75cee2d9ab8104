//! What a host can do to firmware and its variables between two runs: nothing a guest starts with unseen, but what the documents say.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stockade::image::Image;
use stockade_boot::manifest::PayloadKind;
use stockade_rig::firmware::{fat_disk, firmware};
use stockade_rig::guest::finding;
use stockade_rig::shell::{self, Variable};
use stockade_rig::{Finished, Initrd, Running, Stockade, tamper};

const CODE: &str = "OVMF_CODE_4M.fd";
const BLANK: &str = "OVMF_VARS_4M.fd";
const KEYS: &str = "OVMF_VARS_4M.ms.fd";
/// The smaller build of the same firmware, and its variables.
const SMALL_CODE: &str = "OVMF_CODE.fd";
const SMALL_BLANK: &str = "OVMF_VARS.fd";
/// Two starts of firmware on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// A key for tests, of nobody.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCm3a8qM/LWW1WfPUnA\naxA2GcUZdeUymDGME/QiLwAzBngNxGs/vSmSxRmDT4NYQXKhZANiAATytbGcUEi1\npuUrqx2r0ngRFLpU3qjAqo/CEbiVOJEArmyy/F0SCEhc9qVm5ZW6ctPP8GKB5QJH\nfmAwvoOd3Cxq69BqqlBrs4vFV1Nki0V1aFKFTiiaJT47fA147iux38I=\n-----END PRIVATE KEY-----\n";
const COLOR: Variable = Variable("Color");
/// The stop's code on the model, and the tool's exit code for any stop.
const LOST: &str = "code 27";
const CHANGED: &str = "code 26";
const STOPPED: i32 = 12;

/// A folder with what one machine has.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("key.pem"), KEY).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("state/stockade.store")
    }

    /// A member of a family, so that other firmware has the same keys: whatever it is started with, and this state.
    fn member(&self) -> Stockade {
        Stockade::new("run")
            .arg("--id-key")
            .arg(self.path("key.pem"))
            .args(["--seal", "family", "--memory", "256M"])
            .arg("--state")
            .arg(self.path("state"))
            .limit(LIMIT)
    }

    fn with(&self, code: &str, variables: &str) -> Stockade {
        self.member()
            .arg("--firmware")
            .arg(firmware(code))
            .arg("--vars")
            .arg(firmware(variables))
    }

    fn start(&self) -> Stockade {
        self.with(CODE, BLANK)
    }

    /// Starts with the store cut short by the host after everybody has looked at it.
    fn start_with_store_of(&self, bytes: u64) -> Stockade {
        let program = tamper::truncating_qemu(self.0.path(), &self.store(), bytes);
        self.start().arg("--qemu").arg(program)
    }
}

fn switch_off(mut guest: Running) -> Finished {
    guest.send(b"reset -s\r");
    let run = guest.finish();
    run.assert_code(0);
    run
}

/// The guest was not entered.
fn assert_stopped(run: &Finished, words: &[&str]) {
    run.assert_code(STOPPED).assert_says(words);
    assert!(
        !run.stderr.contains("entering the guest"),
        "{}",
        run.transcript()
    );
}

/// A store cut short, another chip's, with variables of another layout: each stops the machine, and with the right one in its place
/// nothing is lost. One that was emptied is a new machine's, with the variables the image was measured with.
#[test]
fn a_store_that_is_not_the_one_never_gives_a_guest_other_variables() {
    let place = Place::new();
    let mut guest = place.start().start();
    shell::enter(&mut guest);
    COLOR.set(&mut guest, b"teal");
    switch_off(guest).assert_says(&["firmware variables: new, from the image"]);
    let whole = fs::read(place.store()).unwrap();

    fs::write(place.store(), &whole[..whole.len() / 2]).unwrap();
    place
        .start()
        .finish()
        .assert_refused(&["stockade.store", "S05"]);
    for bytes in [0, 0x3000, 0x6000] {
        fs::write(place.store(), &whole).unwrap();
        let run = place.start_with_store_of(bytes).finish();
        assert_stopped(&run, &["cannot be read from the sealed store", LOST]);
    }

    fs::write(place.store(), &whole).unwrap();
    let elsewhere = place.start().args(["--model-arg", "seed=7"]).finish();
    assert_stopped(&elsewhere, &["S06", "V06", LOST]);
    let small = place.with(SMALL_CODE, SMALL_BLANK).finish();
    assert_stopped(&small, &["V04", "540672 bytes", "131072", LOST]);
    // Another image of the same chip that is not of the family has other keys.
    let own = Stockade::new("run").args(["--memory", "256M", "--state"]);
    let own = own.arg(place.path("state")).arg("--firmware");
    let own = own.arg(firmware(CODE)).arg("--vars").arg(firmware(KEYS));
    let words = ["S06", "probably sealed by another image", "V06", LOST];
    assert_stopped(&own.finish(), &words);

    assert!(fs::read(place.store()).unwrap() == whole);
    let mut guest = place.start().start();
    shell::enter(&mut guest);
    assert_eq!(COLOR.read(&mut guest), b"teal");
    switch_off(guest).assert_says(&["firmware variables: from the sealed store"]);

    fs::remove_file(place.store()).unwrap();
    let mut guest = place.start().start();
    shell::enter(&mut guest);
    assert_eq!(COLOR.read(&mut guest), b"");
    switch_off(guest).assert_says(&["firmware variables: new, from the image"]);
}

/// An older store brings older variables, and takes away each sealed disk that was written since. Disk and store brought back together
/// go unnoticed, but for the log's warning: nothing outside both remembers more.
#[test]
fn older_variables_come_without_the_disk_that_is_newer() {
    let place = Place::new();
    let disk = place.path("disk.img");
    let made = Stockade::new("disk").args(["create", "--size", "48M"]);
    made.arg(&disk).finish().assert_code(0);
    let argument = format!("{},mode=sealed", disk.display());
    let script = "modprobe -a virtio_pci virtio_blk; sleep 1; dd if=/fat of=/dev/vda bs=64k conv=fsync && say made";
    let initrd = Initrd::new(script).modules(&["virtio_pci", "virtio_blk"]);
    // All of an empty file system that is not zero.
    let fat = fs::read(fat_disk(place.0.path(), &[])).unwrap();
    let initrd = initrd.file("fat", &fat[..1 << 20]).write(place.0.path());
    let formatted = place.member().args(["--disk", &argument]).arg("--initrd");
    let formatted = formatted.arg(initrd).finish();
    formatted.assert_code(0);
    let is_made = finding(&formatted.stdout, "made").is_some();
    assert!(is_made, "{}", formatted.transcript());

    let start = || place.start().args(["--disk", &argument]);
    let keep = |color: &[u8]| {
        let mut guest = start().start();
        shell::enter(&mut guest);
        COLOR.set(&mut guest, color);
        shell::ask(&mut guest, "echo more >> fs0:\\words.txt");
        let words = shell::ask(&mut guest, "type fs0:\\words.txt");
        assert!(words.contains("more"), "{words}");
        switch_off(guest);
        (fs::read(place.store()).unwrap(), fs::read(&disk).unwrap())
    };
    let find = |store: &[u8], content: &[u8]| {
        fs::write(place.store(), store).unwrap();
        fs::write(&disk, content).unwrap();
        let mut guest = start().start();
        shell::enter(&mut guest);
        let color = COLOR.read(&mut guest);
        let words = shell::ask(&mut guest, "type fs0:\\words.txt");
        let is_there = words.matches("more").count() > 0;
        (color, is_there, switch_off(guest))
    };
    let (old_store, old_disk) = keep(b"teal");
    let (new_store, new_disk) = keep(b"blue");
    assert!(old_store != new_store && old_disk != new_disk);

    let (color, has_disk, run) = find(&old_store, &new_disk);
    run.assert_says(&["D09", "the store was rolled back"]);
    assert!(!has_disk, "{}", run.transcript());
    assert_eq!(color, b"teal");
    let (color, has_disk, run) = find(&old_store, &old_disk);
    run.assert_says(&["of unknown age"]);
    assert!(has_disk, "{}", run.transcript());
    assert_eq!(color, b"teal");
    let (color, has_disk, run) = find(&new_store, &new_disk);
    assert!(has_disk, "{}", run.transcript());
    assert_eq!(color, b"blue");
}

/// What was measured at the build is what starts, to the firmware's shell, or nothing.
#[test]
fn swapped_firmware_is_refused_in_each_of_its_parts() {
    let place = Place::new();
    let image = place.path("image.igvm");
    Stockade::new("build")
        .arg("--firmware")
        .arg(firmware(CODE))
        .args(["--fw-cfg", "name=opt/org.example/words,string=teal"])
        .arg("--output")
        .arg(&image)
        .finish()
        .assert_code(0);
    let mut guest = Stockade::image(&image).limit(LIMIT).start();
    shell::enter(&mut guest);
    switch_off(guest).assert_says(&["entering the guest"]);
    let whole = fs::read(&image).unwrap();
    let built = Image::open(&image).unwrap();
    let manifest = built.manifest().unwrap();
    for (kind, words) in [
        (PayloadKind::FIRMWARE, "firmware"),
        (PayloadKind::FIRMWARE_ITEM, "digest"),
    ] {
        fs::write(&image, &whole).unwrap();
        let file = manifest.payload(kind).unwrap();
        tamper::flip_page(&image, file.gpa.get(), 1);
        let run = Stockade::image(&image).finish();
        assert_stopped(&run, &[words, "does not have the digest", CHANGED]);
    }
}

/// Makes a disk with a partition table and a file system of Linux's in its only partition: nothing that firmware could read.
fn linux_only_disk(path: &Path) {
    const MIB: u64 = 1 << 20;
    fs::File::create(path).unwrap().set_len(16 * MIB).unwrap();
    let table = ["-n", "1:2048:0", "-t", "1:8300"];
    let mut partition = Command::new("sgdisk");
    partition.args(table).arg(path);
    let mut format = Command::new("mkfs.ext4");
    format.args(["-q", "-F", "-E", "offset=1048576"]).arg(path);
    for tool in [&mut partition, format.arg("14M")] {
        let output = tool.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// A disk without a boot loader, of noise, of nothing or of Linux alone: the firmware goes on to its own shell, and the disk stays as it is.
#[test]
fn a_disk_without_a_boot_loader_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..1_u32 << 18)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let linux = folder.path().join("linux.img");
    linux_only_disk(&linux);
    let linux = fs::read(linux).unwrap();
    let disks: [(&str, &[u8]); 3] = [
        ("noise.img", &noise),
        ("empty.img", &[0; 1 << 20]),
        ("linux.img", &linux),
    ];
    let path = |name: &str| -> PathBuf { Path::new(folder.path()).join(name) };
    let mut run = Stockade::new("run").args(["--memory", "256M"]).limit(LIMIT);
    for (name, content) in disks {
        fs::write(path(name), content).unwrap();
        run = run.arg("--disk").arg(path(name));
    }
    let mut guest = run.start();
    shell::enter(&mut guest);
    let map = shell::ask(&mut guest, "map");
    // The third disk and its partition are seen, and no file system.
    for words in ["BLK2", "HD(1,GPT"] {
        assert!(map.contains(words), "{words}: {map}");
    }
    assert!(!map.contains("FS0"), "{map}");
    switch_off(guest);
    for (name, content) in disks {
        assert!(fs::read(path(name)).unwrap() == content, "{name}");
    }
}
