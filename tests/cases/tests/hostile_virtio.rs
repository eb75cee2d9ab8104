//! A host that lies about its virtio devices: the guest sees an error, or nothing; its memory stays as it was; the paravisor lives.
//!
//! The lies are files of the model, `tests/model/src/hostile/virtio`; the last test here fails when one has no test. In each
//! the guest writes and reads a disk of its own while 8 MiB of noise lie in its memory, which must be there afterwards. The
//! model logs the first lies it told: none told is a failure, too.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use stockade::setup::Archive;
use stockade_cases::{figures, number};
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, workshop};

/// What the guest does; nothing of it may take for ever, though each request to a lying disk may.
const SCRIPT: &str = include_str!("hostile_virtio/guest.sh");
/// Enough for the slowest lie on a loaded machine; requests that hang are given up by the guest, or for it.
const SECONDS: &str = "115";
const DISK_BYTES: u64 = 16 << 20;
/// A minute of patience, and what a machine takes besides.
const LONG: Duration = Duration::from_secs(300);

/// A guest that was lied to.
struct Lied {
    finished: Finished,
    figures: Value,
}

/// Boots the guest with these devices on a host that tells this lie, and makes sure that it told it.
fn lied(lie: &str, devices: &[String], folder: &Path) -> Lied {
    lied_to(lie, devices, "sh /lies.sh", folder)
}

/// The same, with another command for the guest.
fn lied_to(lie: &str, devices: &[String], command: &str, folder: &Path) -> Lied {
    let initrd = folder.join("initrd");
    let mut archive = Archive::new();
    archive.file("lies.sh", SCRIPT.as_bytes());
    let mut bytes = fs::read(&workshop().initramfs).expect("the initramfs is there");
    // A kernel unpacks one archive after the other.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.to_bytes().expect("memory takes it"));
    fs::write(&initrd, bytes).expect("the folder is writable");
    let stats = folder.join("stats.json");
    let mut guest = Stockade::guest("stockade.mode=shell")
        .attacked_by(&format!("virtio-{lie}"))
        .arg("--initrd")
        .arg(&initrd)
        .args(devices)
        .args(["--timeout", SECONDS, "--stats"])
        .arg(&stats)
        .start();
    // What is typed before there is a shell may be lost.
    guest.expect("# ");
    guest.send_line(command);
    let finished = guest.finish();
    // The model's log says so, even of a guest whose time was over.
    let told = format!("attack virtio-{lie}: ");
    finished.assert_says(&[&told]);
    Lied {
        figures: figures(&stats),
        finished,
    }
}

fn disk(folder: &Path) -> Vec<String> {
    let path = folder.join("disk.img");
    let file = fs::File::create(&path).expect("the folder is writable");
    file.set_len(DISK_BYTES).expect("the disk has room");
    vec!["--disk".to_owned(), path.display().to_string()]
}

fn lied_about_disk(lie: &str) -> Lied {
    let folder = tempfile::tempdir().expect("a temporary folder");
    lied(lie, &disk(folder.path()), folder.path())
}

fn lied_about_net(lie: &str) -> Lied {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let net = ["--net".to_owned(), "user".to_owned()];
    lied(lie, &net, folder.path())
}

impl Lied {
    /// Fails if anything happened that no lie may do, and unless the guest came to its end by itself: the paravisor lived.
    #[track_caller]
    fn assert_lived(&self) -> &Self {
        self.finished.assert_code(0);
        let transcript = self.finished.transcript();
        assert!(!transcript.contains("panicked"), "{transcript}");
        let found = |name| finding(&self.finished.stdout, name);
        assert_eq!(found("canary"), Some("ok"), "{transcript}");
        assert_eq!(found("kernel-log"), Some("clean"), "{transcript}");
        let readable = number(&self.figures, "/model/ram_host_readable_bytes");
        assert_eq!(readable, 0, "{transcript}");
        self
    }

    /// Fails unless everything the guest read was what it had written.
    #[track_caller]
    fn assert_true_data(&self) -> &Self {
        assert_eq!(self.counted("offline_devices"), 0);
        assert_eq!(self.counted("io_errors"), 0);
        self.assert_data(&["same"])
    }

    /// Fails unless what the guest read in each round is one of these to what it had written.
    #[track_caller]
    fn assert_data(&self, allowed: &[&str]) -> &Self {
        let transcript = self.finished.transcript();
        for round in 1..=3 {
            let found = finding(&self.finished.stdout, &format!("data-{round}"));
            let is_allowed = found.is_some_and(|found| allowed.contains(&found));
            assert!(is_allowed, "{transcript}");
        }
        self
    }

