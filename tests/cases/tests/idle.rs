//! What a guest costs that has nothing to do, by the difference of two runs that differ in nothing but how long they idle.
//!
//! Exits are counted under `--icount`, where the guest's time does not depend on how busy this machine is; what idling takes of
//! this machine's processors is measured in real time, at a prompt.

use std::time::Duration;

use serde_json::Value;
use stockade_cases::figures;
use stockade_rig::{Initrd, Slot, Stockade};

/// How long the two runs idle. The kernel has things to do in the first seconds.
const SHORT_S: u64 = 5;
const LONG_S: u64 = 25;
const DIFFERENCE_S: f64 = (LONG_S - SHORT_S) as f64;
/// Exits a second and vCPU an idle guest may take.
const MOST_EXITS: f64 = 50.0;
/// Processor seconds of QEMU a second of the guest's idling.
const MOST_CPU: f64 = 0.15;

/// Runs a guest that does nothing for so long by its own clock.
fn sleep(seconds: u64, cpus: usize, mode: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    let initrd = Initrd::new(&format!("sleep {seconds}"));
    Stockade::guest("")
        .arg("--icount")
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--stats")
        .arg(&stats)
        .args(["--cpus", &cpus.to_string()])
        .args(mode)
        .finish()
        .assert_code(0);
    figures(&stats)
}

/// Leaves a guest at the prompt of its shell for so long, then has it power off.
fn wait_at_the_prompt(seconds: u64, cpus: usize) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    let mut running = Stockade::guest("stockade.mode=shell")
        .with_slots_taken()
        .arg("--stats")
        .arg(&stats)
        .args(["--cpus", &cpus.to_string()])
        .start();
    running.expect("a shell in the confidential guest");
    running.expect("#");
    std::thread::sleep(Duration::from_secs(seconds));
    running.send_line("poweroff -f");
    running.finish().assert_code(0);
    figures(&stats)
}

/// Exits that the guest caused, and the host's own.
fn exits(figures: &Value) -> f64 {
    let kinds = figures
        .pointer("/paravisor/exits")
        .and_then(Value::as_object);
    let counts = kinds.expect("the figures have exits").values();
    counts.filter_map(Value::as_f64).sum()
}

fn exits_are_few(cpus: usize, mode: &[&str]) {
    let (short, long) = (sleep(SHORT_S, cpus, mode), sleep(LONG_S, cpus, mode));
    let exits = (exits(&long) - exits(&short)) / DIFFERENCE_S / cpus as f64;
    println!("idle, {cpus} vCPUs {mode:?}: {exits:.1} exits a second and vCPU");
    // A guest that never slept would show a difference of nothing.
    assert!(
        (0.5..MOST_EXITS).contains(&exits),
        "{exits} exits a second and vCPU: {long:#}"
    );
}

#[test]
fn an_idle_guest_exits_seldom() {
    exits_are_few(1, &[]);
}

#[test]
fn an_idle_guest_exits_seldom_in_x2apic_mode() {
    exits_are_few(1, &["--x2apic"]);
}

#[test]
fn four_idle_vcpus_exit_seldom() {
    exits_are_few(4, &["--x2apic"]);
}

#[test]
fn a_guest_at_its_prompt_leaves_the_processors_alone() {
    const CPUS: usize = 1;
    let _alone = Slot::take_all();
    let seconds = |figures: &Value| figures.pointer("/cpu_seconds").and_then(Value::as_f64);
    let (short, long) = (
        wait_at_the_prompt(SHORT_S, CPUS),
        wait_at_the_prompt(LONG_S, CPUS),
    );
    let exits = (exits(&long) - exits(&short)) / DIFFERENCE_S / CPUS as f64;
    let (short, long) = (seconds(&short), seconds(&long));
    let share = (long.expect("a figure") - short.expect("a figure")) / DIFFERENCE_S;
    println!(
        "idle, {CPUS} vCPUs at a prompt: {exits:.1} exits a second and vCPU, {share:.3} processor seconds a second"
    );
    assert!(exits < MOST_EXITS, "{exits} exits a second and vCPU");
    assert!(share < MOST_CPU, "{share} processor seconds a second");
}
