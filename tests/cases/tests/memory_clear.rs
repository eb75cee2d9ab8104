//! Reset attack mitigation below firmware: a system that asks for its memory to be cleared has nothing left in it for whoever starts next.
//! It asks by ACPI. The UEFI variable for the same is one the distribution's firmware has not, and keeps anybody from making.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stockade_rig::firmware::fat_disk;
use stockade_rig::{Initrd, Stockade, command_line, workshop};

/// Three starts of firmware and two of a kernel on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);
/// A table of a test's own: when the kernel has loaded it, it asks (TCG PRAM 1.10, 6). No stock kernel asks in this way.
const TABLE: &str = r#"DefinitionBlock ("", "SSDT", 2, "TEST", "MEMCLEAR", 1)
{
    External (\_SB.TPM0._DSM, MethodObj)
    Device (\_SB.ASKS)
    {
        Name (_HID, "TEST0001")
        Method (_INI)
        {
            \_SB.TPM0._DSM (ToUUID ("376054ed-cc13-4675-901c-4756d7f2d45d"), One, One, Package () { One })
        }
    }
}
"#;
/// What the firmware's shell does in each of three lives: shows a word of memory, writes it, and tries to make the variable and another.
/// The first life's kernel just resets, the second one's asks before that.
const SCRIPT: &str = "@echo -off
fs0:
mm 8000000 -w 4 -n
if exist fs0:\\third then
  reset -s
endif
mm 8000000 5EC2E75A -w 4 -n
setvar MemoryOverwriteRequestControl -guid e20939be-32d4-41be-a150-897f85d49829 -nv -bs -rt =01
setvar AnyOther -guid e20939be-32d4-41be-a150-897f85d49829 -nv -bs -rt =01
if exist fs0:\\second then
  echo x > fs0:\\third
  vmlinuz.efi initrd=\\asks.cpio WORDS
endif
echo x > fs0:\\second
vmlinuz.efi initrd=\\silent.cpio WORDS
";
/// The kernel leaves the word alone.
const WORDS: &str = "nokaslr memmap=4K$0x8000000";

/// Returns the table as the kernel takes it.
fn table(folder: &Path) -> Vec<u8> {
    fs::write(folder.join("asks.asl"), TABLE).expect("the folder is writable");
    let output = Command::new("iasl")
        .args(["-p", "asks", "asks.asl"])
        .current_dir(folder)
        .output()
        .expect("iasl is missing: apt-get install acpica-tools");
    assert!(output.status.success(), "{output:?}");
    fs::read(folder.join("asks.aml")).expect("it was just written")
}

fn archive(folder: &Path, initrd: &Initrd) -> Vec<u8> {
    fs::read(initrd.write(folder)).expect("it was just written")
}

#[test]
fn memory_is_cleared_for_who_asks_by_acpi_and_nobody_can_ask_by_variable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let silent = Initrd::new("say resets; reboot -f; sleep 60");
    let asks = silent.clone();
    let asks = asks.file("kernel/firmware/acpi/asks.aml", &table(folder));
    let kernel = fs::read(&workshop().kernel).expect("the workshop made it");
    let script = SCRIPT.replace("WORDS", &command_line(WORDS));
    let script = script.replace('\n', "\r\n");
    let files: [(&str, &[u8]); 4] = [
        ("startup.nsh", script.as_bytes()),
        ("vmlinuz.efi", &kernel),
        ("silent.cpio", &archive(folder, &silent)),
        ("asks.cpio", &archive(folder, &asks)),
    ];
    let disk = fat_disk(folder, &files);
    let run = Stockade::new("run")
        .args(["--memory", "512M", "--tpm", "--disk"])
        .arg(disk)
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    let said = run.transcript();
    let lines = run.stdout.lines().map(str::trim);
    let shown = lines.filter_map(|line| line.strip_prefix("0x").filter(|word| word.len() == 8));
    let shown: Vec<&str> = shown.collect();
    assert!(
        matches!(shown[..], [_, "5EC2E75A", "00000000"]),
        "{shown:?}: {said}"
    );
    let times = |words: &str| run.stderr.matches(words).count();
    assert_eq!(times("the guest resets"), 2, "{said}");
    assert_eq!(
        times("clearing the guest's memory, as it asked"),
        1,
        "{said}"
    );
    let refused = run.stdout.lines();
    let refused = refused.filter(|line| line.contains("Unable to set"));
    let refused: Vec<&str> = refused.collect();
    let is_ours = |line: &&str| line.contains("MemoryOverwriteRequestControl");
    assert!(
        refused.len() == 2 && refused.iter().all(is_ours),
        "{refused:?}: {said}"
    );
}