    /// Fails unless the guest had to do without its disk, for this reason.
    #[track_caller]
    fn assert_missing(&self, code: u8) {
        let transcript = self.finished.transcript();
        let is_missing = findings(&self.finished.stdout).contains(&"no disk");
        let words = format!("disk 0 is missing: host device 00:02.0, code {code}:");
        assert!(is_missing, "{transcript}");
        assert!(self.finished.stderr.contains(&words), "{transcript}");
    }
}

/// An answer to what nobody asked: the used index says so if it is one beyond the last request, else the id does.
const NOT_ASKED: [u8; 2] = [6, 7];

#[test]
fn used_twice_a_completion_told_twice_takes_the_device_offline() {
    lied_about_disk("used-twice")
        .assert_lived()
        .assert_offline(&NOT_ASKED);
}

#[test]
fn used_never_posted_an_answer_to_no_question_takes_the_device_offline() {
    lied_about_disk("used-never-posted")
        .assert_lived()
        .assert_offline(&NOT_ASKED);
}

#[test]
fn length_long_no_byte_beyond_the_buffer_is_taken() {
    lied_about_disk("length-long")
        .assert_lived()
        .assert_offline(&[8]);
}

#[test]
fn length_short_what_was_not_written_is_not_taken() {
    let lied = lied_about_disk("length-short");
    lied.assert_lived().assert_data(&["same", "none"]);
}

#[test]
fn used_index_jumps_entries_that_are_not_there_are_not_read() {
    lied_about_disk("used-index-jumps")
        .assert_lived()
        .assert_offline(&[6]);
}

#[test]
fn early_completion_late_data_reach_no_other_memory() {
    lied_about_disk("early-completion").assert_lived();
}

#[test]
fn double_fetch_data_count_as_they_were_when_taken() {
    lied_about_disk("double-fetch").assert_lived();
}

#[test]
fn config_shrinks_a_disk_in_use_is_as_large_as_it_was_or_offline() {
    let lied = lied_about_disk("config-shrinks");
    let size = format!("{}", DISK_BYTES / 512);
    assert_eq!(finding(&lied.finished.stdout, "disk"), Some(&*size));
    lied.assert_lived().assert_offline(&[10]);
}

#[test]
fn features_appear_features_nobody_knows_are_not_taken() {
    lied_about_disk("features-appear")
        .assert_lived()
        .assert_true_data();
}

#[test]
fn features_unacked_no_disk_is_better_than_one_that_agrees_on_nothing() {
    lied_about_disk("features-unacked")
        .assert_lived()
        .assert_missing(4);
}

#[test]
fn status_lies_a_device_that_says_it_is_broken_is_left_alone() {
    lied_about_disk("status-lies")
        .assert_lived()
        .assert_missing(9);
}

#[test]
fn queue_size_changes_a_queue_has_one_size_or_none() {
    lied_about_disk("queue-size-changes")
        .assert_lived()
        .assert_missing(5);
}

#[test]
fn bar_moves_registers_that_are_elsewhere_are_nobodys() {
    lied_about_disk("bar-moves")
        .assert_lived()
        .assert_missing(9);
}

#[test]
fn device_id_changes_a_disk_is_no_network_card() {
    lied_about_disk("device-id-changes")
        .assert_lived()
        .assert_missing(2);
}

/// Commands wait for their disk until it answers or is given up.
const PATIENT: &str = "PATIENCE=950 sh /lies.sh";

impl Lied {
    /// Fails unless all that the guest asked of its disk after a beginning ended, with errors, and for one of these reasons.
    #[track_caller]
    fn assert_offline(&self, codes: &[u8]) {
        let transcript = self.finished.transcript();
        let said = findings(&self.finished.stdout);
        for round in 2..=3 {
            let hung = format!("write-{round} hangs");
            let good = format!("write-{round} 0");
            assert!(!said.contains(&hung.as_str()), "{transcript}");
            assert!(!said.contains(&good.as_str()), "{transcript}");
        }
        let mut words = codes
            .iter()
            .map(|code| format!("host disk 00:02.0 is offline, code {code}:"));
        let is_said = words.any(|words| self.finished.stderr.contains(&words));
        assert!(is_said, "{transcript}");
        assert_eq!(self.counted("offline_devices"), 1, "{transcript}");
        assert!(self.counted("io_errors") > 0, "{transcript}");
    }

    /// What the paravisor counted by this name.
    #[track_caller]
    fn counted(&self, name: &str) -> u64 {
        number(&self.figures, &format!("/paravisor/{name}"))
    }
}

/// The guest's driver would wait for ever.
#[test]
fn device_vanishes_a_device_that_is_gone_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lied = lied_to(
        "device-vanishes",
        &disk(folder.path()),
        PATIENT,
        folder.path(),
    );
    lied.assert_lived().assert_offline(&[9]);
    assert!(lied.finished.wall < Duration::from_secs(60));
}

