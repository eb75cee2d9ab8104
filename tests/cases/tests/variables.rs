//! Firmware's variables: kept over resets and power cycles in the sealed store, and Secure Boot, which they turn on.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade::image::Image;
use stockade_boot::manifest::PayloadKind;
use stockade_cases::{figures, number};
use stockade_rig::firmware::{fat_disk, firmware};
use stockade_rig::{Running, Stockade, package_file, tamper};

const CODE: &str = "OVMF_CODE_4M.fd";
const BLANK: &str = "OVMF_VARS_4M.fd";
/// With the keys that sign the distribution's boot loaders.
const KEYS: &str = "OVMF_VARS_4M.ms.fd";
/// Where firmware looks on a disk nobody has registered.
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const SHELL: &str = "Shell> ";
/// A name space of our own.
const GUID: &str = "11112222-3333-4444-5555-666677778888";
/// Values as the shell prints them; it takes them without the blanks.
const TEAL: &str = "74 65 61 6C";
const BLUE: &str = "62 6C 75 65";
/// Two starts of firmware on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

fn start(variables: &str) -> Stockade {
    Stockade::new("run")
        .arg("--firmware")
        .arg(firmware(CODE))
        .arg("--vars")
        .arg(firmware(variables))
        .args(["--memory", "256M"])
        .limit(LIMIT)
}

fn kept_in(state: &Path) -> Stockade {
    start(BLANK).arg("--state").arg(state)
}

/// Waits for the shell's prompt, without the delay before it.
fn enter_shell(guest: &mut Running) {
    guest.expect("startup.nsh");
    guest.send(b"\x1b");
    guest.expect(SHELL);
}

fn ask(guest: &mut Running, line: &str) -> String {
    guest.send(format!("{line}\r").as_bytes());
    guest.expect(SHELL)
}

/// A variable survives a reset, the next power-on and a change from there; that one survives the loss of power a moment later.
#[test]
fn variables_survive_resets_power_cycles_and_power_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut guest = kept_in(&state).start();
    enter_shell(&mut guest);
    ask(
        &mut guest,
        &format!(
            "setvar Color -guid {GUID} -nv -bs ={}",
            TEAL.replace(' ', "")
        ),
    );
    guest.send(b"reset\r");
    enter_shell(&mut guest);
    let text = ask(&mut guest, &format!("setvar Color -guid {GUID}"));
    assert!(text.contains(TEAL), "{text}");
    guest.send(b"reset -s\r");
    let run = guest.finish();
    run.assert_code(0);
    run.assert_says(&["firmware variables: new, from the image"]);

    let mut guest = kept_in(&state).start();
    enter_shell(&mut guest);
    let text = ask(&mut guest, &format!("setvar Color -guid {GUID}"));
    assert!(text.contains(TEAL), "{text}");
    ask(
        &mut guest,
        &format!(
            "setvar Color -guid {GUID} -nv -bs ={}",
            BLUE.replace(' ', "")
        ),
    );
    // A second is long for a host that writes at once.
    std::thread::sleep(Duration::from_secs(1));
    guest.kill_machine();
    let run = guest.finish();
    run.assert_says(&["firmware variables: from the sealed store"]);
    let store = fs::read(state.join("stockade.store")).unwrap();
    let is_shown = store
        .windows(8)
        .any(|window| window == b"t\0e\0a\0l\0" || window == b"C\0o\0l\0o\0");
    assert!(!is_shown);

    let mut guest = kept_in(&state).start();
    enter_shell(&mut guest);
    let text = ask(&mut guest, &format!("setvar Color -guid {GUID}"));
    assert!(text.contains(BLUE), "{text}");
    guest.send(b"reset -s\r");
    guest.finish().assert_code(0);
}

/// What QEMU notes of each write of the store's device, and the bytes of its sectors.
const NOTE: &str = "virtio_blk_handle_write";
const SECTOR_BYTES: u64 = 512;
/// Exits for memory-mapped registers: a start that fills the flash has 33,000, one that finds its variables 8,500.
const LEAST_ACCESSES: u64 = 25_000;
/// Four times what was seen on a machine whose files are in memory, where a write takes the host least.
const MOST_WRITES: usize = 1000;
const MOST_BYTES: u64 = 4 << 20;

