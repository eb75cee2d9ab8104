//! The TPM, as a guest uses it: the kernel's own driver, `tpm2-tools`, the log of what was measured, and a reboot.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_cases::{figures, number};
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, appended, host_view};

const LIMIT: Duration = Duration::from_secs(300);

/// What every script begins with: a tool by its name, and what became of it.
const PREFACE: &str = r#"
export TPM2TOOLS_TCTI=device:/dev/tpmrm0 TSS2_LOG=all+NONE
cd /tmp
[ -c /dev/tpmrm0 ] || say "no TPM"
mount -t securityfs none /sys/kernel/security
try() {
    name=$1; shift
    if tpm2 "$@" >/tmp/out 2>/tmp/err; then say "$name ok"; else say "$name failed: $(tail -1 /tmp/err)"; fi
}
refuse() {
    name=$1; shift
    if tpm2 "$@" >/tmp/out 2>/tmp/err; then say "$name wrongly done"; else say "$name refused"; fi
}
"#;

fn initrd(folder: &Path, script: &str) -> PathBuf {
    Initrd::new(&format!("{PREFACE}{script}"))
        .tpm2_tools()
        .write(folder)
}

fn run(folder: &Path, script: &str, arguments: &[&str]) -> Finished {
    let finished = Stockade::new("run")
        .args(["--tpm", "--memory", "768M", "--append", &appended("")])
        .args(arguments)
        .arg("--initrd")
        .arg(initrd(folder, script))
        .limit(LIMIT)
        .finish();
    finished.assert_code(0);
    finished
}

/// Every line `NAME ok` or `NAME refused` that the script was to say.
fn assert_said(run: &Finished, ok: &[&str], refused: &[&str]) {
    let said = findings(&run.stdout);
    let expected = ok
        .iter()
        .map(|name| format!("{name} ok"))
        .chain(refused.iter().map(|name| format!("{name} refused")));
    for line in expected {
        assert!(
            said.contains(&line.as_str()),
            "{line}\n{}",
            run.transcript()
        );
    }
}

/// The driver finds the device and says nothing against it; small commands, and the PCRs of the start by log and by TPM.
const FIRST_USE: &str = r#"
say "driver $(cat /sys/class/tpm/tpm0/device/description 2>/dev/null || echo none)"
say "version $(cat /sys/class/tpm/tpm0/tpm_version_major)"
say "complaints $(dmesg | grep -iE 'tpm' | grep -ciE 'error|fail|bug|timeout|bad')"
dmesg | grep -i tpm
try getcap getcap properties-fixed
try getrandom getrandom --hex 32
try pcrread pcrread sha256:0,4,8,9
cat /tmp/out
try eventlog eventlog /sys/kernel/security/tpm0/binary_bios_measurements
by_index() { tr 'A-F' 'a-f' | awk '/sha/ { bank = $1 } /0x/ { gsub(":", " "); print bank, $1, $2 }'; }
sed -n '/^pcrs:/,$p' /tmp/out | by_index >/tmp/replayed
equal=0
for bank in sha256 sha384; do
    tpm2 pcrread $bank:0,1,2,3,4,5,6,7,8,9 | by_index >/tmp/values
    equal=$((equal + $(grep -cxFf /tmp/replayed /tmp/values)))
done
say "replayed $equal"
try extend pcrextend 16:sha256=0000000000000000000000000000000000000000000000000000000000000001
tpm2 pcrread sha256:16 | tail -1
say "ppi $(cat /sys/class/tpm/tpm0/ppi/version)"
"#;

/// What people and programs do with a TPM.
const DAILY_USE: &str = r#"
# Words the host does not see in this script.
turned() { echo -n "$1" | tr a-z n-za-m; }
turned SECRET >secret
turned SEALED >sealed
turned NONCE >nonce
nonce=$(od -A n -v -t x1 nonce | tr -d ' \n')
echo message >message
try primary createprimary -C o -G ecc -c primary.ctx
try policy createpolicy --policy-pcr -l sha256:7 -L policy
try create create -C primary.ctx -L policy -i sealed -u sealed.pub -r sealed.priv
try load load -C primary.ctx -u sealed.pub -r sealed.priv -c sealed.ctx
try unseal unseal -c sealed.ctx -p pcr:sha256:7
cmp -s /tmp/out sealed && say "same ok"
try rsa createprimary -C n -G rsa2048 -c rsa.ctx
try key create -C primary.ctx -G ecc256 -u key.pub -r key.priv -c key.ctx
try sign sign -c key.ctx -g sha256 -o signature message
try verify verifysignature -c key.ctx -g sha256 -m message -s signature
try ek createek -c ek.ctx -G ecc -u ek.pub
try ak createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pem -f pem -n ak.name
try quote quote -c ak.ctx -l sha256:0,4,8,9 -q $nonce -m quote -s quote.sig -o pcrs
try checkquote checkquote -u ak.pem -m quote -s quote.sig -f pcrs -q $nonce
refuse othernonce checkquote -u ak.pem -m quote -s quote.sig -f pcrs -q 44556677
try nvdefine nvdefine 0x1500001 -C o -s 32 -a 'ownerread|ownerwrite|write_stclear'
try nvwrite nvwrite 0x1500001 -C o -i secret
try nvlock nvwritelock 0x1500001 -C o
refuse nvlocked nvwrite 0x1500001 -C o -i message
try nvread nvread 0x1500001 -C o -s 22
cmp -s /tmp/out secret && say "read ok"
try counter nvdefine 0x1500002 -C o -s 8 -a 'ownerread|ownerwrite|nt=counter'
try increment nvincrement 0x1500002 -C o
try evict evictcontrol -C o -c primary.ctx 0x81000001
try change pcrextend 7:sha256=0000000000000000000000000000000000000000000000000000000000000001
refuse changed unseal -c sealed.ctx -p pcr:sha256:7
"#;

