//! Hyper-V's interface, `--hyperv`, judged by a kernel that knows it: the stock kernel keeps time by the reference page, gets its timer
//! interrupts from the synthetic timers, and talks to its local APIC by MSR. Windows is the one it is for; none has been run.

use std::fs;
use std::time::Duration;

use stockade_rig::firmware::grub_disk;
use stockade_rig::guest::{finding, findings};
use stockade_rig::{Finished, Initrd, Stockade, command_line, package_file, workshop};

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

/// Fails unless a kernel on this many processors took what it found for Hyper-V and lives by its clock and timers.
#[track_caller]
fn assert_lives_by_hyperv(stdout: &str, cpus: usize, finished: &Finished) {
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
    for cpu in 0..cpus {
        let events = format!("events {cpu} Hyper-V clockevent");
        assert!(said.contains(&events.as_str()), "{}", transcript());
    }
    let timer = counts(finding(stdout, "timer").unwrap_or_default());
    assert_eq!(timer.len(), cpus, "{}", transcript());
    assert!(timer.iter().all(|count| *count > 20), "{}", transcript());
    let seconds = finding(stdout, "two").unwrap_or_default().split(' ');
    let seconds: Vec<f64> = seconds.filter_map(|second| second.parse().ok()).collect();
    let two = seconds.last().unwrap_or(&0.0) - seconds.first().unwrap_or(&0.0);
    assert!((1.8..2.3).contains(&two), "{two} s\n{}", transcript());
    assert_eq!(finding(stdout, "complaints"), None, "{}", transcript());
}

#[test]
fn a_kernel_that_knows_hyperv_lives_by_its_clock_and_timers() {
    let finished = boot(&["--hyperv", "--cpus", "2"]);
    assert_lives_by_hyperv(&finished.stdout, 2, &finished);
}

#[test]
fn without_being_asked_for_nothing_of_it_shows() {
    let finished = boot(&[]);
    let said = findings(&finished.stdout);
    let is_quiet = !said.iter().any(|line| line.contains("Hyper-V"));
    assert!(is_quiet, "{}", finished.transcript());
    assert_eq!(finding(&finished.stdout, "clock"), Some("tsc"));
}

/// The registers a life leaves something in, as they are after power-on, and what GRUB leaves there besides the kernel: who the guest is and
/// its pages of code and of time; SynIC's control, pages and a source; a timer's configuration and count. VP_INDEX is read only.
const AFTER_POWER_ON: [(u32, &str, Option<u32>); 12] = [
    (0x4000_0000, "0", Some(0x8100)),
    (0x4000_0001, "0", Some(0x0200_0001)),
    (0x4000_0002, "0", None),
    (0x4000_0021, "0", Some(0x0200_1001)),
    (0x4000_0073, "0", Some(0x0200_2001)),
    (0x4000_0080, "0", Some(1)),
    (0x4000_0082, "0", Some(0x0200_3001)),
    (0x4000_0083, "0", Some(0x0200_4001)),
    (0x4000_0092, "10000", Some(0xEE)),
    // Direct, vector EEh, enabled, and due at once.
    (0x4000_00B2, "0", Some(0x1EE1)),
    (0x4000_00B3, "0", Some(1)),
    (0x4000_00B6, "0", Some(0x1EE0)),
];
/// The first life ends by a triple fault, so that nobody tidies up; the last sector of the disk counts them.
const LIVES: &str = "modprobe -a virtio_pci virtio_blk
    sleep 1
    last=$(($(cat /sys/block/vda/size) - 1))
    if ! dd if=/dev/vda bs=512 skip=$last count=1 2>/dev/null | grep -q lived; then
        echo lived | dd of=/dev/vda bs=512 seek=$last conv=notrunc,fsync 2>/dev/null
        echo triple >/sys/kernel/reboot/type
        reboot -f
        sleep 60
    fi";

/// Reads the registers by GRUB's own command, leaves something in each, and starts the kernel.
fn grub_script() -> String {
    let mut script = "insmod /rdmsr.mod\ninsmod /wrmsr.mod\necho LIFE\n".to_owned();
    for (msr, _, _) in AFTER_POWER_ON {
        script += &format!("rdmsr -v value {msr:#x}\necho \"msr {msr:x} is $value.\"\n");
    }
    for (msr, _, value) in AFTER_POWER_ON {
        if let Some(value) = value {
            script += &format!("wrmsr {msr:#x} {value:#x}\n");
        }
    }
    let words = command_line("");
    script + &format!("linux /vmlinuz {words}\ninitrd /initrd\nboot\n")
}

/// Stock firmware and GRUB know nothing of it and are not disturbed; a reset from inside leaves none of it to them.
#[test]
fn firmware_finds_hyperv_as_after_power_on_in_each_life_of_a_kernel() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(&format!("{SCRIPT}{LIVES}")).modules(&["virtio_pci", "virtio_blk"]);
    let read = |path| fs::read(path).expect("it is there");
    let module = |name: &str| {
        let path = format!("usr/lib/grub/x86_64-efi/{name}");
        read(package_file("grub-efi-amd64-bin", &path))
    };
    let files: [(&str, &[u8]); 4] = [
        ("vmlinuz", &read(workshop().kernel.clone())),
        ("initrd", &read(initrd.write(folder.path()))),
        ("rdmsr.mod", &module("rdmsr.mod")),
        ("wrmsr.mod", &module("wrmsr.mod")),
    ];
    let finished = Stockade::new("run")
        .args(["--hyperv", "--cpus", "2", "--memory", "512M", "--disk"])
        .arg(grub_disk(folder.path(), &grub_script(), &files))
        .limit(Duration::from_secs(600))
        .finish();
    finished.assert_code(0);
    finished.assert_says(&["the guest resets by a triple fault"]);
    let lives: Vec<&str> = finished.stdout.split("LIFE").skip(1).collect();
    assert_eq!(lives.len(), 2, "{}", finished.transcript());
    for life in lives {
        for (msr, value, _) in AFTER_POWER_ON {
            let line = format!("msr {msr:x} is {value}.");
            assert!(life.contains(&line), "{line}\n{}", finished.transcript());
        }
        assert_lives_by_hyperv(life, 2, &finished);
    }
}
