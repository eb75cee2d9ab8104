//! With `--icount` a run can be repeated: same digest, same exits, same console.

use serde_json::Value;
use stockade_cases::figures;
use stockade_rig::Stockade;

fn run() -> (String, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    let finished = Stockade::guest("stockade.mode=check")
        .arg("--icount")
        .arg("--stats")
        .arg(&stats)
        .finish();
    finished.assert_code(0);
    (finished.stdout, figures(&stats))
}

#[test]
fn two_runs_that_count_instructions_are_the_same() {
    let first = std::thread::spawn(run);
    let (second_console, second) = run();
    let (first_console, first) = first.join().expect("the run ended well");
    assert_eq!(first_console, second_console);
    for part in [
        "/model/launch_digest",
        "/model/exits",
        "/model/vc",
        "/paravisor/exits",
    ] {
        let value = first.pointer(part);
        assert!(value.is_some(), "no {part} in {first:#}");
        assert_eq!(value, second.pointer(part), "{part}");
    }
    assert_eq!(first.pointer("/paravisor"), second.pointer("/paravisor"));
}
