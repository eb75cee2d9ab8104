//! Several processors under the stock kernel: brought up, numbered, timed, loaded, taken away and brought back, with the local
//! APICs in their old mode and in x2APIC mode.

use std::path::Path;
use std::time::Duration;

use stockade_rig::guest::{dump, finding, findings};
use stockade_rig::{Finished, Initrd, Stockade};

/// Whether the machine offers x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    XApic,
    X2Apic,
}

/// Sixteen processors share the two of a small machine.
const LIMIT: Duration = Duration::from_secs(300);
/// What the kernel says of processors, clocks and interrupts that are not in order.
const COMPLAINTS: &str = "unstable|Marking TSC|TSC synchronization.*fail|APIC error|APIC: Stale|MP-BIOS bug|firmware bug|FW bug|\
    unchecked MSR|BUG:|WARNING:|soft lockup|rcu.*stall|spurious|No irq handler|do_IRQ|inconsistent|didn.t|Not responding|x2apic.*fail";

/// Says what the kernel found; used by every script here.
const LOOK_AROUND: &str = r#"
say "cpus $(grep -c ^processor /proc/cpuinfo)"
say "online $(cat /sys/devices/system/cpu/online)"
say "possible $(cat /sys/devices/system/cpu/possible)"
dmesg | grep -q 'x2apic enabled\|x2apic: enabled\|Switched APIC routing to.*x2apic' && say "mode x2apic" || say "mode xapic"
"#;

/// Says what the log has to complain of, once the clocks have settled.
const COMPLAIN: &str = r#"
clock=/sys/devices/system/clocksource/clocksource0/current_clocksource
for _ in 1 2 3 4 5 6 7 8 9 10; do
    case $(cat $clock) in *-early) usleep 500000 ;; *) break ;; esac
done
say "clocksource $(cat $clock)"
dmesg | grep -iE "$COMPLAINTS" | grep -v 'Speculative Return Stack' | while read -r line; do say "complaint $line"; done
"#;

fn boot(script: &str, cpus: usize, mode: Mode, own: &[&str]) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = format!("COMPLAINTS=\"{COMPLAINTS}\"\n{LOOK_AROUND}{script}{COMPLAIN}say done");
    let programs = own.iter().map(Path::new);
    let initrd = programs.fold(Initrd::new(&script), Initrd::own_program);
    let mut run = Stockade::guest("")
        .limit(LIMIT)
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--cpus")
        .arg(cpus.to_string());
    if mode == Mode::X2Apic {
        run = run.arg("--x2apic");
    }
    let finished = run.finish();
    finished.assert_code(0);
    let transcript = finished.transcript();
    assert_eq!(
        findings(&finished.stdout).last(),
        Some(&"done"),
        "{transcript}"
    );
    assert_eq!(finding(&finished.stdout, "complaint"), None, "{transcript}");
    assert_eq!(
        finding(&finished.stdout, "clocksource"),
        Some("tsc"),
        "{transcript}"
    );
    let name = if mode == Mode::X2Apic {
        "x2apic"
    } else {
        "xapic"
    };
    assert_eq!(
        finding(&finished.stdout, "mode"),
        Some(name),
        "{transcript}"
    );
    assert_eq!(
        finding(&finished.stdout, "cpus"),
        Some(cpus.to_string().as_str()),
        "{transcript}"
    );
    finished
}

/// Everything that says where a processor is.
const TOPOLOGY: &str = r#"
dump() { say "begin $2"; hexdump -v -e '32/1 "%02x" "\n"' "$1"; say "end $2"; }
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    t=$cpu/topology
    say "sysfs ${cpu##*/cpu} core=$(cat $t/core_id) package=$(cat $t/physical_package_id) threads=$(cat $t/thread_siblings_list)"
done
say "cores $(cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list)"
awk -F: '/^apicid/ { printf "guest-check: apicid %d\n", $2 }' /proc/cpuinfo
dump /sys/firmware/acpi/tables/APIC APIC
processors
"#;

fn all(cpus: usize) -> String {
    if cpus == 1 {
        "0".to_owned()
    } else {
        format!("0-{}", cpus - 1)
    }
}

