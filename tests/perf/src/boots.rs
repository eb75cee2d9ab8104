//! The same kernel and initramfs booted in the same QEMU, by turns without us and with us.

use std::fmt::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::{Map, Value};
use stockade_rig::guest::findings;
use stockade_rig::{Slot, Stockade, command_line, workshop};

/// Guest memory of both.
const MEMORY: &str = "256M";
/// The processor of both: the model needs the last two features, the kernel does not use them.
pub(crate) const PROCESSOR: &str = "EPYC-Milan,+la57,phys-bits=52";
const CHECK: &str = "stockade.mode=check";

/// What a boot cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu: f64,
    pub(crate) wall: f64,
}

/// Boots by turns and returns medians, ratio and exits.
pub(crate) fn table(rounds: u32) -> String {
    let _alone = Slot::take_all();
    let (mut direct, mut ours) = (Vec::new(), Vec::new());
    let mut figures = Value::Null;
    for _ in 0..rounds {
        direct.push(boot_directly());
        let (cost, last) = boot_confidentially();
        ours.push(cost);
        figures = last;
    }
    let (direct, ours) = (median(&direct), median(&ours));
    let mut text = format!(
        "| boot to self-check and power-off, {MEMORY} | CPU s | wall s |\n|---|---|---|\n\
         | directly in QEMU TCG | {:.2} | {:.2} |\n\
         | confidentially, on the model in the same QEMU | {:.2} | {:.2} |\n\
         | ratio | {:.2} | {:.2} |\n\n\
         Medians of {rounds}, by turns.\n\n",
        direct.cpu,
        direct.wall,
        ours.cpu,
        ours.wall,
        ours.cpu / direct.cpu,
        ours.wall / direct.wall
    );
    if let Some(Value::Object(exits)) = figures.pointer("/paravisor/exits") {
        text += &exits_by_kind(exits);
    }
    text
}

/// The kernel as on any QEMU, without anything of ours.
fn boot_directly() -> Cost {
    measure(|| {
        let output = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-machine", "q35", "-accel", "tcg"])
            .args(["-cpu", PROCESSOR, "-m", MEMORY, "-serial", "stdio"])
            .arg("-kernel")
            .arg(&workshop().kernel)
            .arg("-initrd")
            .arg(&workshop().initramfs)
            .args(["-append", &command_line(CHECK)])
            .stdin(Stdio::null())
            .output()
            .expect("QEMU is there, for the rig has run it");
        let console = String::from_utf8_lossy(&output.stdout);
        assert_eq!(findings(&console).last(), Some(&"done"), "{console}");
    })
}

/// What the user types, less the building of programs: an image made before, and QEMU's own CPU time.
fn boot_confidentially() -> (Cost, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    Stockade::new("run")
        .args(["--memory", MEMORY, "--append", "panic=-1", "--stats"])
        .arg(&stats)
        .with_slots_taken()
        .finish()
        .assert_code(0);
    let text = std::fs::read_to_string(&stats).expect("the run wrote it");
    let figures: Value = serde_json::from_str(&text).expect("it is JSON");
    let seconds = |name: &str| figures.get(name).and_then(Value::as_f64);
    let cost = Cost {
        cpu: seconds("cpu_seconds").expect("a run says its CPU time"),
        wall: seconds("wall_seconds").expect("a run says its time"),
    };
    (cost, figures)
}

pub(crate) fn measure(run: impl FnOnce()) -> Cost {
    let (before, begun) = (children(), Instant::now());
    run();
    Cost {
        cpu: (children() - before).as_secs_f64(),
        wall: begun.elapsed().as_secs_f64(),
    }
}

/// User and system time of all children that have ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system accounts for children");
    let duration = |time: TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

fn median(costs: &[Cost]) -> Cost {
    let middle = |pick: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost {
        cpu: middle(|cost| cost.cpu),
        wall: middle(|cost| cost.wall),
    }
}

pub(crate) fn exits_by_kind(exits: &Map<String, Value>) -> String {
    let mut kinds: Vec<(&str, u64)> = exits
        .iter()
        .filter_map(|(kind, count)| Some((kind.as_str(), count.as_u64()?)))
        .collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = String::from("| exits of the guest | count |\n|---|---|\n");
    for (kind, count) in &kinds {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {kind} | {count} |");
    }
    let all: u64 = kinds.iter().map(|(_, count)| count).sum();
    let _ = writeln!(text, "| all | {all} |");
    text
}

#[cfg(test)]
mod tests {
    use super::{Cost, median};

    #[test]
    fn the_median_is_of_each_column_by_itself() {
        let cost = |cpu, wall| Cost { cpu, wall };
        let middle = median(&[cost(3.0, 1.0), cost(1.0, 2.0), cost(2.0, 9.0)]);
        assert!((middle.cpu - 2.0).abs() < 1e-9 && (middle.wall - 2.0).abs() < 1e-9);
    }
}
