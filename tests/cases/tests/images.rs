//! Images: built, measured, inspected, and what happens when somebody changes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use igvm::IgvmFile;
use igvm::measurement::generate_snp_measurement;
use stockade::image::Image;
use stockade_boot::layout::paravisor;
use stockade_cases::{build, figures, image, measured, text};
use stockade_rig::tpm::engine;
use stockade_rig::{Finished, Stockade, appended, package_file, tamper, workshop};

const CHECK: &str = "stockade.mode=check";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn the_digest_equals_that_of_an_implementation_we_did_not_write() {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let bytes = fs::read(&path).expect("the image is readable");
    let file = IgvmFile::new_from_binary(&bytes, None).expect("the image is sound");
    let theirs = generate_snp_measurement(file.initializations(), file.directives(), 1)
        .expect("the image can be measured");
    assert_eq!(measured(&path), hex::encode(theirs));
}

#[test]
fn the_same_input_gives_the_same_image_and_another_word_another_digest() {
    let (one, two, three) = (folder(), folder(), folder());
    let (one, two) = (image(one.path(), "a"), image(two.path(), "a"));
    let three = image(three.path(), "b");
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    assert_eq!(read(&one), read(&two));
    assert_ne!(measured(&one), measured(&three));
}

#[test]
fn a_build_without_more_than_a_name_is_the_image_of_the_default_guest() {
    let folder = folder();
    let path = folder.path().join("default.igvm");
    let finished = Stockade::new("build").arg("-o").arg(&path).finish();
    finished.assert_code(0);
    assert_eq!(measured(&path).len(), 96);
    let inspected = Stockade::new("inspect").arg(&path).finish();
    assert!(
        inspected.stdout.contains("up to 16 vCPUs"),
        "{}",
        inspected.transcript()
    );
}

#[test]
fn measure_prints_json_for_programs() {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let finished = Stockade::new("measure").arg(&path).arg("--json").finish();
    finished.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&finished.stdout).expect("it is JSON");
    assert_eq!(text(&json, "/launch_digest"), measured(&path));
    assert_eq!(text(&json, "/platform"), "SEV-SNP");
    assert_eq!(text(&json, "/policy"), "0x30000");
}

#[test]
fn inspect_lists_what_a_reviewer_must_see() {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let finished = Stockade::new("inspect").arg(&path).finish();
    finished.assert_code(0);
    let digest = measured(&path);
    for words in [
        "SEV-SNP", "policy", "measured", "cpuid", "secrets", "kernel", "initrd", "rip", &digest,
    ] {
        let text = finished.stdout.to_lowercase();
        assert!(
            text.contains(&words.to_lowercase()),
            "no {words}\n{}",
            finished.stdout
        );
    }
}

/// Returns what a program of the distribution prints, up to the first blank.
fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.expect("the distribution has it");
    let text = String::from_utf8(output.stdout).expect("it is text");
    let word = text.split_whitespace().next();
    word.expect("the package is installed").to_owned()
}

/// By dpkg's word and `sha256sum`'s. Where the distribution has been updated since, the folder `target/stockade/packages` is old.
#[test]
fn an_image_with_a_tpm_names_the_packages_and_archives_its_engine_is_linked_from() {
    let folder = folder();
    let path = folder.path().join("guest.igvm");
    let built = Stockade::new("build").arg("--tpm").arg("-o").arg(&path);
    built.finish().assert_code(0);
    let inspected = Stockade::new("inspect").arg(&path).finish();
    inspected.assert_code(0);
    let libraries = [("libtpms-dev", "libtpms.a"), ("libssl-dev", "libcrypto.a")];
    let words = libraries.map(|(package, archive)| {
        let version = said("dpkg-query", &["-W", "-f", "${Version}", package]);
        let archive = package_file(package, &format!("usr/lib/x86_64-linux-gnu/{archive}"));
        let digest = said("sha256sum", &[&archive.to_string_lossy()]);
        format!("{package}={version},sha256:{digest}")
    });
    let line = format!("    \"tpm {}\"", words.join(" "));
    let found = inspected.stdout.lines().filter(|found| *found == line);
    assert_eq!(found.count(), 1, "{line}\n{}", inspected.transcript());
}

#[test]
fn the_image_without_its_payload_is_at_most_1_mib() {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let image = Image::open(&path).expect("the image is sound");
    let staged: usize = image
        .directives()
        .filter_map(|directive| match directive {
            igvm::IgvmDirectiveHeader::PageData { flags, data, .. } if flags.shared() => {
                Some(data.len())
            }
            _ => None,
        })
        .sum();
    let whole = fs::metadata(&path).expect("it is there").len();
    // Each staged page costs a header of 40 bytes besides its content.
    let headers = staged.div_ceil(4096) * 40;
    let ours = usize::try_from(whole).expect("it fits") - staged - headers;
    assert!(ours <= 1 << 20, "{ours} bytes");
}

/// Builds an image, lets `harm` change it, runs it.
fn run_harmed(harm: impl FnOnce(&Path)) -> (Finished, String, Option<String>) {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let before = measured(&path);
    harm(&path);
    let stats = folder.path().join("stats.json");
    let finished = Stockade::image(&path).arg("--stats").arg(&stats).finish();
    let digest = stats
        .is_file()
        .then(|| text(&figures(&stats), "/model/launch_digest").to_owned());
    (finished, before, digest)
}

/// A stretch of a file that stands nowhere else in it.
fn stretch(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).expect("it is readable");
    let middle = (bytes.len() / 2) & !0xFFF;
    bytes[middle + 0x800..middle + 0x840].to_vec()
}

