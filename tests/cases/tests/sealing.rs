//! Who can open what is sealed: one image, or a family of signed ones.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use stockade_rig::word_disk::{WordDisk, assert_missing, assert_opens};
use stockade_rig::{Finished, ID_KEYS, Stockade};

/// A disk and the keys of images.
struct Place(WordDisk);

impl Place {
    fn new() -> Self {
        let place = Self(WordDisk::new());
        for (index, key) in ID_KEYS.iter().enumerate() {
            fs::write(place.key(index), key).unwrap();
        }
        place.0.create(&[]);
        place
    }

    fn key(&self, index: usize) -> PathBuf {
        self.0.path(&format!("key{index}.pem"))
    }

    /// An image with these words on its command line, which make it another one, and these arguments.
    fn run(&self, words: &str, key: usize, arguments: &[&str]) -> Finished {
        let run = self
            .0
            .guest(words)
            .args(["--disk", &self.0.disk_as("mode=sealed")])
            .arg("--state")
            .arg(self.0.path("state"))
            .arg("--id-key")
            .arg(self.key(key))
            .args(arguments)
            .finish();
        run.assert_code(0);
        run
    }
}

/// The store is the first that does not open.
fn assert_refused(run: &Finished) {
    let reason = ["probably sealed by another image", "--seal family"];
    assert_missing(run, &["S06", reason[0], reason[1]]);
}

/// A new version of an image opens what the old one left, an image of another signer or an older one does not. That the secure processor
/// mixes the family's name and not its signer's key is the limit `docs/threats.md` states: the last image shows it.
#[test]
fn a_family_opens_what_is_sealed_for_it_and_others_do_not() {
    let place = Place::new();
    let family = ["--seal", "family,svn=2", "--svn", "2"];
    assert_opens(&place.run("first", 0, &family), "");
    let newer = ["--seal", "family,svn=2", "--svn", "3"];
    assert_opens(&place.run("second", 0, &newer), "abc");
    assert_refused(&place.run("second", 1, &family));
    assert_refused(&place.run("first", 0, &["--seal", "family,svn=1", "--svn", "1"]));
    assert_refused(&place.run("first", 0, &["--svn", "2"]));

    let named = [
        "--family",
        "00112233445566778899aabbccddeeff",
        "--seal",
        "family",
    ];
    fs::remove_dir_all(place.0.path("state")).unwrap();
    place.0.create(&[]);
    assert_opens(&place.run("first", 0, &named), "");
    assert_opens(&place.run("third", 1, &named), "abc");
}

fn refused(key: &Path, arguments: &[&str], words: &[&str]) {
    let run = Stockade::new("run").arg("--id-key").arg(key);
    run.args(arguments).finish().assert_refused(words);
}

#[test]
fn keys_families_and_versions_that_make_no_sense_are_named() {
    let place = Place::new();
    let key = place.key(0);
    refused(place.0.initrd(), &[], &["initrd", "P-384", "openssl"]);
    refused(Path::new("/nonexistent/key"), &[], &["/nonexistent/key"]);
    refused(
        &key,
        &["--family", "xyz"],
        &["xyz", "32 hexadecimal digits"],
    );
    refused(&key, &["--seal", "everybody"], &["everybody", "family"]);
    refused(&key, &["--seal", "family,svn=x"], &["svn"]);
    refused(&key, &["--seal", "family,svn=3", "--svn", "2"], &["--svn"]);
    let unsigned = Stockade::new("run").args(["--seal", "family"]).finish();
    unsigned.assert_refused(&["--id-key"]);
}
