//! Disks whose keys somebody else holds: the guest reads and writes them where the holder found it to be what he expects, and everybody
//! on the way, the host above all, gains nothing by what he changes, keeps or brings.

#![expect(clippy::unwrap_used, reason = "tests")]

mod holders;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holders::{Holders, Way};
use nix::sys::signal::Signal;
use stockade_rig::word_disk::{WordDisk, assert_missing, assert_opens};
use stockade_rig::{Finished, Running, Stockade, appended};

/// Two machines on two processors are slow, and one waits half a minute for nobody.
const LIMIT: Duration = Duration::from_secs(300);
/// What the command ends with when the paravisor stopped.
const STOPPED: i32 = 12;
/// The key of the disk, and one that is not.
const KEYS: [[u8; 32]; 2] = [
    *b"the key of the disk, 32 bytes of",
    *b"another one, which has 32 bytes ",
];
/// A disk made with the first key, and the files that go with it.
struct Place(WordDisk);

impl Place {
    fn new() -> Self {
        let place = Self(WordDisk::new());
        for (name, key) in ["key", "other-key"].iter().zip(KEYS) {
            fs::write(place.path(name), key).unwrap();
        }
        let key = place.path("key").display().to_string();
        place.0.create(&["--disk-key", &key]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn disk_with_key(&self) -> String {
        self.0
            .disk_as(&format!("key={}", self.path("key").display()))
    }

    /// Runs an image made on the spot.
    fn run(&self, disk: &str, arguments: &[&str]) -> Finished {
        let run = self
            .0
            .guest("")
            .args(["--disk", disk])
            .args(arguments)
            .limit(LIMIT)
            .finish();
        run.assert_code(0);
        run
    }

    /// Builds an image for the disk and what else is said, and returns it with its digest.
    fn image(&self, arguments: &[&str]) -> (PathBuf, String) {
        let image = self.path("guest.igvm");
        let built = Stockade::new("build").arg("-o").arg(&image);
        let built = built
            .args(["--append", &appended("")])
            .arg("--initrd")
            .arg(self.0.initrd())
            .args(["--disk", &self.disk_with_key()])
            .args(arguments);
        built.finish().assert_code(0);
        let measured = Stockade::new("measure").arg(&image).finish();
        measured.assert_code(0);
        (image, measured.stdout.trim().to_owned())
    }

    /// Runs an image as a host does that has no key.
    fn run_image(&self, image: &Path, server: &str) -> Stockade {
        let id = Stockade::new("keys")
            .arg("id")
            .arg(self.path("key"))
            .finish();
        let disk = self.0.disk_as(&format!("key-id={}", id.stdout.trim()));
        Stockade::image(image)
            .args(["--disk", &disk, "--key-server", server])
            .limit(LIMIT)
    }

    /// Has a run write the chip's certificates down: chip and firmware of the model are the same in every run.
    fn certificates(&self) -> PathBuf {
        let certificates = self.path("certificates");
        let seen = Stockade::guest("stockade.mode=check")
            .arg("--certificates")
            .arg(&certificates);
        seen.finish().assert_code(0);
        certificates
    }

    /// Where a server listens.
    fn socket(&self) -> String {
        format!("unix:{}", self.path("server").display())
    }

    /// Starts a server with this key, for images with this digest.
    fn serve(&self, key: &str, digest: &str, arguments: &[&str]) -> Running {
        let mut server = Stockade::new("keys")
            .args(["serve", "--listen", &self.socket()])
            .args(["--expect-measurement", digest, "--disk-key"])
            .arg(self.path(key))
            .arg("--certificates")
            .arg(self.path("certificates"))
            .args(arguments)
            .limit(LIMIT)
            .start();
        server.expect("listening at");
        server
    }
}

fn stop(server: Running) -> Finished {
    server.signal(Signal::SIGTERM);
    server.finish()
}

/// Two images, for the key is the disk's and not theirs; a third is not made for the key, a fourth for another.
#[test]
fn a_released_key_opens_its_disk_for_any_image_that_names_it() {
    let place = Place::new();
    let first = place.run(&place.disk_with_key(), &[]);
    assert_opens(&first, "");
    first.assert_says(&["released by their holder", "proves nothing"]);
    let key = place.path("key");
    let key = key.to_str().unwrap();
    let second = place.run(
        &place.0.disk_as("mode=sealed"),
        &["--disk-key", key, "--hpet"],
    );
    assert_opens(&second, "abc");

    assert_missing(&place.run(&place.0.disk_as("mode=sealed"), &[]), &["D06"]);
    let other = format!("key={}", place.path("other-key").display());
    assert_missing(&place.run(&place.0.disk_as(&other), &[]), &["D06"]);
    let checked = Stockade::new("disk").args(["check", "--disk-key", key]);
    let checked = checked.arg(place.path("disk.img")).finish();
    checked.assert_code(0);
    assert!(
        !fs::read(place.path("disk.img"))
            .unwrap()
            .windows(4)
            .any(|word| word == b"abc\0")
    );
}

/// Beside a disk of the image's own, and remembered like it: then it is no other image's any more, and an older copy is noticed.
#[test]
fn a_released_key_and_a_state_keep_a_disk_from_being_rolled_back() {
    let place = Place::new();
    let own = place.path("own.img");
    let made = Stockade::new("disk").args(["create", "--size", "8M"]);
    made.arg(&own).finish().assert_code(0);
    let (own, state) = (
        format!("{},mode=sealed", own.display()),
        place.path("state"),
    );
    let arguments = ["--disk", &own, "--state", state.to_str().unwrap()];
    let disk = place.disk_with_key();
    assert_opens(&place.run(&disk, &arguments), "");
    let older = fs::read(place.path("disk.img")).unwrap();
    assert_opens(&place.run(&disk, &arguments), "abc");
    let newer = fs::read(place.path("disk.img")).unwrap();

    fs::write(place.path("disk.img"), older).unwrap();
    let rolled_back = place.run(&disk, &arguments);
    rolled_back.assert_says(&["disk 0 is missing", "D07", "disk 1: sealed"]);
    fs::write(place.path("disk.img"), newer).unwrap();
    assert_missing(&place.run(&disk, &[]), &["D14"]);
    assert_opens(&place.run(&disk, &arguments), "abc");
}

/// The host has the image, the disk and the key's id; the key itself is with `stockade keys serve`.
#[test]
fn a_key_server_gives_the_key_to_the_machine_it_expects_and_to_no_other() {
    let place = Place::new();
    let (image, digest) = place.image(&[]);
    place.certificates();
    let socket = place.socket();
    let cases = [
        ("key", digest.as_str(), &["--test-chain"][..], None),
        (
            "key",
            &"00".repeat(48),
            &["--test-chain"],
            Some(["code 24", "launch digest"]),
        ),
        (
            "other-key",
            &digest,
            &["--test-chain"],
            Some(["code 25", "there is no key"]),
        ),
        ("key", &digest, &[], Some(["code 21", "test chain"])),
    ];
    for (key, digest, chain, refusal) in cases {
        let server = place.serve(key, digest, chain);
        let run = place.run_image(&image, &socket).finish();
        run.assert_code(0);
        let said = stop(server);
        match refusal {
            None => {
                assert_opens(&run, "");
                assert!(said.stdout.contains("keys: gave"), "{}", said.transcript());
            }
            Some([code, words]) => {
                assert_missing(&run, &["K04", code]);
                assert!(said.stdout.contains(words), "{}", said.transcript());
            }
        }
    }
    // The last one has gone.
    let absent = place.run_image(&image, &socket).finish();
    absent.assert_code(25);
    absent.assert_refused(&["no key server at unix:", "--key-server"]);
}

/// Disk and store as they once were: to the machine they are as good as the newest, for nothing it has outlives it.
#[test]
fn a_holder_that_remembers_gives_nothing_for_an_older_copy_of_disk_and_store() {
    let place = Place::new();
    let state = place.path("state");
    let with_state = ["--state", state.to_str().unwrap()];
    let (image, digest) = place.image(&with_state);
    place.certificates();
    let files = [place.path("disk.img"), state.join("stockade.store")];
    let copy = || files.each_ref().map(|file| fs::read(file).unwrap());
    let bring = |content: &[Vec<u8>; 2]| {
        for (file, bytes) in files.iter().zip(content) {
            fs::write(file, bytes).unwrap();
        }
    };
    let run = || {
        let run = place.run_image(&image, &place.socket()).args(with_state);
        run.finish()
    };
    let assert_stopped = |run: &Finished| {
        run.assert_code(STOPPED);
        run.assert_says(&["K04", "code 27", "an older copy or another one"]);
    };
    let memory = place.path("memory");
    let remembering = ["--test-chain", "--remember", memory.to_str().unwrap()];
    let server = place.serve("key", &digest, &remembering);
    let first = run();
    assert_opens(&first, "");
    first.assert_says(&["their holder was told of the starts"]);
    let older = copy();
    assert_opens(&run(), "abc");
    let newest = copy();

    bring(&older);
    assert_stopped(&run());
    // However often it starts.
    assert_stopped(&run());
    fs::remove_file(&files[1]).unwrap();
    assert_stopped(&run());
    let said = stop(server).stdout;
    assert_eq!(said.matches("it was rolled back").count(), 3, "{said}");

    // One that starts anew remembers, one that was not told to does not.
    let server = place.serve("key", &digest, &remembering);
    bring(&newest);
    assert_opens(&run(), "abc");
    bring(&newest);
    assert_stopped(&run());
    let second = Stockade::new("keys")
        .args(["serve", "--listen", "127.0.0.1:0", "--disk-key"])
        .arg(place.path("key"))
        .args(["--expect-measurement", &digest, "--certificates"])
        .arg(place.path("certificates"))
        .args(remembering);
    second.finish().assert_refused(&["memory", "in use"]);
    assert_eq!(stop(server).stdout.matches("refused").count(), 1);
    let server = place.serve("key", &digest, &remembering[..1]);
    bring(&older);
    assert_opens(&run(), "abc");
    assert!(!stop(server).stdout.contains("refused"));
}

/// What the host can do on the way, each time with a holder behind it that would give the key.
#[test]
fn what_is_done_on_the_way_opens_nothing() {
    let place = Place::new();
    let (image, digest) = place.image(&[]);
    let holders = Holders::new(place.0.folder(), &digest, KEYS);
    let socket = format!("unix:{}", holders.socket().display());
    let run = |way| {
        holders.take(way);
        let run = place.run_image(&image, &socket).finish();
        run.assert_code(0);
        run
    };
    assert_opens(&run(Way::Honest), "");
    for (way, code) in [
        (Way::Replayed, "K05"),
        (Way::Tampered, "K05"),
        (Way::OwnKey, "K06"),
        (Way::Nonsense, "K03"),
        (Way::Silent, "K02"),
        (Way::HangUp, "code 26"),
        (Way::OldEvidence, "code 22"),
    ] {
        let run = run(way);
        assert_missing(&run, &[code]);
        assert!(!run.transcript().contains("panicked"));
    }
    assert_opens(&run(Way::Honest), "abc");
    // Nothing that ever went over the way has the key in it.
    let said = holders.heard();
    assert!(!hex::encode(&said).contains(&hex::encode(&KEYS[0][..8])));
    assert!(said.windows(4).any(|word| word == b"SKEY"));
}

fn refused(arguments: &[&str], words: &[&str]) {
    let run = Stockade::new("run").args(arguments).finish();
    run.assert_refused(words);
}

#[test]
fn keys_that_make_no_sense_are_named() {
    let place = Place::new();
    let disk = place.disk_with_key();
    let id = place.0.disk_as(&format!("key-id={}", "ab".repeat(32)));
    let plain = place.0.disk_as("mode=plain");
    let key = place.path("key");
    let key = key.to_str().unwrap();
    refused(
        &["--disk", &place.0.disk_as("key=/nonexistent")],
        &["/nonexistent"],
    );
    refused(
        &["--disk", &place.0.disk_as("key-id=12")],
        &["64 hexadecimal digits"],
    );
    refused(&["--disk", &plain, "--disk-key", key], &["mode=sealed"]);
    refused(&["--disk", &id], &["abab", "--key-server"]);
    refused(
        &["--disk", &plain, "--key-server", "a:1"],
        &["--key-server"],
    );
    refused(&["--disk", &disk, "--key-server", "a"], &["HOST:PORT"]);
    let (image, _) = place.image(&[]);
    let other = Stockade::image(&image).args(["--disk", &id, "--key-server", "a:1"]);
    other.finish().assert_refused(&["built with", "key-id="]);
    let inspected = Stockade::new("inspect").arg(&image).finish();
    assert!(inspected.stdout.contains("sealed, host device 02, key "));
}
