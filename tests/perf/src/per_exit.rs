//! Instructions retired at VMPL0 for each kind of exit, counted by `-icount` and added up by the model.

use std::fmt::Write;

use serde_json::Value;
use stockade_perf::bench::TICKS_PER_INSTRUCTION;
use stockade_rig::Stockade;

/// Rows of the table by the model's names for them.
const ROWS: [(&str, &str); 10] = [
    ("cpuid", "CPUID"),
    ("rdmsr", "RDMSR"),
    ("wrmsr", "WRMSR"),
    ("out-com1", "OUT to COM1"),
    ("port", "other ports"),
    ("lapic-eoi", "local APIC EOI"),
    ("mmio", "other MMIO"),
    ("hlt", "HLT"),
    ("host", "interrupt of the host"),
    ("other", "other"),
];

/// Boots once, counting, and returns means.
pub(crate) fn table() -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stats = folder.path().join("stats.json");
    Stockade::guest("stockade.mode=check")
        .arg("--icount")
        .arg("--stats")
        .arg(&stats)
        .finish()
        .assert_code(0);
    let text = std::fs::read_to_string(&stats).expect("the run wrote it");
    let figures: Value = serde_json::from_str(&text).expect("it is JSON");
    let work = figures
        .pointer("/model/vmpl0_work")
        .expect("the model adds up VMPL0's work");
    format(work)
}

fn format(work: &Value) -> String {
    let number = |row: &Value, name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
    let around = number(work, "around");
    let mut text = String::from(
        "| exit | count | instructions at VMPL0 | entries of VMPL0 |\n|---|---|---|---|\n",
    );
    for (name, title) in ROWS {
        let Some(row) = work.get(name) else {
            continue;
        };
        let exits = number(row, "exits").max(1);
        let instructions = number(row, "ticks") / TICKS_PER_INSTRUCTION;
        let entries = number(row, "entries");
        let own = instructions.saturating_sub(entries * around);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {title} | {exits} | {} | {}.{} |",
            own / exits,
            entries / exits,
            entries * 10 / exits % 10,
        );
    }
    text += "\nMeans over a boot.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::format;
    use serde_json::json;

    #[test]
    fn ticks_become_instructions_without_those_of_the_model() {
        let work = json!({"around": 10, "cpuid": {"exits": 2, "ticks": 480, "entries": 3}});
        assert!(format(&work).contains("| CPUID | 2 | 105 | 1.5 |"));
    }
}