/// The bytes of each write to the host's disks, by QEMU's trace.
fn host_writes(trace: &str) -> Vec<u64> {
    let sectors = trace.lines().filter(|line| line.starts_with(NOTE));
    let sectors = sectors.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>());
    sectors.map(|it| it.unwrap() * SECTOR_BYTES).collect()
}

/// On its first start firmware writes its store of variables byte by byte. A write of the host's for each, with its flush, would be minutes on a
/// disk that spins, and wear on one that does not.
#[test]
fn the_first_start_of_firmware_costs_the_host_few_writes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut guest = kept_in(&at("state"))
        .arg("--stats")
        .arg(at("stats.json"))
        .args(["--qemu-arg=-trace", &format!("--qemu-arg={NOTE}")])
        .arg("--qemu-arg=-D")
        .arg(format!("--qemu-arg={}", at("trace").display()))
        .start();
    enter_shell(&mut guest);
    guest.send(b"reset -s\r");
    let run = guest.finish();
    run.assert_code(0);
    let accesses = number(&figures(&at("stats.json")), "/paravisor/costs/mmio/count");
    let writes = host_writes(&fs::read_to_string(at("trace")).unwrap());
    let bytes: u64 = writes.iter().sum();
    let writes = writes.len();
    eprintln!("{accesses} exits for registers, {writes} writes of the host, {bytes} bytes");
    assert!(accesses >= LEAST_ACCESSES, "{}", run.transcript());
    let (all_writes, all_bytes) = (1..=MOST_WRITES, 1..=MOST_BYTES);
    assert!(all_writes.contains(&writes), "{writes} writes");
    assert!(all_bytes.contains(&bytes), "{bytes} bytes");
}

/// A store that cannot be read stops the machine: to go on with the image's variables could turn Secure Boot off.
#[test]
fn a_damaged_store_stops_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let run = kept_in(&state).args(["--timeout", "12"]).finish();
    run.assert_says(&["firmware variables: new, from the image"]);
    let path = state.join("stockade.store");
    let mut store = fs::read(&path).unwrap();
    // Behind the header and the first entry, which is empty.
    store[2 * 4096 + 200] ^= 1;
    fs::write(&path, &store).unwrap();
    let run = kept_in(&state).finish();
    run.assert_code(12);
    run.assert_says(&[
        "sealed store is missing",
        "V06",
        "cannot be read from the sealed store",
    ]);
    assert!(!run.stderr.contains("entering the guest"));
}

/// The image's variables decide whether Secure Boot is on, so they are measured.
#[test]
fn swapped_variables_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.igvm");
    Stockade::new("build")
        .arg("--firmware")
        .arg(firmware(CODE))
        .arg("--vars")
        .arg(firmware(KEYS))
        .arg("--output")
        .arg(&image)
        .finish()
        .assert_code(0);
    let built = Image::open(&image).unwrap();
    let manifest = built.manifest().unwrap();
    let variables = manifest.payload(PayloadKind::VARIABLES).unwrap();
    tamper::flip_page(&image, variables.gpa.get(), 0x200);
    let run = Stockade::image(&image).finish();
    run.assert_code(12);
    run.assert_says(&["firmware's variables does not have the digest", "code 26"]);
}

fn disk_with(folder: &Path, package: &str, path: &str) -> PathBuf {
    let program = fs::read(package_file(package, path)).unwrap();
    fat_disk(folder, &[(LOADER, &program)])
}

/// With the keys enrolled an unsigned program does not start, the firmware's own shell included; a signed one does.
#[test]
fn secure_boot_refuses_what_is_not_signed() {
    let folder = tempfile::tempdir().unwrap();
    let unsigned = disk_with(folder.path(), "memtest86+", "boot/memtest86+x64.efi");
    let mut guest = start(KEYS).arg("--disk").arg(&unsigned).start();
    let text = guest.expect("No bootable option or device was found");
    assert!(text.contains("Access Denied"), "{text}");
    assert!(text.contains("Security Violation"), "{text}");
    drop(guest);

    let signed = disk_with(
        folder.path(),
        "shim-signed",
        "usr/lib/shim/shimx64.efi.signed",
    );
    let mut guest = start(KEYS).arg("--disk").arg(&signed).start();
    guest.expect("BdsDxe: starting Boot0001");
    // It looks for its second stage, in vain.
    guest.expect("grubx64.efi");
}
