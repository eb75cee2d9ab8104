//! `stockade run` without a terminal: the stock kernel boots, the guest looks around, powers off, and all the claims of the
//! summary hold. One run serves every test here.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;
use stockade_cases::{figures, measured, number, text};
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Stockade, host_view};

const MEMORY: u64 = 256 << 20;

struct Run {
    finished: Finished,
    figures: Value,
    view: PathBuf,
    /// What the guest was told to write; no other run has the same.
    marker: String,
    image: PathBuf,
    _folder: tempfile::TempDir,
}

/// Boots once: from an image, so that its digest can be compared, with a random word the guest writes to its memory.
fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let marker = format!("word{:016x}", rand::random::<u64>());
        let image = stockade_cases::image(
            folder.path(),
            &format!("stockade.mode=check stockade.marker={marker}"),
        );
        let (stats, view) = (folder.path().join("stats.json"), folder.path().join("view"));
        let finished = Stockade::image(&image)
            .arg("--stats")
            .arg(&stats)
            .arg("--host-view")
            .arg(&view)
            .finish();
        finished.assert_code(0);
        Run {
            figures: figures(&stats),
            finished,
            view,
            marker,
            image,
            _folder: folder,
        }
    })
}

#[track_caller]
fn found(name: &str) -> &'static str {
    let run = run();
    finding(&run.finished.stdout, name)
        .unwrap_or_else(|| unreachable!("no {name}\n{}", run.finished.transcript()))
}

#[test]
fn power_off_by_the_guest_is_exit_code_0() {
    run().finished.assert_code(0);
    assert_eq!(findings(&run().finished.stdout).last(), Some(&"done"));
}

#[test]
fn the_guest_has_the_processors_and_memory_it_was_given() {
    assert_eq!(found("cpus"), "1");
    let kib: u64 = found("memory-kib").parse().expect("a number");
    let given = MEMORY >> 10;
    // The kernel keeps some for itself before it counts.
    assert!(
        (given * 3 / 4..given).contains(&kib),
        "{kib} of {given} KiB"
    );
}

#[test]
fn the_guest_keeps_time_by_its_own_tsc() {
    assert_eq!(found("clocksource"), "tsc");
    assert_eq!(found("timer"), "ok");
}

#[test]
fn the_guest_does_not_see_that_it_is_confidential() {
    assert_eq!(found("sev"), "hidden");
    assert!(!run().finished.stdout.contains("Memory Encryption"));
}

#[test]
fn the_kernel_log_has_no_complaint() {
    let stdout = &run().finished.stdout;
    assert_eq!(finding(stdout, "log"), Some("clean"), "{stdout}");
}

#[test]
fn stdout_carries_the_guests_console_and_nothing_of_ours() {
    let run = run();
    for line in run.finished.stdout.lines() {
        for ours in [
            "stockade:",
            "paravisor:",
            "model:",
            "stockade-stats",
            "model-stats",
        ] {
            assert!(!line.starts_with(ours), "{line}");
        }
    }
    assert!(
        !run.finished.stderr.contains("guest-check:"),
        "{}",
        run.finished.stderr
    );
}

#[test]
fn the_summary_names_digest_vmpls_exits_and_bytes_in_clear() {
    let run = run();
    let digest = measured(&run.image);
    run.finished
        .assert_says(&[digest.as_str(), "VMPL", "exits", "cpuid", " 0 bytes"]);
    assert!(
        !run.finished.stderr.contains("unknown"),
        "{}",
        run.finished.stderr
    );
}

#[test]
fn the_digest_the_psp_reports_is_the_one_we_measure() {
    let run = run();
    let digest = measured(&run.image);
    assert_eq!(digest.len(), 96, "{digest}");
    assert_eq!(text(&run.figures, "/model/launch_digest"), digest);
}

#[test]
fn figures_say_how_it_ended_and_what_it_cost() {
    let figures = &run().figures;
    assert_eq!(number(figures, "/exit_code"), 0);
    for pointer in ["/wall_seconds", "/cpu_seconds"] {
        let seconds = figures.pointer(pointer).and_then(Value::as_f64);
        assert!(seconds.is_some_and(|s| s > 0.0), "{pointer} in {figures:#}");
    }
    for kind in ["cpuid", "ioio", "msr", "hlt"] {
        let count = number(figures, &format!("/paravisor/exits/{kind}"));
        assert!(count > 0, "no {kind} in {figures:#}");
    }
    assert_eq!(number(figures, "/paravisor/resets"), 0);
    assert_eq!(number(figures, "/paravisor/unsupported_instructions"), 0);
}

#[test]
fn the_guest_runs_at_vmpl2_and_the_paravisor_at_vmpl0() {
    let figures = &run().figures;
    let vmpls = figures.pointer("/model/vmpls").and_then(Value::as_array);
    let vmpls: Vec<u64> = vmpls
        .expect("the model says which VMPLs ran")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(vmpls, [0, 2]);
    // What the host saw of the guest: that it has something for its paravisor, halts, and the host's own interrupts. No cause.
    let seen = figures.pointer("/model/exits/2").and_then(Value::as_object);
    let seen: Vec<&String> = seen.expect("the guest ran").keys().collect();
    for code in ["CPUID", "IOIO", "MSR", "NPF"] {
        assert!(!seen.iter().any(|name| *name == code), "{seen:?}");
    }
}

#[test]
fn the_paravisor_takes_at_most_8_mib() {
    let bytes = number(&run().figures, "/paravisor/paravisor_bytes");
    assert!((1..=8 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn what_the_guest_writes_is_not_in_the_host_view() {
    let run = run();
    assert_eq!(
        found("marker written"),
        (512 * (run.marker.len() + 17)).to_string()
    );
    let written = format!("{}-in-guest-memory.", run.marker);
    assert_eq!(host_view::count(&run.view, written.as_bytes()), 0);
}

/// The search above must be able to fail: the staged command line is a shared page, and holds the same word.
#[test]
fn the_same_search_finds_the_word_in_a_shared_page() {
    let run = run();
    let staged = format!("stockade.marker={}", run.marker);
    assert!(host_view::count(&run.view, staged.as_bytes()) > 0);
}

#[test]
fn no_byte_of_guest_memory_was_ever_readable_by_the_host() {
    assert_eq!(number(&run().figures, "/model/ram_host_readable_bytes"), 0);
}
