//! Power cuts: QEMU ends at a write of its host to a sealed disk, and what no flush had made durable is partly gone. Afterwards
//! every disk opens, is whole, and has every round of writes whose flush the guest had been told of.
//!
//! A guest works on five disks at once, so that a cut finds five of them somewhere. With `--state` the store that remembers how new they
//! are is cut with them, and the next run finds neither older than the other. `STOCKADE_POWER_CUTS=N` makes N cuts in place of two, from
//! the first write on: 200 of them are 1,000 disks.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_cases::flushes::{BLOCKS, may_be, round_of};
use stockade_cases::sealed::{Reader, key};
use stockade_rig::guest::findings;
use stockade_rig::{Finished, Initrd, Stockade};
use stockade_storage::{Fault, State};

const DISKS: u32 = 5;
/// Among so many writes to disks and store a cut is made.
const STATE_WRITES: u64 = 2000;
const LIMIT: Duration = Duration::from_secs(300);
/// The model ends so when the host has no power.
const CUT: &str = "the host lost power after";

const SCRIPT: &str = "
modprobe -a virtio_pci virtio_blk
sleep 1
flushes --look /dev/vda /dev/vdb /dev/vdc /dev/vdd /dev/vde
";

fn sealed_disks(folder: &Path) -> Vec<PathBuf> {
    let create = |index| {
        let path = folder.join(format!("disk-{index}.img"));
        stockade::disk::create_sealed(&path, 1 << 20, None).unwrap();
        path
    };
    (0..DISKS).map(create).collect()
}

/// A guest that writes and flushes until somebody stops it.
fn guest(folder: &Path, disks: &[PathBuf]) -> Stockade {
    let initrd = Initrd::new(SCRIPT)
        .modules(&["virtio_pci", "virtio_blk"])
        .own_program(Path::new(env!("CARGO_BIN_EXE_flushes")));
    let guest = Stockade::guest("")
        .arg("--initrd")
        .arg(initrd.write(folder))
        .limit(LIMIT);
    disks.iter().fold(guest, |guest, disk| {
        guest.args(["--disk", &format!("{},mode=sealed", disk.display())])
    })
}

/// The launch digest, as the command says it.
fn digest(run: &Finished) -> Vec<u8> {
    let (_, text) = run.stderr.split_once("launch digest ").unwrap();
    let digits = text.get(..96).unwrap().as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap();
    let bytes = digits.chunks_exact(2);
    let bytes = bytes.map(|pair| u8::try_from(value(pair[0]) << 4 | value(pair[1])).unwrap());
    bytes.collect()
}

/// The last round of a disk whose flush the guest was told of.
fn flushed(run: &Finished, disk: usize) -> u32 {
    let prefix = format!("flushed {disk} ");
    let rounds = findings(&run.stdout).into_iter();
    let rounds = rounds.filter_map(|line| line.strip_prefix(&prefix)?.parse().ok());
    rounds.max().unwrap_or(0)
}

/// Fails unless all disks are what a power cut may leave. Returns how many rounds were durable, of all disks.
#[track_caller]
fn assert_all_whole(run: &Finished, disks: &[PathBuf]) -> u32 {
    let digest = digest(run);
    let mut durable = 0;
    for (index, path) in disks.iter().enumerate() {
        // What the command `stockade disk check` does.
        let checked = stockade::disk::check(path, Some(&key(&digest, index)));
        assert!(
            checked.is_ok(),
            "disk {index}: {checked:?}\n{}",
            run.transcript()
        );
        let flushed = flushed(run, index);
        durable += flushed;
        let mut reader = match Reader::open(path, key(&digest, index)) {
            Ok(reader) => reader,
            // Cut before it was made, and made when a guest has it again.
            Err(State::Failed(Fault::Empty)) if flushed == 0 => continue,
            Err(state) => panic!("disk {index}: {state:?}"),
        };
        let disk = u32::try_from(index).unwrap();
        for block in 0..BLOCKS {
            let bytes = reader.read(block).unwrap();
            let round = round_of(&bytes, disk, block);
            let round = round.unwrap_or_else(|| panic!("disk {disk}: block {block} is torn"));
            assert!(
                may_be(disk, block, flushed, round),
                "disk {disk}, flushed {flushed}: block {block} is of round {round}\n{}",
                run.transcript()
            );
        }
    }
    durable
}

