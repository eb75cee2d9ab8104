//! What a TPM keeps over a power cycle with `--state`, what power cuts leave of it, and what becomes of it when its host brings the state
//! back changed, emptied or older.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, appended, tamper};

const LIMIT: Duration = Duration::from_secs(400);
/// The model ends so when the host has no power.
const CUT: &str = "the host lost power after";

/// Gives a new TPM what is to last, or looks what has; either way says what it found.
const SCRIPT: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
[ -c /dev/tpmrm0 ] || say "no TPM"
tpm2 readpublic -c 0x81010001 >rsa 2>/dev/null && say "rsa $(md5sum <rsa)"
tpm2 readpublic -c 0x81010016 >ecc 2>/dev/null && say "ecc $(md5sum <ecc)"
tpm2 createprimary -C o -G ecc -c primary.ctx >/dev/null 2>&1 || say "no primary"
tpm2 readpublic -c primary.ctx >primary 2>/dev/null && say "primary $(md5sum <primary)"
if ! tpm2 readpublic -c 0x81000001 >/dev/null 2>&1; then
    say "new"
    tpm2 evictcontrol -C o -c primary.ctx 0x81000001 >/dev/null 2>&1
    tpm2 nvdefine 0x1500001 -C o -s 32 -a 'ownerread|ownerwrite' >/dev/null 2>&1
    echo -n "open sesame" | tpm2 nvwrite 0x1500001 -C o -i - 2>/dev/null
    tpm2 nvdefine 0x1500002 -C o -s 8 -a 'ownerread|ownerwrite|nt=counter' >/dev/null 2>&1
    tpm2 dictionarylockout -s -n 5 -t 100000 -l 100000 2>/dev/null
    tpm2 create -C primary.ctx -p right -G ecc -u key.pub -r key.priv >/dev/null 2>&1
    tpm2 load -C primary.ctx -u key.pub -r key.priv -c key.ctx >/dev/null 2>&1
    echo x >message
    tpm2 sign -c key.ctx -p wrong -g sha256 -o signature message >/dev/null 2>&1
fi
for word in $(cat /proc/cmdline); do case $word in test.increments=*) times=${word#test.increments=};; esac; done
i=0
while [ $i -lt ${times:-1} ]; do
    tpm2 nvincrement 0x1500002 -C o 2>/dev/null || say "not counted"
    say "counted $(tpm2 nvread 0x1500002 -C o 2>/dev/null | od -A n -t x1 | tr -d ' ')"
    i=$((i + 1))
done
tpm2 getcap properties-variable 2>/dev/null >properties
say "lockout $(grep LOCKOUT_COUNTER properties | tr -d ' ')"
say "kept $(tpm2 nvread 0x1500001 -C o -s 11 2>/dev/null)"
"#;

/// A machine's folder: its initramfs and its state.
struct Machine {
    folder: tempfile::TempDir,
    initrd: PathBuf,
    /// On the command line, which is measured: its state is this machine's only.
    words: &'static str,
}

impl Machine {
    fn new(words: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let initrd = Initrd::new(SCRIPT).tpm2_tools().write(folder.path());
        Self {
            folder,
            initrd,
            words,
        }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("state/stockade.store")
    }

    fn start(&self) -> Stockade {
        self.start_with(self.words)
    }

    /// Starts this machine's state with other words, so with another image.
    fn start_with(&self, words: &str) -> Stockade {
        Stockade::new("run")
            .args(["--tpm", "--memory", "512M", "--append", &appended(words)])
            .arg("--initrd")
            .arg(&self.initrd)
            .arg("--state")
            .arg(self.folder.path().join("state"))
            .limit(LIMIT)
    }

    fn run(&self) -> Finished {
        let run = self.start().finish();
        run.assert_code(0);
        run
    }
}

#[track_caller]
fn found<'a>(run: &'a Finished, name: &str) -> &'a str {
    let found = finding(&run.stdout, name);
    found.unwrap_or_else(|| panic!("nothing about {name}\n{}", run.transcript()))
}

fn is_new(run: &Finished) -> bool {
    findings(&run.stdout).contains(&"new")
}

/// What a run says of the counter, the highest last.
fn counts(run: &Finished) -> Vec<u64> {
    let said = findings(&run.stdout).into_iter();
    let said = said.filter_map(|line| line.strip_prefix("counted "));
    said.filter_map(|digits| u64::from_str_radix(digits, 16).ok())
        .collect()
}

