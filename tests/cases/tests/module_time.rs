//! Modules' time: slices of a busy guest's processor, and work beside several processors that all have something to do.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_cases::static_program;
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Initrd, Stockade, appended};

const LIMIT: Duration = Duration::from_secs(500);
/// Rounds of the module's work: some 0.2 s in counted time.
const ROUNDS: u64 = 40_000_000;

/// A slice is a millisecond; before and after it the vCPU looks around, and the guest's own tick may fall in between.
const LONGEST_US: u64 = 1_600;

fn works(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/works.rs");
    static_program(&source, folder, "works")
}

/// What the module answers.
fn expected() -> String {
    let sum = (0..ROUNDS).fold(0_u64, |sum, round| sum.wrapping_mul(3).wrapping_add(round));
    format!("module 0 2 {sum:x}")
}

fn client() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_module_client"))
}

/// In counted time, where a busy host takes nothing from the guest.
#[test]
fn a_busy_guest_is_away_for_a_slice_at_most_and_for_a_fifth_of_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("module_client 0 {ROUNDS} busy");
    let run = Stockade::guest("")
        .args(["--icount", "--test-devices", "--paravisor-module"])
        .arg(works(folder.path()))
        .arg("--initrd")
        .arg(
            Initrd::new(&script)
                .own_program(client())
                .write(folder.path()),
        )
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    let said = findings(&run.stdout);
    assert!(said.contains(&expected().as_str()), "{}", run.transcript());
    let away = finding(&run.stdout, "away").unwrap();
    println!("away: {away} us");
    let numbers: Vec<u64> = away.split(' ').map(|word| word.parse().unwrap()).collect();
    let [longest, all, of] = numbers[..] else {
        unreachable!("three numbers are printed");
    };
    assert!(longest <= LONGEST_US, "{}", run.transcript());
    // A fifth is the modules', the guest's own interrupts come on top.
    assert!(all * 100 <= of * 26, "{}", run.transcript());
    // And they do get on.
    assert!(all * 100 >= of * 10, "{}", run.transcript());
}

/// Four processors with something to do, two modules with something to do.
const BUSY: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
for one in 1 2 3 4; do (while :; do :; done) & done
module_client 0 ROUNDS &
client=$!
for one in 1 2 3; do
    (
        right=0
        for time in 1 2 3 4; do
            echo "$one $time" >text.$one
            [ "$(tpm2 hash -g sha256 --hex text.$one 2>/dev/null)" = "$(sha256sum <text.$one | cut -d' ' -f1)" ] && right=$((right + 1))
        done
        say "right $one $right"
    ) &
    wait_for="$wait_for $!"
done
wait $client $wait_for
dmesg | grep -E "BUG:|soft lockup|rcu.*stall" | while read line; do say "complaint $line"; done
"#;

#[test]
fn modules_work_beside_four_busy_processors() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = Initrd::new(&BUSY.replace("ROUNDS", &ROUNDS.to_string()))
        .own_program(client())
        .tpm2_tools();
    let run = Stockade::new("run")
        .args(["--cpus", "4", "--memory", "768M", "--tpm", "--test-devices"])
        .args(["--append", &appended("")])
        .arg("--paravisor-module")
        .arg(works(folder.path()))
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    let said = findings(&run.stdout);
    assert!(said.contains(&expected().as_str()), "{}", run.transcript());
    for one in ["right 1 4", "right 2 4", "right 3 4"] {
        assert!(said.contains(&one), "{one}\n{}", run.transcript());
    }
    assert_eq!(
        finding(&run.stdout, "complaint"),
        None,
        "{}",
        run.transcript()
    );
}
