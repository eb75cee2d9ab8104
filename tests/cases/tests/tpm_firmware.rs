//! A TPM below firmware: the paravisor measures the firmware, the firmware what it starts, and both logs together replay to the PCRs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stockade_rig::Stockade;
use stockade_rig::firmware::{FirmwarePc, SecureBoot};
use stockade_rig::stock_disk::{KernelFlavour, Session, StockDisk};

const LIMIT: Duration = Duration::from_secs(900);
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const EARLY_LOG: &str = "/sys/firmware/qemu_fw_cfg/by_name/etc/tpm/early-log/raw";
const BANKS: [&str; 2] = ["sha256", "sha384"];
/// Firmware has the first eight, GRUB the two behind them.
const PCRS: u32 = 10;

/// PCRs by bank and number, in small hexadecimal digits.
type Pcrs = BTreeMap<(&'static str, u32), String>;

fn machine(folder: &Path) -> Stockade {
    let disk = StockDisk::of(KernelFlavour::Cloud).copy_to(folder);
    FirmwarePc::new(folder, SecureBoot::On)
        .disk(&disk)
        .limit(LIMIT)
        .confidentially()
        .arg("--tpm")
}

/// Returns a file of the guest's.
fn file(session: &mut Session<'_>, path: &str) -> Vec<u8> {
    let text = session.run(&format!("od -An -v -tx1 -w120 {path}"));
    text.split_whitespace()
        .map(|digits| u8::from_str_radix(digits, 16).expect("od writes digits"))
        .collect()
}

/// Returns what the TPM has, as the kernel reads it.
fn pcrs(session: &mut Session<'_>) -> Pcrs {
    let mut pcrs = Pcrs::new();
    for bank in BANKS {
        let all = format!("cat /sys/class/tpm/tpm0/pcr-{bank}/{{0..9}}");
        let text = session.run(&all).to_lowercase();
        pcrs.extend(
            (0..PCRS)
                .map(|pcr| (bank, pcr))
                .zip(text.lines().map(str::to_owned)),
        );
    }
    assert_eq!(pcrs.len(), 2 * PCRS as usize);
    pcrs
}

/// Returns what `tpm2_eventlog` makes of a log.
fn replayed(folder: &Path, log: &[u8]) -> Pcrs {
    let path = folder.join("log");
    fs::write(&path, log).expect("the folder is writable");
    let output = Command::new("tpm2_eventlog").arg(&path).output();
    let output = output.expect("tpm2-tools are there: apt-get install tpm2-tools");
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let (events, values) = text
        .rsplit_once("\npcrs:\n")
        .expect("it ends with the PCRs");
    eprintln!("{} events", events.matches("eventnum").count());
    let mut bank = None;
    let mut pcrs = Pcrs::new();
    for line in values.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match (name.trim().parse::<u32>(), bank) {
            (Ok(pcr), Some(bank)) if pcr < PCRS => {
                let value = value.trim().trim_start_matches("0x");
                pcrs.insert((bank, pcr), value.to_owned());
            }
            (Ok(_), _) => {}
            (Err(_), _) => bank = BANKS.into_iter().find(|bank| *bank == name.trim()),
        }
    }
    pcrs
}

/// One log after the other: the second without its first event, which says what a log is.
fn joined(early: &[u8], firmware: &[u8]) -> Vec<u8> {
    let size = firmware[28..32].try_into().map(u32::from_le_bytes);
    let identity = 32 + size.expect("four bytes") as usize;
    [early, &firmware[identity..]].concat()
}

/// Holds both logs against the TPM.
fn check_logs(session: &mut Session<'_>, folder: &Path) -> Pcrs {
    let _ = session.run("modprobe qemu_fw_cfg");
    let (early, firmware) = (file(session, EARLY_LOG), file(session, FIRMWARE_LOG));
    let found = pcrs(session);
    assert_eq!(replayed(folder, &joined(&early, &firmware)), found);
    // Without what came before the firmware its first PCR is not explained, and every other is.
    let alone = replayed(folder, &firmware);
    let differ: Vec<_> = found
        .iter()
        .filter(|(key, value)| alone.get(key) != Some(value))
        .collect();
    assert!(differ.iter().map(|(key, _)| key.1).eq([0, 0]), "{differ:?}");
    found
}

