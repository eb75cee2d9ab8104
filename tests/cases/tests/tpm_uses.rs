//! What people have a TPM for, as a guest does it: a volume that opens by itself while the machine is what it was, credentials, keys that
//! move, and an end to guessing.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, appended};

const LIMIT: Duration = Duration::from_secs(400);

/// What every script begins with: a tool by its name, and what became of it.
const PREFACE: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
[ -c /dev/tpmrm0 ] || say "no TPM"
outcome() {
    name=$1; shift
    if "$@" >/tmp/out 2>/tmp/err; then say "$name ok"; else say "$name refused: $(tail -1 /tmp/err)"; fi
}
try() {
    name=$1; shift
    outcome "$name" tpm2 "$@"
}
"#;

fn run(initrd: Initrd, arguments: &[&str]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let finished = Stockade::new("run")
        .args(["--tpm", "--memory", "768M", "--append", &appended("")])
        .args(arguments)
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .limit(LIMIT)
        .finish();
    finished.assert_code(0);
    finished
}

fn initrd(script: &str) -> Initrd {
    Initrd::new(&format!("{PREFACE}{script}")).tpm2_tools()
}

/// Fails unless the guest said of each of these that it was done, or that it was refused.
#[track_caller]
fn assert_outcomes(run: &Finished, ok: &[&str], refused: &[&str]) {
    let said = findings(&run.stdout);
    for name in ok {
        let line = format!("{name} ok");
        assert!(
            said.contains(&line.as_str()),
            "{line}\n{}",
            run.transcript()
        );
    }
    for name in refused {
        let start = format!("{name} refused");
        let found = said.iter().any(|line| line.starts_with(&start));
        assert!(found, "{start}\n{}", run.transcript());
    }
}

/// The first boot makes a volume and binds it to PCR 7, the second opens it without a word, and no more once PCR 7 is another.
const VOLUME: &str = r#"
modprobe -a virtio_pci virtio_blk dm-crypt xts algif_skcipher aesni-intel
mkdir -p /run/cryptsetup; ln -s /proc/self/fd /dev/fd; sleep 1
[ -b /dev/vda ] || say "no disk"
open() { outcome "$1" clevis-luks-unlock -d /dev/vda -n volume; }
if cryptsetup isLuks /dev/vda; then
    open again
    say "found $(head -c 11 /dev/mapper/volume)"
    outcome close cryptsetup close volume
    try change pcrextend 7:sha256=0000000000000000000000000000000000000000000000000000000000000001
    open changed
    [ -e /dev/mapper/volume ] && say "open all the same"
    outcome passphrase cryptsetup open --key-file key /dev/vda volume
else
    echo -n "a passphrase nobody types" >key
    outcome format cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vda key
    outcome bind clevis-luks-bind -y -k key -d /dev/vda tpm2 '{"pcr_bank":"sha256","pcr_ids":"7"}'
    cat /tmp/err
    open first
    echo -n "open sesame" >/dev/mapper/volume
    outcome close cryptsetup close volume
    sync
    reboot -f
    sleep 60
fi
"#;

#[test]
fn volume_bound_to_a_pcr_opens_by_itself_after_a_reboot_until_the_pcr_changes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let modules = [
        "virtio_pci",
        "virtio_blk",
        "dm-crypt",
        "xts",
        "algif_skcipher",
        "aesni-intel",
    ];
    let initrd = initrd(VOLUME).modules(&modules).cryptsetup().clevis();
    let run = run(initrd, &["--disk", &disk.display().to_string()]);
    let done = ["format", "bind", "first", "close", "again", "change"];
    assert_outcomes(&run, &done, &["changed", "passphrase"]);
    assert_eq!(finding(&run.stdout, "found"), Some("open sesame"));
    assert_eq!(finding(&run.stdout, "open all the same"), None);
    // The host has the volume, and not what is in it.
    assert!(holds(&disk, b"LUKS") && !holds(&disk, b"open sesame"));
}

fn holds(file: &Path, words: &[u8]) -> bool {
    let bytes = fs::read(file).unwrap();
    bytes.windows(words.len()).any(|window| window == words)
}

/// A secret for one attestation key of one endorsement key. Sessions end with the connection to `tpmrm0`, so this is without it: what is
/// loaded has to be flushed.
const CREDENTIAL: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpm0
step() { try "$@"; tpm2 flushcontext -t >/dev/null 2>&1; }
echo -n "for that key alone" >secret
step ek createek -c ek.ctx -G rsa -u ek.pub
step ak createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pub -n ak.name
step other createak -C ek.ctx -c other.ctx -G ecc -g sha256 -s ecdsa -u other.pub -n other.name
name=$(hexdump -ve '1/1 "%02x"' ak.name)
step credential makecredential -u ek.pub -s secret -n "$name" -o credential
activate() {
    tpm2 startauthsession --policy-session -S session >/dev/null 2>&1
    tpm2 policysecret -S session -c e >/dev/null 2>&1
    step "$1" activatecredential -c "$2" -C ek.ctx -i credential -o "$1.out" -P session:session
    tpm2 flushcontext session >/dev/null 2>&1
    rm -f session
}
activate activate ak.ctx
say "secret $(cat activate.out)"
activate stranger other.ctx
"#;