#[test]
fn a_changed_kernel_is_refused_before_it_runs() {
    let (finished, before, digest) =
        run_harmed(|image| tamper::flip_at(image, &stretch(&workshop().kernel), 0));
    finished
        .assert_code(12)
        .assert_says(&["code 9", "the kernel differs from the measured one"]);
    assert_eq!(finished.stdout, "");
    // The payload is in no measurement: only the paravisor's own check notices.
    assert_eq!(digest, Some(before));
}

#[test]
fn a_changed_initrd_is_refused_before_anything_runs() {
    let (finished, ..) =
        run_harmed(|image| tamper::flip_at(image, &stretch(&workshop().initramfs), 0));
    finished
        .assert_code(12)
        .assert_says(&["code 10", "the initrd differs from the measured one"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn a_changed_command_line_is_refused_before_anything_runs() {
    let (finished, ..) = run_harmed(|image| tamper::flip_at(image, appended(CHECK).as_bytes(), 20));
    finished
        .assert_code(12)
        .assert_says(&["code 11", "the command line differs from the measured one"]);
    assert_eq!(finished.stdout, "");
}

/// Builds an image with a TPM, lets `harm` change it, and fails unless it stops before the guest runs.
#[track_caller]
fn assert_tpm_lost(harm: impl FnOnce(&Path)) {
    let folder = folder();
    let path = folder.path().join("guest.igvm");
    let built = Stockade::new("build").args(["--tpm", "--append", &appended(CHECK)]);
    built.arg("-o").arg(&path).finish().assert_code(0);
    harm(&path);
    let finished = Stockade::image(&path).finish();
    finished.assert_code(12).assert_says(&["code 28", "T02"]);
    assert_eq!(finished.stdout, "");
}

/// With a TPM that fails, or without one, the guest would go another way than the one its owner measured.
#[test]
fn a_changed_engine_of_the_tpm_is_refused_before_the_guest_runs() {
    assert_tpm_lost(|image| tamper::flip_at(image, &stretch(&engine().program), 0));
}

#[test]
fn changed_words_of_the_tpm_s_engine_are_refused_before_the_guest_runs() {
    assert_tpm_lost(|image| tamper::flip_at(image, b"tpm libtpms-dev=", 1));
}

/// A host that launches another image than the owner measured: the PSP reports the digest of what was launched.
#[test]
fn an_image_swapped_at_launch_is_exit_code_17_by_its_digest() {
    let (ours, theirs) = (folder(), folder());
    let (ours, theirs) = (image(ours.path(), CHECK), image(theirs.path(), CHECK));
    // Behind the manifest's content, so that the paravisor itself has nothing to complain about.
    tamper::flip_page(&theirs, paravisor::MANIFEST_PAGE, 0xFF0);
    let finished = Stockade::image(&ours).swapped_for(&theirs).finish();
    finished
        .assert_code(17)
        .assert_says(&["tampered", &measured(&ours), &measured(&theirs)]);
}

#[test]
fn a_changed_measured_page_changes_what_measure_prints() {
    let folder = folder();
    let path = image(folder.path(), CHECK);
    let before = measured(&path);
    tamper::flip_page(&path, paravisor::PML4, 1);
    assert_ne!(measured(&path), before);
}

#[test]
fn build_writes_a_whole_image_over_an_old_one() {
    let folder = folder();
    let path = folder.path().join("guest.igvm");
    fs::write(&path, b"old").expect("it is writable");
    build(&path, "a").assert_code(0);
    assert!(Image::open(&path).is_ok());
    assert_eq!(
        fs::read_dir(folder.path()).expect("it is readable").count(),
        1
    );
}

/// Which disks there are, and whether they are sealed, is measured: an image is run with what it was built for, or not at all.
#[test]
fn an_image_is_run_with_the_devices_it_was_built_for() {
    let folder = folder();
    let (path, disk) = (folder.path().join("guest.igvm"), folder.path().join("disk"));
    fs::write(&disk, vec![0; 1 << 20]).expect("it is writable");
    let sealed = folder.path().join("sealed");
    let made = Stockade::new("disk").args(["create", "--size", "4M"]);
    made.arg(&sealed).finish().assert_code(0);
    let with = |command: Stockade, disk: &Path, mode: &str| {
        let disk = format!("{}{mode}", disk.display());
        command.args(["--disk", &disk, "--net", "user"])
    };
    let devices = |command| with(command, &disk, "");
    let build = Stockade::new("build").arg("-o").arg(&path);
    let build = build.args([
        "--append",
        &appended("stockade.mode=check"),
        "--bounce",
        "2M",
    ]);
    devices(build).finish().assert_code(0);
    let inspected = Stockade::new("inspect").arg(&path).finish();
    for line in ["disk 0: plain", "network card 0: 52:54", ": 2097152 bytes"] {
        assert!(inspected.stdout.contains(line), "{}", inspected.stdout);
    }
    let refused = Stockade::image(&path).finish();
    refused.assert_refused(&[
        "--disk FILE --net PEER",
        "no disk, no network card and no state",
    ]);
    let refused = with(Stockade::image(&path), &sealed, ",mode=sealed").finish();
    refused.assert_refused(&["--disk FILE,mode=sealed"]);
    let refused = devices(Stockade::image(&path)).args(["--bounce", "4M"]);
    refused.finish().assert_refused(&["--bounce 2M"]);
    let finished = devices(Stockade::image(&path)).finish();
    finished
        .assert_code(0)
        .assert_says(&["disk 0: 1 MiB", "network card: "]);
}
