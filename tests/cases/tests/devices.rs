//! Devices of an ordinary PC as the stock kernel finds and uses them: HPET, the ACPI interrupt, the alarm of the clock.

use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade};

fn boot(script: &str, arguments: &[&str], words: &str) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(&format!("{script}\nsay done"));
    let finished = Stockade::guest(words)
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .args(arguments)
        .finish();
    finished.assert_code(0);
    assert_eq!(
        findings(&finished.stdout).last(),
        Some(&"done"),
        "{}",
        finished.transcript()
    );
    finished
}

/// What the kernel has for clocks, which it uses, and that time goes by on it as on the RTC: in counted time, where no busy machine keeps it
/// from looking.
const CLOCKS: &str = r#"
clock=/sys/devices/system/clocksource/clocksource0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    case $(cat $clock/current_clocksource) in *-early|jiffies) usleep 500000 ;; *) break ;; esac
done
say "available $(cat $clock/available_clocksource)"
say "current $(cat $clock/current_clocksource)"
dmesg | grep -q 'hpet0: at MMIO' && say "hpet found"
dmesg | grep -iE 'hpet.*(fail|warn|bug|bogus)|unstable' | while read -r line; do say "complaint $line"; done
at() { cat /sys/class/rtc/rtc0/since_epoch; }
start=$(at); while [ "$(at)" = "$start" ]; do :; done
start=$(at); from=$(cut -d' ' -f1 /proc/uptime)
while [ $(($(at) - start)) -lt 2 ]; do usleep 10000; done
to=$(cut -d' ' -f1 /proc/uptime)
say "two $from $to"
"#;

/// Two seconds of the RTC, in seconds of the kernel's clock.
fn two_seconds(finished: &Finished) -> f64 {
    let said = finding(&finished.stdout, "two").unwrap_or_default();
    let seconds: Vec<f64> = said.split(' ').filter_map(|s| s.parse().ok()).collect();
    assert_eq!(seconds.len(), 2, "{}", finished.transcript());
    seconds[1] - seconds[0]
}

#[test]
fn the_kernel_keeps_time_by_the_hpet_when_asked_to() {
    let finished = boot(CLOCKS, &["--hpet", "--icount"], "clocksource=hpet");
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    assert_eq!(finding(stdout, "hpet found"), Some(""), "{transcript}");
    assert_eq!(finding(stdout, "current"), Some("hpet"), "{transcript}");
    assert_eq!(finding(stdout, "complaint"), None, "{transcript}");
    let seconds = two_seconds(&finished);
    assert!((1.8..2.3).contains(&seconds), "{seconds} s\n{transcript}");
}

#[test]
fn without_the_option_there_is_no_hpet() {
    let finished = boot(CLOCKS, &["--icount"], "");
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    assert_eq!(finding(stdout, "hpet found"), None, "{transcript}");
    assert_eq!(finding(stdout, "current"), Some("tsc"), "{transcript}");
    let available = finding(stdout, "available").unwrap_or_default();
    assert!(
        !available.contains("hpet") && available.contains("acpi_pm"),
        "{transcript}"
    );
    let seconds = two_seconds(&finished);
    assert!((1.8..2.3).contains(&seconds), "{seconds} s\n{transcript}");
}

/// Sets the alarm two seconds ahead, waits in HLT, and counts the RTC's interrupts.
const ALARM: &str = r#"
count() { awk '/rtc0/ { print $2 }' /proc/interrupts; }
say "sci $(awk '/acpi$/ { print $1, $3, $4 }' /proc/interrupts)"
rtc=/sys/class/rtc/rtc0
hwclock -u >/dev/null && say "hwclock reads"
before=$(count)
echo 0 >$rtc/wakealarm
echo +2 >$rtc/wakealarm
say "armed $(grep alarm_IRQ /proc/driver/rtc | tr -d ' \t')"
sleep 4
say "alarms $(($(count) - before))"
say "left $(grep alarm_IRQ /proc/driver/rtc | tr -d ' \t')"
"#;

#[test]
fn the_acpi_interrupt_is_there_and_the_alarm_rings_once() {
    let finished = boot(ALARM, &[], "");
    let (stdout, transcript) = (&finished.stdout, finished.transcript());
    assert_eq!(
        finding(stdout, "sci"),
        Some("9: IO-APIC 9-fasteoi"),
        "{transcript}"
    );
    assert_eq!(finding(stdout, "hwclock reads"), Some(""), "{transcript}");
    assert_eq!(
        finding(stdout, "armed"),
        Some("alarm_IRQ:yes"),
        "{transcript}"
    );
    assert_eq!(finding(stdout, "alarms"), Some("1"), "{transcript}");
    assert_eq!(
        finding(stdout, "left"),
        Some("alarm_IRQ:no"),
        "{transcript}"
    );
}
