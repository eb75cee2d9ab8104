//! A guest asks to be attested with nothing but `tpm2-tools`, carries the answer out by its console, and a verifier judges it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_rig::guest::findings;
use stockade_rig::{Finished, Initrd, Stockade, appended};

const LIMIT: Duration = Duration::from_secs(400);
/// 32 bytes, as a verifier draws them.
const NONCE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// What stands in `docs/attestation.md`, and tries to have the report say what the guest likes.
const SCRIPT: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
show() { od -A n -v -t x1 $2 | tr -d ' ' | while read digits; do say "file $1 $digits"; done; }
i=0; while [ $i -lt 32 ]; do printf "\\$(printf %03o $i)"; i=$((i + 1)); done >nonce
tpm2 nvwrite -C o -i nonce 0x1400002 || say "no nonce"
tpm2 nvread -C o -o report 0x1400001 || say "no report"
tpm2 readpublic -c 0x81010016 -o ek.pub >/dev/null
tpm2 readpublic -c 0x81000003 -o ak.pub >/dev/null
tpm2 quote -c 0x81000003 -l sha256:0,1 -q 0011 -m quote -s signature -o pcrs >/dev/null 2>&1 && say "quote ok"
tpm2 nvwrite -C o -i nonce 0x1400001 2>/dev/null && say "report written by the guest"
tpm2 nvwrite -C 0x1400001 -i nonce 0x1400001 2>/dev/null && say "report written by the guest"
for name in report ek.pub ak.pub; do show $name $name; done
tpm2 createprimary -C e -G ecc -c other.ctx >/dev/null 2>&1
tpm2 evictcontrol -C o -c 0x81000003 >/dev/null 2>&1
tpm2 evictcontrol -C o -c other.ctx 0x81000003 >/dev/null 2>&1
tpm2 readpublic -c 0x81000003 -o other.pub >/dev/null
tpm2 nvwrite -C o -i nonce 0x1400002
tpm2 nvread -C o -o again 0x1400001
for name in other.pub again; do show $name $name; done
head -c 700 /dev/zero >certificate
for handle in 0x1400001 0x1400002; do tpm2 nvundefine -C p $handle >/dev/null 2>&1 && say "index taken away"; done
tpm2 clear -c p >/dev/null 2>&1 && say "cleared by the platform"
tpm2 pcrallocate sha1:all+sha256:all+sha384:all >/dev/null 2>&1 && say "banks changed"
tpm2 nvdefine -C o -s 700 -a 'ownerwrite|ownerread|authread|no_da' 0x1c00002 >/dev/null 2>&1
tpm2 nvwrite -C o -i certificate 0x1c00002 2>/dev/null && tpm2 nvread -C o 0x1c00002 2>/dev/null | cmp - certificate && say "certificate kept"
"#;

/// A folder with what came out of the guest.
pub(crate) struct Evidence<'a> {
    folder: &'a Path,
    pub(crate) digest: String,
}

impl<'a> Evidence<'a> {
    /// Takes files of these names from what a guest printed, a line of hexadecimal digits after the other.
    pub(crate) fn new(run: &Finished, folder: &'a Path, names: &[&str]) -> Self {
        for name in names {
            let prefix = format!("file {name} ");
            let said = findings(&run.stdout).into_iter();
            let digits: String = said.filter_map(|line| line.strip_prefix(&prefix)).collect();
            assert!(!digits.is_empty(), "no {name}\n{}", run.transcript());
            fs::write(folder.join(name), bytes(&digits)).unwrap();
        }
        let (_, digest) = run.stderr.split_once("launch digest ").unwrap();
        Self {
            digest: digest[..96].to_owned(),
            folder,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn verify(
        &self,
        report: &str,
        ek: &str,
        ak: &str,
        nonce: &str,
        digest: &str,
    ) -> Stockade {
        Stockade::new("attest")
            .args(["verify", "--nonce", nonce, "--expect-measurement", digest])
            .arg("--report")
            .arg(self.path(report))
            .arg("--ek")
            .arg(self.path(ek))
            .arg("--ak")
            .arg(self.path(ak))
            .arg("--certificates")
            .arg(self.path("certificates"))
    }

    /// The evidence with a byte changed.
    fn altered(&self, at: usize) -> String {
        let mut bytes = fs::read(self.path("report")).unwrap();
        bytes[at] ^= 1;
        let name = format!("altered-{at}");
        fs::write(self.path(&name), bytes).unwrap();
        name
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn guest(folder: &Path) -> Finished {
    let run = Stockade::new("run")
        .args(["--tpm", "--memory", "512M", "--append", &appended("")])
        .arg("--initrd")
        .arg(Initrd::new(SCRIPT).tpm2_tools().write(folder))
        .arg("--certificates")
        .arg(folder.join("certificates"))
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    run
}

/// Fails unless the call is refused with this exit code and these words.
#[track_caller]
fn assert_refused(call: Stockade, code: i32, words: &[&str]) {
    let finished = call.finish();
    finished.assert_code(code);
    finished.assert_refused(words);
}

#[test]
fn evidence_stands_for_its_guest_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let run = guest(folder.path());
    let said = findings(&run.stdout);
    assert!(said.contains(&"quote ok"), "{}", run.transcript());
    assert!(said.contains(&"certificate kept"), "{}", run.transcript());
    // What is the platform's is nobody's in the guest.
    for done in [
        "report written by the guest",
        "index taken away",
        "cleared by the platform",
        "banks changed",
    ] {
        assert!(!said.contains(&done), "{done}\n{}", run.transcript());
    }
    let names = ["report", "ek.pub", "ak.pub", "other.pub", "again"];
    let it = Evidence::new(&run, folder.path(), &names);
    let (ek, ak, digest) = ("ek.pub", "ak.pub", it.digest.clone());
    let good = it
        .verify("report", ek, ak, NONCE, &digest)
        .arg("--test-chain");
    let good = good.finish();
    good.assert_code(0);
    for words in [
        "TEST CHAIN",
        "nonce            as given",
        "ECC, of the attested TPM",
    ] {
        assert!(good.stdout.contains(words), "{}", good.transcript());
    }
    // Nobody is to take the model for hardware.
    let untold = it.verify("report", ek, ak, NONCE, &digest);
    assert_refused(untold, 21, &["test chain", "--test-chain"]);

    let judge = |report: &str, ek: &str, ak: &str, nonce: &str, digest: &str| {
        it.verify(report, ek, ak, nonce, digest).arg("--test-chain")
    };
    // In the measurement, in the signature, in the nonce of the document, in the name of a key.
    for at in [0x90, 0x2A1, 1184 + 20, 1184 + 16 + 64 + 10] {
        let altered = it.altered(at);
        assert_refused(
            judge(&altered, ek, ak, NONCE, &digest),
            20,
            &["not genuine"],
        );
    }
    let other = "ff".repeat(32);
    assert_refused(judge("report", ek, ak, &other, &digest), 22, &["nonce"]);
    let swapped = judge("report", ak, ak, NONCE, &digest);
    assert_refused(swapped, 23, &["endorsement key"]);
    let other = "00".repeat(48);
    let stranger = judge("report", ek, ak, NONCE, &other);
    assert_refused(stranger, 24, &["launch digest", &digest]);

    // Another key at the attestation key's handle does not become one.
    let pushed = judge("again", ek, "other.pub", NONCE, &digest);
    assert_refused(pushed, 23, &["attestation key"]);
    judge("again", ek, ak, NONCE, &digest)
        .finish()
        .assert_code(0);
}
