//! The hostile host: each attack ends in service refused or in a guest that never noticed, never in a wrong result.
//!
//! The attacks are files of the model, `tests/model/src/hostile`; the last test here fails when one has no test.

use std::path::Path;

use serde_json::Value;
use stockade_cases::{figures, number};
use stockade_rig::guest::findings;
use stockade_rig::{Finished, Stockade};

struct Attacked {
    finished: Finished,
    figures: Value,
}

/// Boots the self-check on a host that does this, and makes sure that it did, and that the modelled hardware held.
fn attacked_by(attack: &str) -> Attacked {
    attacked_with(attack, &[])
}

fn attacked_with(attack: &str, arguments: &[&str]) -> Attacked {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    let finished = Stockade::guest("stockade.mode=check")
        .attacked_by(attack)
        .args(arguments)
        .arg("--stats")
        .arg(&stats)
        .finish();
    let figures = figures(&stats);
    assert!(
        number(&figures, "/model/attack/attempts") > 0,
        "{figures:#}"
    );
    assert_eq!(number(&figures, "/model/attack/breaches"), 0, "{figures:#}");
    Attacked { finished, figures }
}

impl Attacked {
    /// Fails unless the guest came to the same findings as on an honest host.
    #[track_caller]
    fn assert_guest_unharmed(&self) {
        self.finished.assert_code(0);
        assert_eq!(number(&self.figures, "/model/ram_host_readable_bytes"), 0);
        let found = findings(&self.finished.stdout);
        for finding in [
            "cpus 1",
            "clocksource tsc",
            "sev hidden",
            "timer ok",
            "log clean",
            "done",
        ] {
            let transcript = || self.finished.transcript();
            assert!(found.contains(&finding), "no {finding:?}\n{}", transcript());
        }
    }

    /// Fails unless the paravisor stopped for this reason, and the guest had come to no end of its own.
    #[track_caller]
    fn assert_stopped(&self, reason: &str) {
        self.finished.assert_code(12).assert_says(&[reason]);
        assert!(
            !findings(&self.finished.stdout).contains(&"done"),
            "{}",
            self.finished.transcript()
        );
    }
}

#[test]
fn doorbell_storm_vectors_nobody_registered_are_dropped_and_counted() {
    let attacked = attacked_by("doorbell-storm");
    attacked.assert_guest_unharmed();
    assert!(number(&attacked.figures, "/paravisor/dropped_vectors") > 0);
}

#[test]
fn drop_page_stops_the_guest_when_its_memory_is_taken_away() {
    attacked_by("drop-page").assert_stopped("the host withdrew guest memory");
}

/// #HV cannot be masked: one inside the handler of the last has overwritten the way back.
#[test]
fn hv_flood_inside_the_handler_of_the_last_is_a_coded_stop() {
    attacked_by("hv-flood").assert_stopped("the host contradicted a known fact");
}

/// Time passed is what the TSC says: a late timer delays the guest's ticks, it takes none away.
#[test]
fn late_timer_delays_and_loses_nothing() {
    attacked_by("late-timer").assert_guest_unharmed();
}

/// A ring is a reason to look at the time, not the passing of it.
#[test]
fn repeat_timer_gives_the_guest_no_tick_that_was_not_due() {
    let attacked = attacked_by("repeat-timer");
    attacked.assert_guest_unharmed();
    let rings = number(&attacked.figures, "/model/attack/attempts");
    assert!(rings > 500, "{:#}", attacked.figures);
}

#[test]
fn lie_npf_a_fault_in_ram_is_no_device_whatever_the_host_says() {
    let attacked = attacked_by("lie-npf");
    attacked.assert_guest_unharmed();
    assert!(number(&attacked.figures, "/paravisor/spurious_faults") > 0);
}

/// It denies its time, for a while: the disk opens later. The host compares all it is given under one number.
#[test]
fn psp_busy_the_same_message_is_sent_until_it_is_passed_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk.img");
    let made = Stockade::new("disk").args(["create", "--size", "4M"]);
    made.arg(&disk).finish().assert_code(0);
    let disk = format!("{},mode=sealed", disk.display());
    let attacked = attacked_with("psp-busy", &["--disk", &disk]);
    attacked.assert_guest_unharmed();
    attacked.finished.assert_says(&["disk 0: sealed"]);
    assert_eq!(number(&attacked.figures, "/model/attack/attempts"), 1000);
}

#[test]
fn replay_exit_the_same_exit_is_never_served_twice() {
    let attacked = attacked_by("replay-exit");
    attacked.assert_guest_unharmed();
    assert!(number(&attacked.figures, "/paravisor/empty_returns") > 0);
}

#[test]
fn run_busy_vmsa_the_guest_never_runs_while_it_is_being_edited() {
    attacked_by("run-busy-vmsa").assert_guest_unharmed();
}

#[test]
fn spurious_return_costs_a_turn_and_nothing_else() {
    let attacked = attacked_by("spurious-return");
    attacked.assert_guest_unharmed();
    assert!(number(&attacked.figures, "/paravisor/empty_returns") > 0);
}

#[test]
fn an_attack_the_model_does_not_know_is_refused_not_ignored() {
    let finished = Stockade::guest("stockade.mode=check")
        .attacked_by("kindness")
        .finish();
    finished
        .assert_code(17)
        .assert_says(&["kindness", "drop-page"]);
}

#[test]
fn every_attack_has_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/src/hostile");
    let here = include_str!("hostile.rs");
    for entry in std::fs::read_dir(folder).expect("the model is beside us") {
        let name = entry.expect("it is readable").file_name();
        let name = name.to_string_lossy();
        // Folders have files of tests of their own.
        let Some(name) = name.strip_suffix(".rs") else {
            continue;
        };
        let test = format!("fn {name}_");
        assert!(name == "mod" || here.contains(&test), "no test {test}…");
    }
}