/// A key made under one parent goes to another, and a key made elsewhere comes in.
const DUPLICATE: &str = r#"
session() {
    tpm2 startauthsession $1 -S session >/dev/null 2>&1
    tpm2 policycommandcode -S session -L duplicate.policy TPM2_CC_Duplicate >/dev/null 2>&1
}
end() { tpm2 flushcontext session >/dev/null 2>&1; rm -f session; }
echo message >message
step primary createprimary -C o -G ecc -c primary.ctx
step newparent create -C primary.ctx -G ecc -u parent.pub -r parent.priv -a 'restricted|sensitivedataorigin|decrypt|userwithauth'
session; end
step movable create -C primary.ctx -G ecc256 -u key.pub -r key.priv -L duplicate.policy -a 'sensitivedataorigin|userwithauth|sign'
step loadkey load -C primary.ctx -u key.pub -r key.priv -c key.ctx
step external loadexternal -C o -u parent.pub -c outside.ctx
session --policy-session
step duplicate duplicate -C outside.ctx -c key.ctx -G null -p session:session -r moved.priv -s moved.seed
end
step loadparent load -C primary.ctx -u parent.pub -r parent.priv -c parent.ctx
step import import -C parent.ctx -u key.pub -i moved.priv -r imported.priv -s moved.seed
step loadmoved load -C parent.ctx -u key.pub -r imported.priv -c moved.ctx
step sign sign -c moved.ctx -g sha256 -o signature message
step verify verifysignature -c key.ctx -g sha256 -m message -s signature
step wrongparent import -C primary.ctx -u key.pub -i moved.priv -r wrong.priv -s moved.seed
head -c 16 /dev/urandom >cipher.key
step outsidekey import -C primary.ctx -G aes -i cipher.key -u cipher.pub -r cipher.priv
step fixed create -C primary.ctx -G ecc256 -u fixed.pub -r fixed.priv
"#;

/// Guessing a key's password locks all passwords, until the lockout's own is given.
const LOCKOUT: &str = r#"
step limits dictionarylockout -s -n 3 -t 1000 -l 1000
step parent createprimary -C o -G ecc -c primary.ctx
step guarded create -C primary.ctx -p right -u guarded.pub -r guarded.priv -G hmac
step loadguarded load -C primary.ctx -u guarded.pub -r guarded.priv -c guarded.ctx
step right hmac -c guarded.ctx -p right message
for guess in 1 2 3; do step guess$guess hmac -c guarded.ctx -p wrong message; done
tpm2 getcap properties-variable >lockout 2>/dev/null
say "locked $(grep -A1 -c 'inLockout: *1' lockout)"
step locked hmac -c guarded.ctx -p right message
step clear dictionarylockout -c
step unlocked hmac -c guarded.ctx -p right message
"#;

#[test]
fn credentials_duplicates_and_lockout_work() {
    let run = run(initrd(&[CREDENTIAL, DUPLICATE, LOCKOUT].concat()), &[]);
    let done = [
        "ek",
        "ak",
        "other",
        "credential",
        "activate",
        "primary",
        "newparent",
        "movable",
        "loadkey",
        "external",
        "duplicate",
        "loadparent",
        "import",
        "loadmoved",
        "sign",
        "verify",
        "outsidekey",
        "fixed",
        "limits",
        "guarded",
        "loadguarded",
        "right",
        "clear",
        "unlocked",
    ];
    let refused = [
        "stranger",
        "wrongparent",
        "guess1",
        "guess2",
        "guess3",
        "locked",
    ];
    assert_outcomes(&run, &done, &refused);
    assert_eq!(finding(&run.stdout, "secret"), Some("for that key alone"));
    assert_eq!(finding(&run.stdout, "locked"), Some("1"));
}

/// Levels 0 to 4 of the kernel's log are what it warns of. IMA wants each bank's hash of the kernel itself, whose SHA-384 is a module.
///
/// Of random numbers the kernel takes none from a command-response buffer on a processor of AMD's (`crb_acpi_add`), and says so.
const WARNINGS: &str = r#"
dmesg -r | grep -E '^<[0-4]>' | grep -iE 'tpm|ima:' | grep -v 'ima: Can not allocate sha384' | while read -r line; do say "warning $line"; done
say "banks $(ls /sys/class/tpm/tpm0 | grep -c '^pcr-sha')"
"#;

#[test]
fn kernel_warns_of_nothing() {
    let run = run(initrd(WARNINGS), &[]);
    assert_eq!(
        finding(&run.stdout, "warning"),
        None,
        "{}",
        run.transcript()
    );
    assert_eq!(finding(&run.stdout, "banks"), Some("2"));
}
