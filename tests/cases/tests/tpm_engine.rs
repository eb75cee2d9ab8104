//! The TPM's engine by itself, judged by the distribution's `tpm2-tools` over the simulator's ports, and as a module over its channel.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use stockade_boot::layout::{C_BIT, STAGING_BASE};
use stockade_boot::manifest::{GuestFlags, Manifest, Payload, PayloadKind};
use stockade_boot::measured;
use stockade_devices::tpm::command::{self, ResponseCode, response_code};
use stockade_rig::tpm::{SimulatedTpm, engine};
use tempfile::TempDir;

use crate::tpm_channel::is_cancelled_midway;

fn new() -> (SimulatedTpm, TempDir) {
    (SimulatedTpm::start(None), tempfile::tempdir().unwrap())
}

#[test]
fn program_says_what_it_is_linked_from() {
    let output = Command::new(&engine().program)
        .arg("--about")
        .output()
        .unwrap();
    let about = String::from_utf8(output.stdout).unwrap();
    assert_eq!(about.trim_end(), engine().about());
    assert!(about.starts_with("libtpms-dev=0.9."), "{about}");
}

/// An image's words say what its engine is linked from. The engine is no module by other words.
#[test]
fn module_that_is_told_of_other_libraries_does_not_start() {
    let other = engine().about().replace("libtpms-dev=", "libtpms-dev=1");
    let output = Command::new(&engine().program)
        .args(other.split(' '))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn new_tpm_has_two_banks_and_three_endorsement_keys() {
    let (tpm, folder) = new();
    let banks = tpm.ask(folder.path(), "tpm2_getcap pcrs");
    assert!(banks.contains("sha1: [ ]") && banks.contains("sha512: [ ]"));
    assert!(banks.contains("sha256: [ 0, 1,") && banks.contains("sha384: [ 0, 1,"));
    let properties = tpm.ask(folder.path(), "tpm2_getcap properties-fixed");
    assert!(properties.contains("TPM2_PT_MAX_COMMAND_SIZE:\n  raw: 0xF80"));
    // What lies at the handles is what anybody makes by the profile's templates.
    for (algorithm, handle) in [
        ("rsa", "0x81010001"),
        ("ecc", "0x81010002"),
        ("ecc384", "0x81010016"),
    ] {
        let make = format!("tpm2_createek -c made.ctx -G {algorithm} -u made.pub");
        let _ = tpm.ask(folder.path(), &make);
        let _ = tpm.ask(
            folder.path(),
            &format!("tpm2_readpublic -c {handle} -o kept.pub"),
        );
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("made.pub"), read("kept.pub"), "{algorithm}");
    }
}

#[test]
fn pcrs_extend_in_both_banks_and_are_zero_after_a_reset() {
    let (tpm, folder) = new();
    let digest = "5a".repeat(32);
    let longer = "5a".repeat(48);
    let extend = format!("tpm2_pcrextend 8:sha256={digest},sha384={longer}");
    let _ = tpm.ask(folder.path(), &extend);
    let read = |tpm: &SimulatedTpm| tpm.ask(folder.path(), "tpm2_pcrread sha256:8+sha384:8");
    // What `sha256sum` and `sha384sum` make of zeros and the digest.
    let after = read(&tpm);
    assert!(
        after.contains("0xD342B8B5FDDABFC1") && after.contains("0xA0CF46B98DC169C6"),
        "{after}"
    );
    platform(tpm.port(), 17);
    let zeros = "0".repeat(64);
    assert!(read(&tpm).contains(&zeros));
}

/// What is measured at a start is written to the log by our code, replayed by `tpm2_eventlog`, and extended by the TPM: a bank that somebody
/// switched on has it, too, though the log does not know it.
#[test]
fn log_of_a_start_replays_to_the_pcrs_and_no_bank_is_left_out() {
    let (tpm, folder) = new();
    let all = "tpm2_pcrallocate sha1:all+sha256:all+sha384:all+sha512:all";
    let _ = tpm.ask(folder.path(), all);
    platform(tpm.port(), 17);
    let payload = |kind, at: u64| Payload::new(kind, STAGING_BASE + at, 100, [7; 48]);
    let payloads = [
        payload(PayloadKind::KERNEL, 0),
        payload(PayloadKind::INITRD, 0x1000),
        payload(PayloadKind::COMMAND_LINE, 0x2000),
    ];
    let manifest = Manifest::new(C_BIT, 1, GuestFlags::TPM, &payloads).unwrap();
    let measurements = measured::measurements(&manifest);
    for it in &measurements {
        let event = command::pcr_event(it.pcr.try_into().unwrap(), &it.data);
        let extended = execute(tpm.port(), &event);
        assert_eq!(response_code(&extended), ResponseCode::SUCCESS);
    }
    fs::write(folder.path().join("log"), measured::log(&measurements)).unwrap();
    let replayed = tpm.ask(folder.path(), "tpm2_eventlog log");
    let banks = "tpm2_pcrread sha256:0,1,2,3,4,5,6,7,8,9+sha384:0,1,2,3,4,5,6,7,8,9";
    let values = by_index(&tpm.ask(folder.path(), banks));
    assert_eq!(values.len(), 20);
    let replayed = by_index(replayed.rsplit_once("pcrs:").unwrap().1);
    for (index, value) in &values {
        assert_eq!(replayed.get(index), Some(value), "{index:?}");
    }
    let banks = "tpm2_pcrread sha1:0,1,2,3,4,5,6,7,8,9+sha512:0,1,2,3,4,5,6,7,8,9";
    let values = by_index(&tpm.ask(folder.path(), banks));
    assert_eq!(values.len(), 20);
    for (index, value) in &values {
        let digits = value.trim_start_matches("0x");
        assert!(digits.bytes().any(|digit| digit != b'0'), "{index:?}");
    }
}

