//! The guest's timers as its programs feel them: cyclictest of rt-tests, one real-time thread a processor that sleeps a
//! millisecond at a time and notes how late it woke.

use std::time::Duration;

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Initrd, Slot, Stockade};

/// Loops of the quickest thread, a millisecond long at least.
const LOOPS: u64 = 2_000;
/// Later than this even on a busy machine means that a wake-up was lost and another timer made up for it: the kernel's own tick
/// comes every 4 ms, the watchdogs of the guest every few seconds.
const LOST_US: u64 = 2_000_000;

/// `cyclictest` says per thread how many wake-ups there were and how late they came; the wall clock says that none came early.
const SCRIPT: &str = r#"
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
before=$(cut -d' ' -f1 /proc/uptime)
cyclictest --quiet --threads=$(nproc) --affinity --priority=90 --interval=1000 --distance=0 --loops=LOOPS >/tmp/out 2>&1
say "status $?"
after=$(cut -d' ' -f1 /proc/uptime)
say "took $before $after"
grep '^T:' /tmp/out | while read -r line; do say "thread $line"; done
cat /tmp/out | grep -v '^T:'
dmesg | grep -iE 'unstable|stall|lockup' | while read -r line; do say "complaint $line"; done
say done
"#;

/// A line such as `T: 0 (   91) P:90 I:1000 C:   2000 Min:     12 Act:   40 Avg:   45 Max:     310`.
fn field(line: &str, name: &str) -> u64 {
    let rest = line
        .split_once(&format!("{name}:"))
        .map(|(_, rest)| rest.trim_start());
    let digits = rest.and_then(|rest| rest.split_whitespace().next());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| unreachable!("no {name} in {line}"))
}

fn no_timer_is_lost(cpus: usize, mode: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = SCRIPT.replace("LOOPS", &LOOPS.to_string());
    let initrd = Initrd::new(&script).program("rt-tests", "usr/bin/cyclictest", &["libnuma1"]);
    let _alone = Slot::take_all();
    let finished = Stockade::guest("")
        .with_slots_taken()
        .limit(Duration::from_secs(180))
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .args(["--cpus", &cpus.to_string()])
        .args(mode)
        .finish();
    finished.assert_code(0);
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    assert_eq!(finding(stdout, "status"), Some("0"), "{transcript}");
    assert_eq!(finding(stdout, "complaint"), None, "{transcript}");
    let said = findings(stdout);
    let threads: Vec<&str> = said
        .iter()
        .filter_map(|line| line.strip_prefix("thread "))
        .collect();
    assert_eq!(threads.len(), cpus, "{transcript}");
    // The first thread that is through ends them all.
    let loops = threads.iter().map(|line| field(line, "C"));
    assert_eq!(loops.max(), Some(LOOPS), "{transcript}");
    for line in &threads {
        println!("cyclictest, {cpus} vCPUs {mode:?}: {line}");
        assert!(field(line, "C") > LOOPS / 2, "{transcript}");
        assert!(
            field(line, "Max") < LOST_US,
            "a timer was lost\n{transcript}"
        );
    }
    let took = finding(stdout, "took").unwrap_or_default().split(' ');
    let took: Vec<f64> = took.filter_map(|seconds| seconds.parse().ok()).collect();
    // Two thousand sleeps of a millisecond end no sooner than that.
    assert!(took.len() == 2 && took[1] - took[0] >= 1.9, "{transcript}");
}

#[test]
fn cyclictest_loses_no_timer() {
    no_timer_is_lost(1, &[]);
}

#[test]
fn cyclictest_loses_no_timer_on_two_processors_in_x2apic_mode() {
    no_timer_is_lost(2, &["--x2apic"]);
}