/// A minute is what a device in good order gets.
#[test]
fn silence_a_disk_that_never_answers_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lied = lied_to("silence", &disk(folder.path()), PATIENT, folder.path());
    lied.assert_lived().assert_offline(&[12]);
}

/// More than a silent console's buffers hold, twice.
const WRITES_TO_A_CONSOLE: &str = r#"
modprobe -a virtio_pci virtio_console
for i in 1 2 3 4 5 6 7 8 9; do [ -c /dev/hvc0 ] && break; sleep 1; done
stty raw </dev/hvc0
for round in 1 2; do
    dd if=/dev/zero of=/dev/hvc0 bs=10000 count=4 2>/dev/null; say "written-$round $?"
done
"#;

/// Its driver waits with a lock held, so the guest would stand still for ever.
#[test]
fn silence_a_console_that_takes_nothing_holds_the_guest_no_longer_than_a_disk_might() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(WRITES_TO_A_CONSOLE).modules(&["virtio_pci", "virtio_console"]);
    let (stats, output) = (folder.path().join("stats.json"), folder.path().join("hvc0"));
    let finished = Stockade::guest("")
        .attacked_by("virtio-silence:25")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--virtio-console")
        .arg(format!("file={}", output.display()))
        .arg("--stats")
        .arg(&stats)
        .limit(LONG)
        .finish();
    finished.assert_code(0);
    let words = "the host takes nothing: what the guest writes is lost";
    finished.assert_says(&["attack virtio-silence: ", words]);
    for round in ["written-1", "written-2"] {
        let found = finding(&finished.stdout, round);
        assert_eq!(found, Some("0"), "{}", finished.transcript());
    }
    let figures = figures(&stats);
    assert!(number(&figures, "/paravisor/lost_characters") > 60_000);
    assert_eq!(number(&figures, "/paravisor/offline_devices"), 0);
}

/// Writes and flushes for as long as that is answered well, then reads.
const WRITES_TO_A_DISK: &str = r#"
modprobe -a virtio_pci virtio_blk
sleep 1
for n in $(seq 30); do
    echo "$n" | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null || break
    say "flushed $n"
done
say "last $n"
head -c 1 /dev/vda >/dev/null; say "read $?"
"#;

/// What the store is to remember of a disk is never remembered: no flush is answered well that a host could take back.
#[test]
fn silence_a_store_that_never_answers_ends_writing_and_not_the_machine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk.img");
    let made = Stockade::new("disk").args(["create", "--size", "8M"]);
    made.arg(&disk).finish().assert_code(0);
    let initrd = Initrd::new(WRITES_TO_A_DISK).modules(&["virtio_pci", "virtio_blk"]);
    let finished = Stockade::guest("")
        // The store is open by then, and remembers the new disk.
        .attacked_by("virtio-silence:3024")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .args(["--disk", &format!("{},mode=sealed", disk.display())])
        .arg("--state")
        .arg(folder.path().join("state"))
        .limit(LONG)
        .finish();
    finished.assert_code(0);
    finished.assert_says(&[
        "attack virtio-silence: ",
        "host disk 00:18.0 is offline, code 12:",
        "S10",
    ]);
    let found = |name| finding(&finished.stdout, name);
    let transcript = finished.transcript();
    assert_eq!(found("flushed"), Some("1"), "{transcript}");
    assert_ne!(found("last"), Some("30"), "{transcript}");
    assert_eq!(found("read"), Some("0"), "{transcript}");
}

#[test]
fn interrupt_storm_messages_without_reason_cost_time_only() {
    lied_about_disk("interrupt-storm")
        .assert_lived()
        .assert_true_data();
}

#[test]
fn silent_interrupts_messages_before_their_completions_lose_nothing() {
    lied_about_disk("silent-interrupts")
        .assert_lived()
        .assert_true_data();
}

#[test]
fn mute_completions_completions_without_messages_are_found() {
    lied_about_disk("mute-completions")
        .assert_lived()
        .assert_true_data();
}

#[test]
fn descriptors_overwritten_nothing_is_taken_back_from_where_the_host_writes() {
    lied_about_disk("descriptors-overwritten")
        .assert_lived()
        .assert_true_data();
}

#[test]
fn block_flipped_a_plain_disk_is_as_true_as_its_host_and_harms_nothing_else() {
    lied_about_disk("block-flipped").assert_lived();
}

#[test]
fn block_swapped_the_guests_memory_stays_its_own() {
    lied_about_disk("block-swapped").assert_lived();
}

#[test]
fn block_replayed_the_guests_memory_stays_its_own() {
    lied_about_disk("block-replayed").assert_lived();
}

