//! A TPM whose engine is broken, or taken over: it answers what no TPM answers, and the guest is none the worse but for its TPM.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use stockade_cases::static_program;
use stockade_rig::guest::findings;
use stockade_rig::{Initrd, Stockade};

const LIMIT: Duration = Duration::from_secs(400);
/// Lives of the guest, in each of which the engine answers in another way: `tests/modules/engine.rs`.
const LIVES: usize = 6;

/// What the kernel says of its TPM, and what it must not say; and the guest's memory, before and after.
const SCRIPT: &str = r#"
dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null
before=$(md5sum </tmp/noise)
[ "$before" = "$(md5sum </tmp/noise)" ] && say "memory kept" || say "memory changed"
dmesg | grep -E 'BUG:|Oops|WARNING: CPU|Call Trace|soft lockup|rcu.*stall|general protection' && say "kernel complains"
say "tpm $(dmesg | grep -i tpm | grep -ciE 'error|fail|timed out|invalid|unable|could not|A TPM')"
dmesg | grep -i tpm
echo "life over"
read word
[ "$word" = rest ] && sleep 10
[ "$word" != off ] && reboot -f && sleep 60
"#;

#[test]
fn a_broken_engine_costs_the_guest_its_tpm_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/engine.rs");
    let engine = static_program(&source, folder.path(), "engine");
    let mut guest = Stockade::guest("")
        .args(["--tpm", "--tpm-engine"])
        .arg(engine)
        .arg("--initrd")
        .arg(Initrd::new(SCRIPT).write(folder.path()))
        .limit(LIMIT)
        .start();
    for life in 1..LIVES {
        guest.expect("life over");
        // More than four resets within ten seconds of one another are a reset loop.
        guest.send_line(if life == 3 { "rest" } else { "again" });
    }
    guest.expect("life over");
    guest.send_line("off");
    let run = guest.finish();
    run.assert_code(0);
    let said = findings(&run.stdout);
    let times = |line: &str| said.iter().filter(|it| **it == line).count();
    let kept = (times("memory kept"), times("kernel complains"));
    assert_eq!(kept, (LIVES, 0), "{}", run.transcript());
    // The kernel noticed, each time.
    assert_eq!(times("tpm 0"), 0, "{}", run.transcript());
    run.assert_says(&["the TPM fails", "signal 6 to itself"]);
    // One that sleeps on a command is started again at the next reset, and has the next life.
    run.assert_says(&["failed: no answer; starting it again"]);
    for words in [
        "2 in life 2",
        "2 in life 3",
        "1 in life 4",
        "1 in life 5",
        "1 in life 6",
    ] {
        run.assert_says(&[&format!("command {words}")]);
    }
    assert_eq!(run.stderr.matches("the TPM is on").count(), LIVES - 1);
}
