//! Stock UEFI firmware starts the guest: Debian's OVMF to its shell, which looks at the machine, keeps a variable and resets the PC in every
//! way a PC has; and files that are no firmware.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_rig::firmware::{FirmwarePc, SecureBoot, fat_disk, firmware};
use stockade_rig::guest::findings;
use stockade_rig::{Finished, Initrd, Stockade};

/// A boot of firmware takes ten seconds of a processor; a busy machine has it wait.
const LIMIT: Duration = Duration::from_secs(600);
/// What the shell runs when nobody types: each life leaves a file, so that the next one does what comes then. Behind the numbers is how
/// each ends.
const SCRIPT: &str = r"
@echo -off
if not exist fs0:\1.txt then
  setvar Kept -guid 11111111-2222-3333-4444-555555555555 -nv -bs =0x4747
  echo 1 > fs0:\1.txt
  echo LIFE-1
  reset
endif
if not exist fs0:\2.txt then
  echo 2 > fs0:\2.txt
  echo LIFE-2
  mm 64 FE -w 1 -io -n
endif
if not exist fs0:\3.txt then
  echo 3 > fs0:\3.txt
  echo LIFE-3
  mm 0CF9 06 -w 1 -io -n
endif
if not exist fs0:\4.txt then
  echo 4 > fs0:\4.txt
  echo LIFE-4
  mm 92 03 -w 1 -io -n
endif
echo LAST-LIFE
mm 402 41 -w 1 -io -n
mm 402 0A -w 1 -io -n
pci
memmap
dmpstore Kept -guid 11111111-2222-3333-4444-555555555555
echo ALL-DONE
reset -s
";

/// Resets as often as the shell is told to count, and switches off.
fn counting_script(resets: u32) -> String {
    format!(
        "@echo -off\r\n\
         for %i run (1 {resets})\r\n\
         if not exist fs0:\\%i.txt then\r\n\
         echo %i > fs0:\\%i.txt\r\n\
         reset\r\n\
         endif\r\n\
         endfor\r\n\
         reset -s\r\n"
    )
}

fn run(script: &str, cpus: u32, memory_mib: u64) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let script = script.replace('\n', "\r\n").replace("\r\r", "\r");
    let disk = fat_disk(folder.path(), &[("startup.nsh", script.as_bytes())]);
    let pc = FirmwarePc::new(folder.path(), SecureBoot::Off)
        .disk(&disk)
        .cpus(cpus)
        .memory_mib(memory_mib)
        .limit(LIMIT);
    let finished = pc.confidentially().finish();
    finished.assert_code(0);
    finished
}

/// What the paravisor's heap holds as each life of the guest begins.
fn heap_at_each_start(finished: &Finished) -> Vec<u64> {
    let lines = finished.stderr.lines();
    let bytes = lines.filter_map(|line| line.split_once("heap: ")?.1.split_once(" bytes"));
    bytes.map(|(number, _)| number.parse().unwrap()).collect()
}

/// Every way a PC resets: EFI, the keyboard controller's line, CF9, port 92. Variables and disks stay, all else starts over.
#[test]
fn shell_resets_in_every_way_and_keeps_its_variable() {
    let finished = run(SCRIPT, 1, 512);
    let console = &finished.stdout;
    for life in ["LIFE-1", "LIFE-2", "LIFE-3", "LIFE-4", "LAST-LIFE"] {
        assert_eq!(
            console.matches(life).count(),
            1,
            "{life}: {}",
            finished.transcript()
        );
    }
    let (_, last) = console.split_once("LAST-LIFE").unwrap();
    for words in [
        // The host bridge, the disk, and memory-mapped configuration space where the firmware put it.
        "29C0",
        "1AF4",
        "00000000B0000000-00000000BFFFFFFF",
        "47 47",
        "ALL-DONE",
    ] {
        assert!(last.contains(words), "{words}: {}", finished.transcript());
    }
    // What firmware built for it says at the debug console's port is in our log.
    finished.assert_says(&["firmware: A\n"]);
    let heap = heap_at_each_start(&finished);
    assert_eq!(heap.len(), 5, "{}", finished.transcript());
    assert!(heap[1..].iter().all(|bytes| *bytes == heap[1]), "{heap:?}");
}