#[test]
fn a_power_cycle_keeps_keys_seeds_memory_counters_and_failed_guesses() {
    let machine = Machine::new("");
    let (first, second) = (machine.run(), machine.run());
    first.assert_says(&["modules' records are in the sealed store"]);
    assert!(is_new(&first), "{}", first.transcript());
    assert!(!is_new(&second), "{}", second.transcript());
    for name in ["rsa", "ecc", "primary", "kept", "lockout"] {
        assert_eq!(
            found(&first, name),
            found(&second, name),
            "{name}\n{}\n{}",
            first.transcript(),
            second.transcript()
        );
    }
    assert_eq!(found(&second, "kept"), "open sesame");
    assert_eq!(found(&second, "lockout"), "TPM2_PT_LOCKOUT_COUNTER:0x1");
    let [one, other] = [&first, &second].map(|run| counts(run)[0]);
    assert_eq!(other, one + 1, "{}", second.transcript());
    // What the TPM keeps is in the file, and nobody reads it there.
    let file = fs::read(machine.store()).unwrap();
    let has = |words: &[u8]| file.windows(words.len()).any(|window| window == words);
    assert!(has(b"STOCKLOG") && !has(b"open sesame"));
}

/// What the guest was told of the counter is there afterwards; the increment under way may be there or not.
#[test]
fn power_cut_leaves_what_the_guest_was_told() {
    let machine = Machine::new("test.increments=9");
    machine.run();
    for write in [3, 8, 13] {
        let cut = machine
            .start()
            .attacked_by(&format!("virtio-power-cut:{write}"))
            .finish();
        cut.assert_says(&[CUT]);
        let told = counts(&cut).last().copied();
        let after = machine.run();
        assert!(!is_new(&after), "{}", after.transcript());
        assert_eq!(found(&after, "kept"), "open sesame");
        let then = counts(&after)[0];
        // The last run's own increment is one more.
        if let Some(told) = told {
            let is_fit = then == told + 1 || then == told + 2;
            assert!(is_fit, "told {told}, then {then}\n{}", after.transcript());
        }
    }
}

/// The machine stopped before there was a guest.
#[track_caller]
fn assert_stopped(run: &Finished, words: &[&str]) {
    run.assert_code(12).assert_says(words);
    run.assert_says(&["T01", "TPM's state cannot be read", "code 28"]);
    assert!(
        !run.stderr.contains("entering the guest"),
        "{}",
        run.transcript()
    );
}

/// A guest that cannot have its own TPM is not started: one that fails, or a new one, would pass for a loss of all that was sealed.
#[test]
fn a_state_that_cannot_be_opened_stops_the_machine_and_an_older_one_is_what_the_log_warns_of() {
    let machine = Machine::new("");
    let first = machine.run();
    let old = fs::read(machine.store()).unwrap();
    machine.run();
    let new = fs::read(machine.store()).unwrap();

    let mut flipped = new.clone();
    // In the tag of the first entry, on which later ones depend.
    flipped[4096 + 52] ^= 1;
    fs::write(machine.store(), &flipped).unwrap();
    assert_stopped(&machine.start().finish(), &["S07"]);
    assert!(fs::read(machine.store()).unwrap() == flipped);

    // Another chip, and another image on the same one, have other keys.
    fs::write(machine.store(), &new).unwrap();
    let elsewhere = machine.start().args(["--model-arg", "seed=7"]);
    assert_stopped(&elsewhere.finish(), &["S06"]);
    assert_stopped(&machine.start_with("test.other").finish(), &["S06"]);
    assert!(fs::read(machine.store()).unwrap() == new);

    for bytes in [0, 0x6000] {
        fs::write(machine.store(), &new).unwrap();
        let qemu = tamper::truncating_qemu(machine.folder.path(), &machine.store(), bytes);
        assert_stopped(&machine.start().arg("--qemu").arg(qemu).finish(), &[]);
        assert_eq!(fs::metadata(machine.store()).unwrap().len(), bytes);
    }

    fs::write(machine.store(), &old).unwrap();
    let older = machine.run();
    older.assert_says(&["of unknown age"]);
    assert_eq!(found(&older, "rsa"), found(&first, "rsa"));
    assert_eq!(counts(&older)[0], counts(&first)[0] + 1);
}

/// What was never kept is a new TPM, and its owner sees that by its endorsement key.
#[test]
fn an_emptied_state_is_another_tpm() {
    let machine = Machine::new("");
    let first = machine.run();
    fs::remove_dir_all(machine.folder.path().join("state")).unwrap();
    let second = machine.run();
    second.assert_says(&["sealed store: Created"]);
    assert!(is_new(&second), "{}", second.transcript());
    for name in ["rsa", "ecc", "primary"] {
        assert_ne!(found(&first, name), found(&second, name), "{name}");
    }
}
