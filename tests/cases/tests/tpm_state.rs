//! What a TPM keeps over a power cycle with `--state` and over another image, what power cuts leave of it, and what becomes of it when
//! its host brings the state back changed, emptied or older.
//!
//! `STOCKADE_POWER_CUTS=N` makes N cuts in the making of a new TPM in place of one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, ID_KEYS, Initrd, Stockade, appended, tamper};

use crate::attestation::Evidence;

const LIMIT: Duration = Duration::from_secs(400);
/// The model ends so when the host has no power.
const CUT: &str = "the host lost power after";
/// Writes of the host while a new TPM is made, at least.
const MAKING: u32 = 12;

/// Gives a new TPM what is to last, or looks what has; either way says what it found.
const SCRIPT: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
[ -c /dev/tpmrm0 ] || say "no TPM"
clock() {
    tpm2 readclock >/tmp/clock 2>/dev/null
    say "$1 $(sed -n 's/^ *clock: //p' /tmp/clock) $(sed -n 's/^ *reset_count: //p' /tmp/clock)"
}
clock began
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
if grep -q test.attest /proc/cmdline; then
    head -c 32 /dev/zero >nonce
    tpm2 nvwrite -C o -i nonce 0x1400002
    tpm2 nvread -C o -o report 0x1400001
    tpm2 readpublic -c 0x81010001 -o ek.pub >/dev/null
    tpm2 readpublic -c 0x81000003 -o ak.pub >/dev/null
    for name in report ek.pub ak.pub; do
        od -A n -v -t x1 $name | tr -d ' ' | while read digits; do say "file $name $digits"; done
    done
    clock ended
fi
"#;

/// A machine's folder: its initramfs and its state.
struct Machine {
    folder: tempfile::TempDir,
    initrd: PathBuf,
    /// On the command line, which is measured: its state is this machine's only.
    words: &'static str,
    /// It is one of a family, so that another image has the same keys.
    has_family: bool,
}

impl Machine {
    fn new(words: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let initrd = Initrd::new(SCRIPT).tpm2_tools().write(folder.path());
        Self {
            folder,
            initrd,
            words,
            has_family: false,
        }
    }

    fn of_a_family(self) -> Self {
        fs::write(self.key(), ID_KEYS[0]).unwrap();
        Self {
            has_family: true,
            ..self
        }
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("state/stockade.store")
    }

    fn start(&self) -> Stockade {
        self.start_with(self.words)
    }

    /// Starts this machine's state with other words, so with another image.
    fn start_with(&self, words: &str) -> Stockade {
        let run = if self.has_family {
            Stockade::new("run")
                .args(["--seal", "family", "--id-key"])
                .arg(self.key())
                .arg("--certificates")
                .arg(self.folder.path().join("certificates"))
        } else {
            Stockade::new("run")
        };
        run.args(["--tpm", "--memory", "512M", "--append", &appended(words)])
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

/// The TPM's clock, in milliseconds, and how often it has been reset.
#[track_caller]
fn clock(run: &Finished, when: &str) -> [u64; 2] {
    let words = found(run, when).split(' ');
    let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// A power cycle of the same image, and then of another one of its family.
#[test]
fn a_power_cycle_keeps_keys_seeds_memory_counters_and_failed_guesses() {
    let machine = Machine::new("test.attest").of_a_family();
    let (first, second) = (machine.run(), machine.run());
    let updated = machine.start_with("test.attest test.updated").finish();
    updated.assert_code(0);
    first.assert_says(&["modules' records are in the sealed store"]);
    assert!(is_new(&first), "{}", first.transcript());
    for later in [&second, &updated] {
        assert!(!is_new(later), "{}", later.transcript());
        for name in ["rsa", "ecc", "primary", "kept", "lockout"] {
            assert_eq!(
                found(&first, name),
                found(later, name),
                "{name}\n{}\n{}",
                first.transcript(),
                later.transcript()
            );
        }
    }
    assert_eq!(found(&second, "kept"), "open sesame");
    assert_eq!(found(&second, "lockout"), "TPM2_PT_LOCKOUT_COUNTER:0x1");
    let [one, other, another] = [&first, &second, &updated].map(|run| counts(run)[0]);
    assert_eq!((other, another), (one + 1, one + 2));
    // Its clock goes on from where it was, and each power-on is a reset.
    for (before, after) in [(&first, &second), (&second, &updated)] {
        let ([ended, resets], [began, more]) = (clock(before, "ended"), clock(after, "began"));
        assert!(began >= ended, "{ended}, then {began}");
        assert_eq!(more, resets + 1);
    }
    stand_for_one_tpm(machine.folder.path(), [&first, &second, &updated]);
    // What the TPM keeps is in the file, and nobody reads it there.
    let file = fs::read(machine.store()).unwrap();
    let has = |words: &[u8]| file.windows(words.len()).any(|window| window == words);
    assert!(has(b"STOCKLOG") && !has(b"open sesame"));
}

/// Each run's evidence is good, by the RSA endorsement key, and the attestation key is the same in all.
#[track_caller]
fn stand_for_one_tpm(folder: &Path, runs: [&Finished; 3]) {
    let nonce = "00".repeat(32);
    let keys = runs.map(|run| {
        let it = Evidence::new(run, folder, &["report", "ek.pub", "ak.pub"]);
        let judged = it.verify("report", "ek.pub", "ak.pub", &nonce, &it.digest);
        let judged = judged.arg("--test-chain").finish();
        judged.assert_code(0);
        assert!(
            judged.stdout.contains("RSA, of the attested TPM"),
            "{}",
            judged.transcript()
        );
        (fs::read(it.path("ak.pub")).unwrap(), it.digest)
    });
    let [(first, digest), (second, same), (third, updated)] = keys;
    assert!(first == second && second == third);
    assert!(digest == same && same != updated);
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

fn cuts() -> u32 {
    let number = std::env::var("STOCKADE_POWER_CUTS").ok();
    number.map_or(1, |number| number.parse().expect("a number of cuts"))
}

/// A new TPM's records are written one after the other; whatever is missing is made by the next start.
#[test]
fn power_cut_while_a_new_tpm_is_made_leaves_one_that_is_made_in_full() {
    for number in 0..cuts() {
        let machine = Machine::new("");
        let write = 1 + (number + 4).wrapping_mul(0x9E37_79B9) % MAKING;
        let attack = format!("virtio-power-cut:{write}");
        let cut = machine.start().attacked_by(&attack).finish();
        cut.assert_says(&[CUT]);
        assert!(
            !cut.stderr.contains("entering the guest"),
            "write {write}\n{}",
            cut.transcript()
        );
        let after = machine.run();
        assert!(is_new(&after), "{}", after.transcript());
        for name in ["rsa", "ecc", "primary"] {
            let _ = found(&after, name);
        }
        assert_eq!(found(&after, "kept"), "open sesame");
        assert_eq!(counts(&after).len(), 1);
    }
}

/// The machine stopped before there was a guest.
#[track_caller]
fn assert_stopped(run: &Finished, words: &[&str]) {
    run.assert_code(12).assert_says(words);
    run.assert_says(&[
        "T01",
        "the TPM's state or its engine cannot be read",
        "code 28",
    ]);
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
