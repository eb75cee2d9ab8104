//! Every way a run ends has its own exit code and one line that says why.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stockade_rig::Stockade;

#[test]
fn a_guest_that_resets_again_and_again_is_exit_code_10() {
    // Without a first process the kernel panics early, and its time counts instructions: a busy machine is no slower.
    let guest = Stockade::guest("rdinit=/nonexistent")
        .arg("--icount")
        .finish();
    guest.assert_code(10).assert_says(&["reset loop"]);
    let boots = guest.stdout.matches("Kernel panic - not syncing").count();
    // The first boot and four resets; the fifth is one too many.
    assert_eq!(boots, 5, "{}", guest.transcript());
}

#[test]
fn a_triple_fault_of_the_guest_is_exit_code_11() {
    let guest = Stockade::guest("reboot=t stockade.mode=reboot").finish();
    guest.assert_code(11).assert_says(&["triple fault"]);
}

#[test]
fn a_kernel_panic_shows_on_the_console_and_a_hung_guest_times_out() {
    let guest = Stockade::guest("panic=0 stockade.mode=crash")
        .arg("--timeout")
        .arg("60")
        .finish();
    guest.assert_code(13).assert_says(&["--timeout"]);
    assert!(
        guest
            .stdout
            .contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{}",
        guest.transcript()
    );
}

#[test]
fn the_time_given_is_kept_even_before_the_guest_starts() {
    let begun = Instant::now();
    let guest = Stockade::guest("stockade.mode=check")
        .arg("--timeout")
        .arg("1")
        .finish();
    guest.assert_code(13);
    // Building the image is not counted; what follows is.
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{}",
        guest.transcript()
    );
}

/// What there is of figures is kept, and the exit code says how the run ended, not what is missing.
#[test]
fn a_run_that_is_ended_keeps_its_exit_code_without_a_view() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [view, stats] = ["view", "stats"].map(|name| folder.path().join(name));
    let mut guest = Stockade::guest("stockade.mode=shell")
        .arg("--host-view")
        .arg(&view)
        .arg("--stats")
        .arg(&stats)
        .start();
    guest.expect("a shell in the confidential guest");
    guest.send(b"\x01x");
    let run = guest.finish();
    run.assert_code(18);
    run.assert_says(&["host's view", "not written"]);
    assert!(!std::fs::exists(&view).expect("the folder is readable"));
    let stats = std::fs::read_to_string(&stats).expect("there are figures");
    assert!(stats.contains("\"exit_code\": 18"), "{stats}");
}

#[test]
fn a_signal_ends_qemu_with_us() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pid_file = folder.path().join("pid");
    let mut guest = Stockade::guest("stockade.mode=shell")
        .arg("--qemu-arg=-pidfile")
        .arg(format!("--qemu-arg={}", pid_file.display()))
        .start();
    guest.expect("a shell in the confidential guest");
    let pid = std::fs::read_to_string(&pid_file).expect("QEMU wrote its process number");
    let process = format!("/proc/{}", pid.trim());
    assert!(std::fs::exists(&process).expect("/proc is readable"));
    guest.signal(Signal::SIGINT);
    guest.finish().assert_code(18);
    assert!(!std::fs::exists(&process).expect("/proc is readable"));
}

#[test]
fn control_a_x_quits() {
    let mut guest = Stockade::guest("stockade.mode=shell").start();
    guest.expect("a shell in the confidential guest");
    guest.send(b"\x01x");
    guest.finish().assert_code(18);
}