/// Returns the ids of the MADT's enabled local APICs (ACPI 6.5, 5.2.12.2).
fn madt_ids(table: &[u8]) -> Vec<usize> {
    let mut ids = Vec::new();
    let mut rest = &table[44..];
    while let [kind, len, body @ ..] = rest {
        let len = usize::from(*len);
        match (kind, body) {
            (0, [_uid, id, flags, ..]) if flags & 1 != 0 => ids.push(usize::from(*id)),
            (9, [_, _, id, _, _, _, flags, ..]) if flags & 1 != 0 => ids.push(usize::from(*id)),
            _ => {}
        }
        assert!(
            (2..=rest.len()).contains(&len),
            "a structure of {len} bytes"
        );
        rest = &rest[len..];
    }
    ids
}

/// One kernel, one count, one mode: all processors come up, and every source agrees on which they are.
fn comes_up(cpus: usize, mode: Mode) {
    let finished = boot(TOPOLOGY, cpus, mode, &[env!("CARGO_BIN_EXE_processors")]);
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    assert_eq!(
        finding(stdout, "online"),
        Some(all(cpus).as_str()),
        "{transcript}"
    );
    assert_eq!(
        finding(stdout, "possible"),
        Some(all(cpus).as_str()),
        "{transcript}"
    );
    assert_eq!(
        finding(stdout, "cores"),
        Some(all(cpus).as_str()),
        "{transcript}"
    );
    let madt = dump(stdout, "APIC").expect("the guest wrote its MADT");
    assert_eq!(madt_ids(&madt), Vec::from_iter(0..cpus), "{transcript}");
    let shift = cpus.next_power_of_two().trailing_zeros();
    let last = cpus - 1;
    let offered = u8::from(mode == Mode::X2Apic);
    for cpu in 0..cpus {
        let sysfs = finding(stdout, &format!("sysfs {cpu}"));
        assert_eq!(
            sysfs,
            Some(format!("core={cpu} package=0 threads={cpu}").as_str()),
            "{transcript}"
        );
        assert!(
            findings(stdout).contains(&format!("apicid {cpu}").as_str()),
            "{transcript}"
        );
        let place = finding(stdout, &format!("processor {cpu}")).unwrap_or_default();
        for words in [
            format!("id={cpu} logical={cpus} cores={last} x2apic={offered}"),
            format!(" b-id={cpu} b-threads=1 b-cores={cpus} b-shift={shift}"),
            format!(" 1e-id={cpu} 1e-core={cpu} 1e-threads=1 1e-node=0"),
        ] {
            assert!(
                place.contains(&words),
                "no {words} in {place}\n{transcript}"
            );
        }
    }
    assert_eq!(
        finding(stdout, "tsc"),
        Some("handovers=40000 warps=0"),
        "{transcript}"
    );
}

#[test]
fn one_processor_comes_up() {
    comes_up(1, Mode::XApic);
}

#[test]
fn one_processor_comes_up_in_x2apic_mode() {
    comes_up(1, Mode::X2Apic);
}

#[test]
fn two_processors_come_up() {
    comes_up(2, Mode::XApic);
}

#[test]
fn two_processors_come_up_in_x2apic_mode() {
    comes_up(2, Mode::X2Apic);
}

#[test]
fn four_processors_come_up() {
    comes_up(4, Mode::XApic);
}

#[test]
fn four_processors_come_up_in_x2apic_mode() {
    comes_up(4, Mode::X2Apic);
}

#[test]
fn sixteen_processors_come_up() {
    comes_up(16, Mode::XApic);
}

#[test]
fn sixteen_processors_come_up_in_x2apic_mode() {
    comes_up(16, Mode::X2Apic);
}