#[test]
fn block_rolled_back_the_guests_memory_stays_its_own() {
    lied_about_disk("block-rolled-back").assert_lived();
}

#[test]
fn net_frame_long_a_frame_ends_where_its_buffer_does() {
    let lied = lied_about_net("net-frame-long");
    lied.assert_lived();
    let words = "host network card 00:10.0 is offline, code 8:";
    lied.finished.assert_says(&[words]);
    assert_eq!(lied.counted("offline_devices"), 1);
}

#[test]
fn net_header_nonsense_offloads_nobody_agreed_on_are_ignored() {
    lied_about_net("net-header-nonsense").assert_lived();
}

/// Frames wait for their lie to be over: half of them get through.
const PATIENT_NET: &str = "PATIENCE=200 sh /lies.sh";
/// Asked for, one a second.
const PINGS: u64 = 8;
/// What a card leaves undone whose frames are to be summed and split by us: GUEST_CSUM, GUEST_TSO4.
const LEFT_UNDONE: [usize; 2] = [1, 7];

fn lied_about_frames(lie: &str) -> Lied {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let net = ["--net".to_owned(), "user".to_owned()];
    lied_to(lie, &net, PATIENT_NET, folder.path())
}

impl Lied {
    /// How many were answered; none if the guest cannot say.
    fn pings(&self) -> u64 {
        let pings = finding(&self.finished.stdout, "pings");
        pings.and_then(|pings| pings.parse().ok()).unwrap_or(0)
    }

    /// Fails unless the frames that were lied about were dropped and counted, all but so many at most, and no others.
    #[track_caller]
    fn assert_dropped(&self, but: u64) {
        self.assert_lived();
        let transcript = self.finished.transcript();
        let told = number(&self.figures, "/model/attack/attempts");
        let dropped = self.counted("dropped_frames");
        assert!(told >= 3, "{transcript}");
        assert!((told - but..=told).contains(&dropped), "{transcript}");
        assert!((1..PINGS).contains(&self.pings()), "{transcript}");
    }

    /// Fails unless the guest was told that its card leaves checksums and splitting to it: what a header says of them is then listened to.
    #[track_caller]
    fn assert_listened_to(&self) -> &Self {
        let transcript = self.finished.transcript();
        let features = finding(&self.finished.stdout, "card-features");
        let features = features.unwrap_or_default().as_bytes();
        let has = |bit: &usize| features.get(*bit) == Some(&b'1');
        assert!(LEFT_UNDONE.iter().all(has), "{transcript}");
        self
    }
}

/// A frame that says so may swallow the next one, if that is there.
#[test]
fn net_buffers_beyond_a_frame_is_made_of_what_came() {
    lied_about_frames("net-buffers-beyond").assert_dropped(1);
}

#[test]
fn net_checksum_beyond_nothing_is_written_outside_of_a_frame() {
    lied_about_frames("net-checksum-beyond")
        .assert_listened_to()
        .assert_dropped(0);
}

#[test]
fn net_frame_short_no_frame_is_made_of_what_came_before() {
    lied_about_frames("net-frame-short").assert_dropped(0);
}

#[test]
fn net_gso_size_zero_no_frame_is_split_for_ever() {
    lied_about_frames("net-gso-size-zero")
        .assert_listened_to()
        .assert_dropped(0);
}

#[test]
fn net_gso_unknown_what_cannot_be_split_is_dropped() {
    lied_about_frames("net-gso-unknown")
        .assert_listened_to()
        .assert_dropped(0);
}

/// All packets of TCP say so: a connection is refused in the same moment all the same, and nothing else is different.
#[test]
fn net_header_length_beyond_a_length_that_is_a_hint_stays_one() {
    let lied = lied_about_frames("net-header-length-beyond");
    lied.assert_listened_to().assert_lived();
    let transcript = lied.finished.transcript();
    assert_eq!(lied.counted("dropped_frames"), 0);
    assert_eq!(lied.pings(), PINGS, "{transcript}");
    let connected = finding(&lied.finished.stdout, "connected");
    assert_eq!(connected, Some("refused"), "{transcript}");
}

#[test]
fn every_lie_has_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/src/hostile/virtio");
    let here = [
        include_str!("hostile_virtio.rs"),
        include_str!("hostile_sealed.rs"),
        include_str!("power_cut.rs"),
    ]
    .concat();
    for entry in fs::read_dir(folder).expect("the model is beside us") {
        let name = entry.expect("it is readable").file_name();
        let name = name.to_string_lossy();
        let name = name.trim_end_matches(".rs");
        let test = format!("fn {name}_");
        assert!(name == "mod" || here.contains(&test), "no test {test}…");
    }
}
