//! Hyper-V's interface, `--hyperv`, judged by a kernel that knows it: the stock kernel keeps time by the reference page, gets its timer
//! interrupts from the synthetic timers, and talks to its local APIC by MSR. Windows is the one it is for; none has been run.

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade};

/// What the kernel makes of it, and whether two seconds of the RTC are two seconds of its clock.
const SCRIPT: &str = r#"
clock=/sys/devices/system/clocksource/clocksource0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    case $(cat $clock/current_clocksource) in *-early|jiffies) usleep 500000 ;; *) break ;; esac
done
say "clock $(cat $clock/current_clocksource)"
dmesg | sed -n 's/.*Hypervisor detected: /detected /p;s/.*Hyper-V: //p' | while read -r line; do say "log $line"; done
cpu=0
for device in /sys/devices/system/clockevents/clockevent*; do
    [ -f $device/current_device ] && say "events ${device##*clockevent} $(cat $device/current_device)"
done
at() { cat /sys/class/rtc/rtc0/since_epoch; }
start=$(at); while [ "$(at)" = "$start" ]; do :; done
start=$(at); from=$(cut -d' ' -f1 /proc/uptime)
while [ $(($(at) - start)) -lt 2 ]; do usleep 10000; done
say "two $from $(cut -d' ' -f1 /proc/uptime)"
say "timer $(sed -n 's/ *HVS: *//p' /proc/interrupts)"
say "local $(sed -n 's/ *LOC: *//p' /proc/interrupts)"
if dmesg | grep -iE 'unchecked MSR|BUG:|WARNING:|firmware bug' | grep -v 'Speculative Return Stack Overflow'; then say "complaints"; fi
say done
"#;

fn boot(arguments: &[&str]) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let finished = Stockade::guest("")
        .arg("--initrd")
        .arg(Initrd::new(SCRIPT).write(folder.path()))
        .args(arguments)
        .finish();
    finished.assert_code(0);
    let last = findings(&finished.stdout).last().copied();
    assert_eq!(last, Some("done"), "{}", finished.transcript());
    finished
}

/// The numbers at the beginning of a line of `/proc/interrupts`.
fn counts(line: &str) -> Vec<u64> {
    let numbers = line.split_whitespace().map_while(|word| word.parse().ok());
    numbers.collect()
}

#[test]
fn a_kernel_that_knows_hyperv_lives_by_its_clock_and_timers() {
    let finished = boot(&["--hyperv", "--cpus", "2"]);
    let stdout = &finished.stdout;
    let transcript = || finished.transcript();
    let said = findings(stdout);
    assert!(
        said.contains(&"log detected Microsoft Hyper-V"),
        "{}",
        transcript()
    );
    let clock = finding(stdout, "clock");
    assert_eq!(
        clock,
        Some("hyperv_clocksource_tsc_page"),
        "{}",
        transcript()
    );
    for cpu in 0..2 {
        let events = format!("events {cpu} Hyper-V clockevent");
        assert!(said.contains(&events.as_str()), "{}", transcript());
    }
    let timer = counts(finding(stdout, "timer").unwrap_or_default());
    assert_eq!(timer.len(), 2, "{}", transcript());
    assert!(timer.iter().all(|count| *count > 20), "{}", transcript());
    let seconds = finding(stdout, "two").unwrap_or_default().split(' ');
    let seconds: Vec<f64> = seconds.filter_map(|second| second.parse().ok()).collect();
    let two = seconds.last().unwrap_or(&0.0) - seconds.first().unwrap_or(&0.0);
    assert!((1.8..2.3).contains(&two), "{two} s\n{}", transcript());
    assert_eq!(finding(stdout, "complaints"), None, "{}", transcript());
}

#[test]
fn without_being_asked_for_nothing_of_it_shows() {
    let finished = boot(&[]);
    let said = findings(&finished.stdout);
    let is_quiet = !said.iter().any(|line| line.contains("Hyper-V"));
    assert!(is_quiet, "{}", finished.transcript());
    assert_eq!(finding(&finished.stdout, "clock"), Some("tsc"));
}
