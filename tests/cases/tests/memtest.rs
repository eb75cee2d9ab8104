//! memtest86+ of the distribution: no Linux, started by the Linux boot protocol, brings up all processors by its own code, wakes
//! them by NMI, and knows what memory should hold.

use std::time::Duration;

use stockade_rig::{Stockade, package_file};

/// Its screen is drawn by escape sequences: cursor to row and column, then words.
const ALL_CORES: &str = "Using: All Cores";
/// When this one runs, tests 0 to 5 are over: walking ones, own addresses, moving inversions of four kinds.
const LAST: &str = "#6  [Moving inversions, 64 bit pattern]";

fn first_tests_pass(cpus: u32, mode: &[&str]) {
    let mut running = Stockade::new("run")
        .limit(Duration::from_secs(300))
        .args([
            "--kernel".as_ref(),
            package_file("memtest86+", "boot/memtest86+x64.bin").as_os_str(),
        ])
        .args([
            "--append",
            "console=ttyS0,115200 nopause",
            "--memory",
            "64M",
        ])
        .args(["--cpus", &cpus.to_string()])
        .args(mode)
        .start();
    let mut screen = running.expect("Memtest86+ v6.10");
    screen += &running.expect(LAST);
    if cpus > 1 {
        screen += &running.expect(ALL_CORES);
    }
    // The line that is drawn behind the name of a test has the count of errors.
    screen += &running.expect("Errors: 0");
    assert!(
        screen.contains(&format!("{cpus} Cores {cpus} Threads")),
        "{screen}"
    );
    assert!(!screen.contains("Unexpected interrupt"), "{screen}");
    let errors = screen
        .match_indices("Errors: ")
        .map(|(at, words)| &screen[at + words.len()..]);
    let clean = errors.clone().all(|rest| rest.starts_with('0'));
    assert!(clean && errors.count() > 1, "{screen}");
}

#[test]
fn memtest_passes_its_first_tests() {
    first_tests_pass(1, &[]);
}

#[test]
fn memtest_passes_its_first_tests_on_two_processors() {
    first_tests_pass(2, &[]);
}

#[test]
fn memtest_passes_its_first_tests_on_four_processors_with_x2apic() {
    first_tests_pass(4, &["--x2apic"]);
}