/// Application processors are woken by INIT and start-up IPIs, into real mode and on; memory goes on above 4 GiB.
#[test]
fn four_processors_and_memory_above_4_gib_are_found() {
    let script = "@echo -off\nsmbiosview -t 4\nmemmap\necho ALL-DONE\nreset -s\n";
    let finished = run(script, 4, 3328);
    let console = &finished.stdout;
    for words in ["0000000100000000-000000011FFFFFFF", "ALL-DONE"] {
        assert!(
            console.contains(words),
            "{words}: {}",
            finished.transcript()
        );
    }
}

/// The least the command gives firmware.
const LEAST_MEMORY_MIB: u64 = 64;

/// Twenty resets in a row with `STOCKADE_RESETS=20`, six otherwise: nothing of one life is left in the next. And so little memory is enough.
#[test]
fn resets_leak_nothing() {
    let resets = std::env::var("STOCKADE_RESETS").map_or(6, |text| text.parse().unwrap());
    let finished = run(&counting_script(resets), 2, LEAST_MEMORY_MIB);
    let heap = heap_at_each_start(&finished);
    let lives = usize::try_from(resets).unwrap() + 1;
    assert_eq!(heap.len(), lives, "{}", finished.transcript());
    assert!(heap[1..].iter().all(|bytes| *bytes == heap[1]), "{heap:?}");
}

/// A kernel that has used a disk, a card and a TPM, and resets. Firmware would look for something to start on the network each time.
const USE_AND_RESET: &str = "modprobe -a virtio_pci virtio_blk virtio_net
    sleep 1
    life=$(head -c 1 /dev/vda | tr -d '\\0')
    life=${life:-0}
    ifconfig eth0 10.0.2.15 up
    ping -c 1 -W 5 10.0.2.2 >/dev/null && [ -c /dev/tpm0 ] && say \"life $life\"
    if [ $life -lt 3 ]; then
        printf $((life + 1)) | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null
        reboot -f
        sleep 60
    fi";

#[test]
fn resets_of_a_kernel_leak_nothing_of_its_disk_card_and_tpm() {
    let folder = tempfile::tempdir().unwrap();
    let disk = file(folder.path(), "disk.img", &[0; 1 << 20]);
    let finished = Stockade::guest("")
        .arg("--initrd")
        .arg(
            Initrd::new(USE_AND_RESET)
                .modules(&["virtio_pci", "virtio_blk", "virtio_net"])
                .write(folder.path()),
        )
        .args(["--tpm", "--net", "user", "--disk"])
        .arg(disk)
        .limit(LIMIT)
        .finish();
    finished.assert_code(0);
    let lives = findings(&finished.stdout);
    let expected = ["life 0", "life 1", "life 2", "life 3"];
    assert_eq!(lives, expected, "{}", finished.transcript());
    let heap = heap_at_each_start(&finished);
    assert_eq!(heap.len(), 4, "{}", finished.transcript());
    assert!(heap[1..].iter().all(|bytes| *bytes == heap[1]), "{heap:?}");
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn run_with(arguments: &[&Path]) -> Finished {
    Stockade::new("run").args(arguments).finish()
}

#[test]
fn code_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let flag = Path::new("--firmware");
    let short = file(folder.path(), "short.fd", &[0x90; 4096]);
    run_with(&[flag, &short]).assert_refused(&["short.fd", "4096 bytes", "OVMF_CODE_4M.fd"]);
    let odd = file(folder.path(), "odd.fd", &[0x90; 0x2_0001]);
    run_with(&[flag, &odd]).assert_refused(&["odd.fd", "131073 bytes"]);
    let large = file(folder.path(), "large.fd", &[0x90; 9 << 20]);
    run_with(&[flag, &large]).assert_refused(&["large.fd", "8 MiB"]);
    let missing = Path::new("/nonexistent/code.fd");
    run_with(&[flag, missing]).assert_refused(&["/nonexistent/code.fd"]);
}