/// Gives the TPM a command and prints its response, all in the shell.
const ASK: &str = r#"ask() { exec 3<>/dev/tpm0; printf "$1" >&3; dd bs=4096 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \n'; exec 3>&-; }"#;
/// `TPM2_HierarchyChangeAuth` of the owner's, from no password to `x`.
const SET_OWNER: &str =
    r"ask '\x80\x02\0\0\0\x1e\0\0\x01\x29\x40\0\0\x01\0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\x01x'";
/// `TPM2_GetCapability` of `TPM_PT_PERMANENT`, whose first bit says that the owner has a password.
const PERMANENT: &str = r"ask '\x80\x01\0\0\0\x16\0\0\x01\x7a\0\0\0\x06\0\0\x02\0\0\0\0\x01'";
const PPI: &str = "/sys/class/tpm/tpm0/ppi";
/// What refuses a request at the firmware's console. What confirms one that erases, F12, a terminal of type PC ANSI does not have.
const ESCAPE: &[u8] = b"\x1b";

fn has_owner(session: &mut Session<'_>) -> bool {
    let _ = session.run(ASK);
    let said = session.run(PERMANENT);
    assert!(said.starts_with("8001") && said.len() == 54, "{said}");
    u8::from_str_radix(&said[52..], 16).is_ok_and(|byte| byte & 1 != 0)
}

/// The TPM has an owner, and the kernel asks the firmware to clear it.
fn ask_for_a_clear(session: &mut Session<'_>) {
    assert_eq!(session.run(&format!("cat {PPI}/version")), "1.3");
    // Operation 5 clears; 3 is "allowed, and somebody has to confirm it".
    let operations = session.run(&format!("cat {PPI}/tcg_operations"));
    assert!(operations.contains("5 3:"), "{operations}");
    assert!(!has_owner(session));
    let said = session.run(SET_OWNER);
    assert!(
        said.starts_with("8002") && said[12..20] == *"00000000",
        "{said}"
    );
    assert!(has_owner(session));
    // A request that there is not is refused on the spot.
    let refused = session.run(&format!("echo 99 > {PPI}/request || echo refused"));
    assert!(refused.ends_with("refused"), "{refused}");
    let _ = session.run(&format!("echo 5 > {PPI}/request"));
    let asked = session.run(&format!("cat {PPI}/request {PPI}/transition_action"));
    assert!(
        asked.starts_with('5') && asked.contains("2: Reboot"),
        "{asked}"
    );
}

#[test]
fn both_logs_replay_to_the_pcrs_and_a_request_to_clear_the_tpm_is_put_to_whoever_is_at_the_console()
{
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = machine(folder.path()).start();
    let mut session = Session::log_in(&mut machine);
    let complaints =
        session.run("dmesg | grep -iE 'tpm|ppi' | grep -iE 'error|fail|bug|timeout' || true");
    assert_eq!(complaints, "");
    let first = check_logs(&mut session, folder.path());
    ask_for_a_clear(&mut session);
    session.leave("systemctl reboot");
    let _ = machine.expect("A configuration change was requested to clear");
    machine.send(ESCAPE);
    let mut session = Session::log_in(&mut machine);
    let response = session.run(&format!("cat {PPI}/response {PPI}/request"));
    assert!(
        response.starts_with("5 0xFFFFFFF0: User Abort"),
        "{response}"
    );
    assert!(has_owner(&mut session));
    let second = check_logs(&mut session, folder.path());
    assert_eq!(first[&("sha256", 0)], second[&("sha256", 0)]);
    session.leave("systemctl poweroff");
    machine.finish().assert_code(0);
}