/// Fails unless the next run's guest found every disk as such a cut may leave it. Returns how many rounds were durable, of all disks.
#[track_caller]
fn assert_all_found(next: &Finished, cut: &Finished) -> u32 {
    let mut durable = 0;
    for disk in 0..DISKS {
        let flushed = flushed(cut, disk as usize);
        durable += flushed;
        let prefix = format!("found {disk} ");
        let found = findings(&next.stdout).into_iter();
        let mut found = found.filter_map(|line| line.strip_prefix(&prefix));
        let found = found.next().unwrap_or_default().split_whitespace();
        let found: Vec<u32> = found.map_while(|round| round.parse().ok()).collect();
        let is_whole = found.len() == BLOCKS as usize
            && (0..)
                .zip(&found)
                .all(|(block, round)| may_be(disk, block, flushed, *round));
        assert!(
            is_whole,
            "disk {disk}, flushed {flushed}: {found:?}\n{}\n{}",
            cut.transcript(),
            next.transcript()
        );
        // One that has been flushed is in the store.
        let known = [
            "Newest; as the store",
            "Ahead; one commit newer than the store",
        ];
        let unknown = ["Formatted; remembered", "Unknown; the store did not know"];
        let words: &[&str] = if flushed > 0 {
            &known
        } else {
            &[known, unknown].concat()
        };
        let is_said = |words: &&str| {
            let line = format!("disk {disk}: sealed, {words}");
            next.stderr.contains(&line)
        };
        assert!(words.iter().any(is_said), "{}", next.transcript());
    }
    durable
}

/// Returns whether the log has a code of a disk's or the store's, such as D09 or S07.
fn has_code(log: &str) -> bool {
    let words = log.split(|c: char| !c.is_ascii_alphanumeric());
    let is_code = |word: &str| matches!(word.as_bytes(), [b'D' | b'S', tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit());
    words.into_iter().any(is_code)
}

fn cuts() -> u64 {
    let number = std::env::var("STOCKADE_POWER_CUTS").ok();
    number.map_or(2, |number| number.parse().expect("a number of cuts"))
}

/// At another write each time.
#[test]
fn power_cut_every_disk_opens_and_has_what_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let mut lost = 0;
    for number in 0..cuts() {
        let disks = sealed_disks(folder.path());
        let write = 1 + (number + 3).wrapping_mul(0x9E37_79B9) % 1350;
        let run = guest(folder.path(), &disks)
            .attacked_by(&format!("virtio-power-cut:{write}"))
            .finish();
        run.assert_says(&[CUT]);
        let durable = assert_all_whole(&run, &disks);
        // Until then disks are made and the guest starts.
        assert!(write < 150 || durable > 0, "{}", run.transcript());
        lost += run.stderr.matches(" is lost").count();
        eprintln!("cut {number} at write {write}: {durable} rounds durable");
        for disk in disks {
            std::fs::remove_file(disk).unwrap();
        }
    }
    assert!(lost > 0, "no write was lost in any cache");
}

/// Disks and store are in step again whatever the cut has left of each: nothing passes for rolled back, and all that was flushed is there.
/// Every other cut loses writes of the store's alone, over more writes than the others have between two anchors.
#[test]
fn power_cut_with_a_state_the_next_run_has_what_was_flushed_and_finds_nothing_rolled_back() {
    assert!(has_code("disk 0: D09: the store is older") && !has_code("disk D9 S071"));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut lost = 0;
    for number in 0..cuts() {
        let disks = sealed_disks(folder.path());
        let guest = || guest(folder.path(), &disks).arg("--state").arg(&state);
        let write = 1 + (number + 3).wrapping_mul(0x9E37_79B9) % STATE_WRITES;
        let attack = if number % 2 == 0 {
            format!("virtio-power-cut:{write}")
        } else {
            format!("virtio-power-cut-last:{write}")
        };
        let cut = guest().attacked_by(&attack).finish();
        cut.assert_says(&[CUT]);
        let mut next = guest().start();
        // It works on.
        next.expect("flushed 3 3");
        next.kill_machine();
        let next = next.finish();
        let durable = assert_all_found(&next, &cut);
        let log = &next.stderr;
        assert!(
            !has_code(log),
            "{}\n{}",
            cut.transcript(),
            next.transcript()
        );
        assert!(!next.stdout.contains("failed"), "{}", next.transcript());
        let ahead = log.matches("sealed, Ahead").count();
        lost += cut.stderr.matches(" is lost").count();
        eprintln!("{attack}: {durable} rounds durable, {ahead} disks ahead");
        for path in disks.iter().chain([&state.join("stockade.store")]) {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert!(lost > 0, "no write was lost in any cache");
}

/// The host's kernel has all that QEMU gave it: what is in question is the order, and the write in the middle.
#[test]
fn after_qemu_is_killed_every_disk_opens_and_has_what_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for wait_ms in [0, 310] {
        for disk in disks {
            std::fs::remove_file(disk).unwrap();
        }
        disks = sealed_disks(folder.path());
        let mut run = guest(folder.path(), &disks).start();
        run.expect("flushed 3 3");
        std::thread::sleep(Duration::from_millis(wait_ms));
        run.kill_machine();
        assert!(assert_all_whole(&run.finish(), &disks) > 3);
    }
    // A guest finds them in order, too, and works on.
    let mut run = guest(folder.path(), &disks).start();
    run.expect("flushed 3 3");
    run.kill_machine();
    let run = run.finish();
    assert_eq!(run.stderr.matches(": sealed, Unknown").count(), disks.len());
    assert!(!run.stdout.contains("failed"), "{}", run.transcript());
}