/// PCRs as the tools print them, by bank and number.
fn by_index(printed: &str) -> BTreeMap<(String, String), String> {
    let mut bank = "";
    let mut values = BTreeMap::new();
    for line in printed.lines() {
        match line.split_once(':') {
            Some((name, "")) => bank = name.trim(),
            Some((number, value)) => {
                let index = (bank.to_owned(), number.trim().to_owned());
                values.insert(index, value.trim().to_lowercase());
            }
            None => {}
        }
    }
    values
}

#[test]
fn data_sealed_to_a_pcr_is_unsealed_until_the_pcr_changes() {
    let (tpm, folder) = new();
    let folder = folder.path();
    fs::write(folder.join("secret"), "open sesame").unwrap();
    for line in [
        "tpm2_createprimary -C o -G ecc -c primary.ctx",
        "tpm2_createpolicy --policy-pcr -l sha256:7 -L policy",
        "tpm2_create -C primary.ctx -L policy -i secret -u sealed.pub -r sealed.priv",
        "tpm2_load -C primary.ctx -u sealed.pub -r sealed.priv -c sealed.ctx",
    ] {
        let _ = tpm.ask(folder, line);
    }
    let unseal = "tpm2_unseal -c sealed.ctx -p pcr:sha256:7";
    assert_eq!(tpm.ask(folder, unseal), "open sesame");
    let _ = tpm.ask(
        folder,
        &format!("tpm2_pcrextend 7:sha256={}", "11".repeat(32)),
    );
    assert!(!tpm.run(folder, unseal).status.success());
}

#[test]
fn quote_is_signed_and_checked() {
    let (tpm, folder) = new();
    for line in [
        "tpm2_createek -c ek.ctx -G ecc -u ek.pub",
        "tpm2_createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pem -f pem -n ak.name",
        "tpm2_quote -c ak.ctx -l sha256:0,1,2 -q 0011223344 -m quote -s signature -o pcrs",
        "tpm2_checkquote -u ak.pem -m quote -s signature -f pcrs -q 0011223344",
    ] {
        let _ = tpm.ask(folder.path(), line);
    }
    let other = "tpm2_checkquote -u ak.pem -m quote -s signature -f pcrs -q 5566778899";
    assert!(!tpm.run(folder.path(), other).status.success());
}

#[test]
fn what_must_last_lasts_over_a_power_cut() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let first = SimulatedTpm::start(Some(state.path()));
    fs::write(folder.join("data"), vec![7; 2000]).unwrap();
    for line in [
        "tpm2_createprimary -C o -G ecc -c primary.ctx",
        "tpm2_evictcontrol -C o -c primary.ctx 0x81000001",
        "tpm2_nvdefine 0x1500001 -C o -s 2000 -a ownerread|ownerwrite",
        "tpm2_nvwrite 0x1500001 -C o -i data",
        "tpm2_nvdefine 0x1500002 -C o -s 8 -a ownerread|ownerwrite|nt=counter",
        "tpm2_nvincrement 0x1500002 -C o",
    ] {
        let _ = first.ask(folder, line);
    }
    let key = first.ask(folder, "tpm2_readpublic -c 0x81000001");
    let count = first.ask(folder, "tpm2_nvread 0x1500002 -C o");
    first.cut_power();
    let second = SimulatedTpm::start(Some(state.path()));
    assert_eq!(second.ask(folder, "tpm2_readpublic -c 0x81000001"), key);
    let _ = second.ask(folder, "tpm2_nvread 0x1500001 -C o -o again");
    assert_eq!(fs::read(folder.join("again")).unwrap(), vec![7; 2000]);
    assert_eq!(second.ask(folder, "tpm2_nvread 0x1500002 -C o"), count);
}

#[test]
fn state_of_many_records_is_whole_after_a_power_cut() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let first = SimulatedTpm::start(Some(state.path()));
    fs::write(folder.join("data"), vec![9; 2048]).unwrap();
    for index in 0..10 {
        let define =
            format!("tpm2_nvdefine 0x15000{index:02} -C o -s 2048 -a ownerread|ownerwrite");
        let _ = first.ask(folder, &define);
        let _ = first.ask(
            folder,
            &format!("tpm2_nvwrite 0x15000{index:02} -C o -i data"),
        );
    }
    first.cut_power();
    let records = fs::read_dir(state.path()).unwrap().count();
    assert!(records > 4, "{records} files");
    let second = SimulatedTpm::start(Some(state.path()));
    for index in 0..10 {
        let _ = second.ask(
            folder,
            &format!("tpm2_nvread 0x15000{index:02} -C o -o again"),
        );
        assert_eq!(fs::read(folder.join("again")).unwrap(), vec![9; 2048]);
    }
}

