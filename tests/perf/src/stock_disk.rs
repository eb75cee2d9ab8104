//! A stock Debian disk booted by stock firmware in the same QEMU, without us and with us: processor time of each phase up to the login.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use stockade_rig::firmware::{FirmwarePc, SecureBoot};
use stockade_rig::stock_disk::{KernelFlavour, PHASES, Session, StockDisk};
use stockade_rig::{Running, Slot};

use crate::boots::exits_by_kind;

/// Processor seconds up to the end of each phase, and to the power-off.
type Marks = Vec<f64>;

/// Boots the disk once on each and returns phases, ratios and exits.
pub(crate) fn table() -> String {
    let _alone = Slot::take_all();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = StockDisk::of(KernelFlavour::Cloud);
    let pc = |name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).expect("the folder is writable");
        let copy = disk.copy_to(&folder);
        FirmwarePc::new(&folder, SecureBoot::Off).disk(&copy)
    };
    let plain = boot(pc("plain").start_plainly(None));
    let stats = folder.path().join("stats.json");
    let ours = pc("ours").confidentially().arg("--stats").arg(&stats);
    let ours = boot(ours.with_slots_taken().start());
    let mut text = rows(&plain, &ours);
    if let Some(Value::Object(exits)) = figures(&stats).pointer("/paravisor/exits") {
        text += &exits_by_kind(exits);
    }
    text
}

fn boot(mut machine: Running) -> Marks {
    let mut marks = Vec::new();
    for phase in PHASES {
        machine.expect(phase.words);
        marks.push(machine.cpu().as_secs_f64());
    }
    Session::answer(&mut machine).leave("systemctl poweroff");
    machine.expect("reboot: Power down");
    marks.push(machine.cpu().as_secs_f64());
    machine.finish().assert_code(0);
    marks
}

fn figures(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the run wrote it");
    serde_json::from_str(&text).expect("it is JSON")
}

fn rows(plain: &[f64], ours: &[f64]) -> String {
    let mut text = String::from(
        "| stock Debian disk, CPU s | directly in QEMU TCG | confidentially, on the model | ratio |\n|---|---|---|---|\n",
    );
    let names = PHASES.iter().map(|phase| phase.name);
    let mut before = (0.0, 0.0);
    for (name, (plain, ours)) in names
        .chain(["login and power-off"])
        .zip(plain.iter().zip(ours))
    {
        write_row(&mut text, name, plain - before.0, ours - before.1);
        before = (*plain, *ours);
    }
    write_row(&mut text, "all", before.0, before.1);
    text.push('\n');
    text
}

fn write_row(text: &mut String, name: &str, plain: f64, ours: f64) {
    // Writing to a string cannot fail.
    let ratio = ours / plain.max(0.01);
    let _ = writeln!(text, "| {name} | {plain:.1} | {ours:.1} | {ratio:.2} |");
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn phases_are_what_lies_between_marks() {
        let text = rows(
            &[4.0, 6.0, 10.0, 20.0, 24.0],
            &[8.0, 10.0, 14.0, 34.0, 38.0],
        );
        assert!(text.contains("| GRUB | 2.0 | 2.0 | 1.00 |"), "{text}");
        assert!(text.contains("| userland | 10.0 | 20.0 | 2.00 |"), "{text}");
        assert!(text.contains("| all | 24.0 | 38.0 | 1.58 |"), "{text}");
    }
}