/// What the guest keeps, seals and asks with, as the host sees it in the guest's script and as it is.
const WORDS: [(&str, &str, &str); 3] = [
    ("SECRET", "xrcg-va-gur-gcz-vgfrys", "kept-in-the-tpm-itself"),
    ("SEALED", "frnyrq-gb-n-cpe-bs-vgf", "sealed-to-a-pcr-of-its"),
    ("NONCE", "nfxrq-jvgu-guvf-abapr", "asked-with-this-nonce"),
];

#[test]
fn daily_use_works() {
    let folder = tempfile::tempdir().unwrap();
    let (view, stats) = (folder.path().join("view"), folder.path().join("stats"));
    let script = WORDS.iter().fold(DAILY_USE.to_owned(), |script, it| {
        script.replace(&format!("turned {}", it.0), &format!("turned {}", it.1))
    });
    let arguments = [
        "--host-view",
        view.to_str().unwrap(),
        "--stats",
        stats.to_str().unwrap(),
    ];
    let run = run(folder.path(), &script, &arguments);
    let done = [
        "primary",
        "policy",
        "create",
        "load",
        "unseal",
        "same",
        "rsa",
        "key",
        "sign",
        "verify",
        "ek",
        "ak",
        "quote",
        "checkquote",
        "nvdefine",
        "nvwrite",
        "nvlock",
        "nvread",
        "read",
        "counter",
        "increment",
        "evict",
        "change",
    ];
    assert_said(&run, &done, &["othernonce", "nvlocked", "changed"]);
    // The host has the script and the command line, and nothing of what was said to the TPM.
    for (_, shown, meant) in WORDS {
        let found = [shown, meant].map(|word| host_view::count(&view, word.as_bytes()));
        assert!(found[0] > 0 && found[1] == 0, "{meant}: {found:?}");
    }
    assert!(host_view::count(&view, b"panic=-1") > 0);
    run.assert_says(&["the TPM is a new one"]);
    let bytes = number(&figures(&stats), "/paravisor/module_bytes");
    assert!((1..=6 << 20).contains(&bytes), "{bytes} bytes of modules");
}

/// A reset of the guest is one of the TPM: PCRs begin anew, what must last lasts.
const REBOOT: &str = r#"
tpm2 pcrread sha256:4,8,16 >/tmp/out
say "pcrs $(grep -c 0x /tmp/out) $(md5sum </tmp/out)"
if tpm2 readpublic -c 0x81000001 >/tmp/key 2>/dev/null; then
    say "second start"
else
    try primary createprimary -C o -G ecc -c primary.ctx
    try evict evictcontrol -C o -c primary.ctx 0x81000001
    try extend pcrextend 16:sha256=0000000000000000000000000000000000000000000000000000000000000001
    try kernel pcrextend 8:sha256=0000000000000000000000000000000000000000000000000000000000000001
    reboot -f
    sleep 60
fi
"#;

#[test]
fn reboot_resets_the_pcrs_and_keeps_what_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), REBOOT, &[]);
    assert_said(&run, &["primary", "evict", "extend", "kernel"], &[]);
    let said = findings(&run.stdout);
    assert!(said.contains(&"second start"), "{}", run.transcript());
    let pcrs: Vec<_> = said
        .iter()
        .filter(|line| line.starts_with("pcrs 3 "))
        .collect();
    assert_eq!(pcrs.len(), 2, "{}", run.transcript());
    assert_eq!(pcrs[0], pcrs[1]);
}

#[test]
fn kernel_finds_the_tpm_and_the_log_replays_to_its_pcrs() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), FIRST_USE, &[]);
    assert_said(
        &run,
        &["getcap", "getrandom", "pcrread", "eventlog", "extend"],
        &[],
    );
    for (name, value) in [("version", "2"), ("complaints", "0"), ("replayed", "20")] {
        assert_eq!(
            finding(&run.stdout, name),
            Some(value),
            "{}",
            run.transcript()
        );
    }
}