#[test]
fn folder_in_use_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let _first = SimulatedTpm::start(Some(state.path()));
    let second = Command::new(&engine().program)
        .args(["--socket", "127.0.0.1:0", "--state"])
        .arg(state.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let (tpm, _folder) = new();
    let address = format!("127.0.0.1:{}", tpm.port());
    let second = Command::new(&engine().program)
        .args(["--socket", &address])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&address), "{said}");
}

/// A key of 3072 bits takes a while; cancelled before it has begun, no time, and in the midst of it no longer.
#[test]
fn making_an_rsa_key_is_cancelled() {
    let (tpm, folder) = new();
    let _ = tpm.ask(
        folder.path(),
        "tpm2_createprimary -C o -G ecc -c primary.ctx",
    );
    platform(tpm.port(), 9);
    for line in [
        "tpm2_create -C primary.ctx -G rsa3072 -u key.pub -r key.priv",
        "tpm2_createprimary -C n -G rsa3072 -c other.ctx",
    ] {
        let cancelled = tpm.run(folder.path(), line);
        assert!(!cancelled.status.success(), "{line}");
        let said = String::from_utf8_lossy(&cancelled.stderr);
        assert!(said.contains("0x909"), "{said}");
    }
    platform(tpm.port(), 10);
    assert!(is_cancelled_midway(|delay, command| {
        let port = tpm.port();
        if delay.is_zero() {
            return execute(port, command);
        }
        let canceller = thread::spawn(move || {
            thread::sleep(delay);
            platform(port, 9);
        });
        let response = execute(port, command);
        canceller.join().unwrap();
        platform(port, 10);
        response
    }));
    let _ = tpm.ask(folder.path(), "tpm2_getrandom --hex 8");
    let _ = tpm.ask(
        folder.path(),
        "tpm2_create -C primary.ctx -G rsa2048 -u key.pub -r key.priv",
    );
}

#[test]
fn dictionary_attack_locks_out_and_survives_a_power_cut() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let tpm = SimulatedTpm::start(Some(state.path()));
    for line in [
        "tpm2_dictionarylockout -s -n 3 -t 1000 -l 1000",
        "tpm2_createprimary -C o -G ecc -c primary.ctx",
        "tpm2_create -C primary.ctx -p right -u key.pub -r key.priv -G hmac",
        "tpm2_load -C primary.ctx -u key.pub -r key.priv -c key.ctx",
        "tpm2_evictcontrol -C o -c key.ctx 0x81000002",
    ] {
        let _ = tpm.ask(folder, line);
    }
    fs::write(folder.join("message"), "message").unwrap();
    let right = "tpm2_hmac -c 0x81000002 -p right message";
    let _ = tpm.ask(folder, right);
    for _ in 0..3 {
        let guess = "tpm2_hmac -c 0x81000002 -p wrong message";
        assert!(!tpm.run(folder, guess).status.success());
    }
    assert!(!tpm.run(folder, right).status.success());
    tpm.cut_power();
    let tpm = SimulatedTpm::start(Some(state.path()));
    assert!(!tpm.run(folder, right).status.success());
    let _ = tpm.ask(folder, "tpm2_dictionarylockout -c");
    let _ = tpm.ask(folder, right);
}

#[test]
fn clients_that_speak_nonsense_harm_nobody() {
    let (tpm, folder) = new();
    for port in [tpm.port(), tpm.port() + 1] {
        for bytes in [
            &[0xFF; 64][..],
            &[0, 0, 0, 8, 0, 0xFF, 0xFF, 0xFF, 0xFF],
            &[0, 0, 0],
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(bytes).unwrap();
        }
    }
    // Commands with headers that lie.
    for command in [
        &[][..],
        &[0x80],
        &[0x80, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0x44],
        &[0; 4096],
    ] {
        let response = execute(tpm.port(), command);
        assert!(response.len() >= 10, "{response:?}");
        assert_ne!(response[6..10], [0; 4]);
    }
    let _ = tpm.ask(folder.path(), "tpm2_getrandom --hex 8");
}

/// Says one word to the platform port.
fn platform(port: u16, word: u32) {
    let mut stream = TcpStream::connect(("127.0.0.1", port + 1)).unwrap();
    stream.write_all(&word.to_be_bytes()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0; 4]);
}

fn execute(port: u16, command: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let len = u32::try_from(command.len()).unwrap();
    stream.write_all(&8_u32.to_be_bytes()).unwrap();
    stream.write_all(&[0]).unwrap();
    stream.write_all(&len.to_be_bytes()).unwrap();
    stream.write_all(command).unwrap();
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut response = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap()];
    stream.read_exact(&mut response).unwrap();
    response
}