/// A load that knows its answers: each processor hashes the same stream, over and over, while pipes, forks and signals cross
/// between processors. `answer N DIGEST` for each processor and round, `pipes N SUM` for each chain.
const LOAD: &str = r#"
hash() { for round in 1 2 3; do say "answer $1 $(taskset -c $1 dd if=/tmp/stream bs=64k 2>/dev/null | taskset -c $2 sha256sum | cut -c1-64)"; done; }
chain() {
    sum=0
    for i in $(seq 1 40); do
        x=$(echo $i | taskset -c $2 cat | taskset -c $3 cat | taskset -c $1 cat)
        sum=$((sum + x))
    done
    say "pipes $1 $sum"
}
(i=0; while [ $i -lt 40000 ]; do echo "line $i of the stream"; i=$((i + 1)); done) >/tmp/stream
for cpu in 0 1 2 3; do hash $cpu $(((cpu + 1) % 4)) & chain $cpu $(((cpu + 1) % 4)) $(((cpu + 2) % 4)) & done
wait
say "interrupts $(awk '/LOC:/ { print $2, $3, $4, $5 }' /proc/interrupts)"
say "calls $(awk '/RES:|CAL:/ { a += $2; b += $3; c += $4; d += $5 } END { print a, b, c, d }' /proc/interrupts)"
"#;

/// The digest of the same stream, made here.
fn digest_of_the_stream() -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stream: String = (0..40_000)
        .map(|i| format!("line {i} of the stream\n"))
        .collect();
    let path = folder.path().join("stream");
    std::fs::write(&path, stream).expect("it is writable");
    let output = std::process::Command::new("sha256sum").arg(&path).output();
    let output = output.expect("sha256sum is part of coreutils");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

fn load_stays_correct(mode: Mode) {
    let finished = boot(LOAD, 4, mode, &[]);
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    let digest = digest_of_the_stream();
    let said = findings(stdout);
    for cpu in 0..4 {
        let answer = format!("answer {cpu} {digest}");
        let right = said.iter().filter(|line| **line == answer).count();
        assert_eq!(right, 3, "processor {cpu}\n{transcript}");
        let sum = format!("pipes {cpu} {}", (1..=40).sum::<u32>());
        assert!(
            said.contains(&sum.as_str()),
            "processor {cpu}\n{transcript}"
        );
    }
    for name in ["interrupts", "calls"] {
        let counts = finding(stdout, name).unwrap_or_default();
        let counts: Vec<u64> = counts.split(' ').filter_map(|n| n.parse().ok()).collect();
        assert!(
            counts.len() == 4 && counts.iter().all(|count| *count > 0),
            "{name}\n{transcript}"
        );
    }
}

#[test]
fn a_load_on_all_processors_gets_its_answers_right() {
    load_stays_correct(Mode::XApic);
}

#[test]
fn a_load_on_all_processors_gets_its_answers_right_in_x2apic_mode() {
    load_stays_correct(Mode::X2Apic);
}

/// Takes processors away and brings them back: the kernel parks them in HLT, and sends INIT and SIPI to one that was started before.
const UNPLUG: &str = r#"
cpus=/sys/devices/system/cpu
for round in 1 2 3; do
    for cpu in 1 2 3; do echo 0 >$cpus/cpu$cpu/online || say "refused $cpu"; done
    say "left $(cat $cpus/online)"
    for cpu in 3 1 2; do echo 1 >$cpus/cpu$cpu/online || say "refused $cpu"; done
    say "back $(cat $cpus/online)"
    for cpu in 0 1 2 3; do say "works $cpu $(taskset -c $cpu echo yes)"; done
done
processors
"#;

fn goes_and_comes_back(mode: Mode) {
    let finished = boot(UNPLUG, 4, mode, &[env!("CARGO_BIN_EXE_processors")]);
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    let said = findings(stdout);
    let count = |line: &str| said.iter().filter(|said| **said == line).count();
    assert_eq!((count("left 0"), count("back 0-3")), (3, 3), "{transcript}");
    for cpu in 0..4 {
        assert_eq!(count(&format!("works {cpu} yes")), 3, "{transcript}");
    }
    assert_eq!(
        finding(stdout, "tsc"),
        Some("handovers=40000 warps=0"),
        "{transcript}"
    );
}

#[test]
fn processors_are_taken_away_and_brought_back() {
    goes_and_comes_back(Mode::XApic);
}

#[test]
fn processors_are_taken_away_and_brought_back_in_x2apic_mode() {
    goes_and_comes_back(Mode::X2Apic);
}