#[test]
fn code_of_another_kind_is_named_with_what_to_take() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &[u8], words: &[&str]| {
        let path = file(folder.path(), name, content);
        run_with(&[Path::new("--firmware"), &path]).assert_refused(words);
    };
    let mut bios = vec![0x90; 0x4_0000];
    bios[0x3_FFF0] = 0xEA;
    refused(
        "bios.bin",
        &bios,
        &["bios.bin", "no UEFI", "OVMF_CODE_4M.fd"],
    );
    bios[..4].copy_from_slice(b"QFI\xFB");
    refused(
        "code.qcow2",
        &bios,
        &["code.qcow2", "qemu-img convert -O raw"],
    );
    let parts = ["OVMF_VARS_4M.fd", "OVMF_CODE_4M.fd"];
    let both = parts.map(|name| fs::read(firmware(name)).unwrap()).concat();
    let words = ["OVMF.fd", "code and variables", "OVMF_VARS_4M.fd"];
    refused("OVMF.fd", &both, &words);
}

/// Variables given as the code end in erased flash.
#[test]
fn code_without_a_reset_vector_is_named() {
    let variables = firmware("OVMF_VARS_4M.fd");
    let finished = run_with(&[Path::new("--firmware"), &variables]);
    finished.assert_refused(&["OVMF_VARS_4M.fd", "reset vector", "OVMF_CODE_4M.fd"]);
}

#[test]
fn variables_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let code = firmware("OVMF_CODE_4M.fd");
    let vars = |path: &Path| run_with(&[Path::new("--firmware"), &code, Path::new("--vars"), path]);
    let blank = file(folder.path(), "blank.fd", &[0xFF; 0x8_4000]);
    vars(&blank).assert_refused(&["blank.fd", "firmware volume"]);
    let odd = file(folder.path(), "odd.fd", &[0; 1000]);
    vars(&odd).assert_refused(&["odd.fd", "1000 bytes"]);
    vars(Path::new("/nonexistent/vars.fd")).assert_refused(&["/nonexistent/vars.fd"]);
    let whole = fs::read(firmware("OVMF_VARS_4M.fd")).unwrap();
    let cut = file(folder.path(), "cut.fd", &whole[..0x4_0000]);
    vars(&cut).assert_refused(&["cut.fd", "cut short"]);
    // Of the build of 2 MiB; the firmware would begin with no variables, and without Secure Boot.
    let other = firmware("OVMF_VARS.fd");
    vars(&other).assert_refused(&["OVMF_VARS.fd", "131072 bytes", "not for code of 3653632"]);
}

/// Or it would have no flash at all.
#[test]
fn code_alone_has_the_distributions_variables_if_it_is_of_that_build() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, code: &str| {
        let path = folder.path().join(name);
        let command = Stockade::new("build").arg("-o").arg(&path);
        (path, command.arg("--firmware").arg(firmware(code)))
    };
    let (alone, command) = build("alone.igvm", "OVMF_CODE_4M.fd");
    command.finish().assert_code(0);
    let (with, command) = build("with.igvm", "OVMF_CODE_4M.fd");
    let command = command.arg("--vars").arg(firmware("OVMF_VARS_4M.fd"));
    command.finish().assert_code(0);
    assert_eq!(fs::read(alone).unwrap(), fs::read(with).unwrap());
    let (_, command) = build("other.igvm", "OVMF_CODE.fd");
    let built = command.finish();
    built.assert_code(0);
    assert!(
        built.stderr.contains("has no variables"),
        "{}",
        built.stderr
    );
    let (_, command) = build("kept.igvm", "OVMF_CODE.fd");
    let kept = command.arg("--state").arg(folder.path().join("state"));
    kept.finish().assert_refused(&["--state", "--vars"]);
}

/// It would end without a word.
#[test]
fn code_that_needs_system_management_mode_is_named_with_what_does_without() {
    for name in ["OVMF_CODE_4M.secboot.fd", "OVMF_CODE_4M.ms.fd"] {
        let finished = run_with(&[Path::new("--firmware"), &firmware(name)]);
        let words = [name, "SMM", "take OVMF_CODE_4M.fd", "decisions/0018"];
        finished.assert_refused(&words);
    }
}

#[test]
fn firmware_and_a_kernel_are_one_too_many() {
    for argument in ["--kernel", "--initrd", "--append", "--module"] {
        let call = Stockade::new("run").args(["--firmware", "code.fd", argument, "x"]);
        call.finish().assert_code(2).assert_refused(&["--firmware"]);
    }
}
