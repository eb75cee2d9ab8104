//! The bench guest: what it says of itself, and what the model counts meanwhile.
//!
//! All runs use `--icount`, so that the time-stamp counter counts instructions and every figure repeats to the digit.

use serde_json::Value;
use stockade::setup::{Cache, Program, build_program};
use stockade_rig::Stockade;

/// `-icount shift=1`: each instruction takes two virtual nanoseconds, and the counter runs at 1 GHz.
pub const TICKS_PER_INSTRUCTION: u64 = 2;
/// What the guest ends with: 0 to isa-debug-exit.
const PASSED: i32 = 1;
/// The operation that is none: what reading the counter costs.
const NOTHING: &str = "nothing";

/// What the guest says of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The phase the model knows it by.
    pub phase: u64,
    /// Its name.
    pub name: String,
    /// The instructions one took from before it to behind it, by the median.
    pub instructions: u64,
}

/// What VMPL0 did for one operation, on the average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many there were.
    pub exits: u64,
    /// Instructions of VMPL0.
    pub instructions: u64,
    /// Hundredths of entries of VMPL0: 100 if it answered without asking the host for anything.
    pub entries_percent: u64,
}

/// A run on the model.
#[derive(Clone, Debug)]
pub struct OnTheModel {
    /// What the guest saw.
    pub observed: Vec<Observed>,
    work: Value,
}

impl OnTheModel {
    /// Runs the guest on this many vCPUs.
    ///
    /// # Panics
    /// If it does not run to its end.
    #[must_use]
    pub fn run(cpus: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stats = folder.path().join("stats.json");
        let finished = Stockade::new("run")
            .args(["--icount", "--test-devices", "--x2apic", "--memory", "64M"])
            .arg("--cpus")
            .arg(cpus.to_string())
            .arg("--kernel")
            .arg(guest())
            .arg("--append")
            .arg(words(cpus))
            .arg("--stats")
            .arg(&stats)
            .limit(std::time::Duration::from_secs(600))
            .finish();
        finished.assert_code(PASSED);
        let text = std::fs::read_to_string(&stats).expect("the run wrote it");
        let figures: Value = serde_json::from_str(&text).expect("it is JSON");
        let work = figures.pointer("/model/vmpl0_work");
        Self {
            observed: parse(&finished.stdout),
            work: work.expect("the model adds up VMPL0's work").clone(),
        }
    }

    /// Returns what VMPL0 did for an operation, if it was done.
    #[must_use]
    pub fn spent(&self, name: &str) -> Option<Spent> {
        let phase = self.observed.iter().find(|row| row.name == name)?.phase;
        let row = self
            .work
            .pointer(&format!("/phases/{phase}/{}", cause(name)))?;
        Some(Spent::of(row, number(&self.work, "around")))
    }
}

impl Spent {
    fn of(row: &Value, around: u64) -> Self {
        let exits = number(row, "exits").max(1);
        let entries = number(row, "entries");
        let instructions = number(row, "ticks") / TICKS_PER_INSTRUCTION - around * entries;
        Self {
            exits,
            instructions: instructions.div_ceil(exits),
            entries_percent: entries * 100 / exits,
        }
    }
}

fn number(object: &Value, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// The exit that is the operation's own, by the model's name for it.
fn cause(name: &str) -> &'static str {
    match name {
        "cpuid" => "cpuid",
        "pm-timer" => "port",
        "timer-interrupt" => "host",
        "hlt-wake" => "hlt",
        "xapic-eoi" | "x2apic-eoi" => "lapic-eoi",
        _ if name.starts_with("xapic-") => "mmio",
        _ => "wrmsr",
    }
}

/// Returns the guest's ELF file.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn guest() -> std::path::PathBuf {
    let cache = Cache::open().expect("the workspace is where this was built");
    build_program(&cache, Program::Guests).expect("the guest builds")
}

/// Returns the guest's command line.
#[must_use]
pub fn words(cpus: usize) -> String {
    format!("bench cpus={cpus}")
}

/// Reads what the guest says; what reading the counter costs is taken off.
#[must_use]
pub fn parse(console: &str) -> Vec<Observed> {
    let rows: Vec<Observed> = console.lines().filter_map(row).collect();
    let nothing = rows.iter().find(|row| row.name == NOTHING);
    let nothing = nothing.map_or(0, |row| row.instructions);
    let less_nothing = |row: &Observed| Observed {
        instructions: row.instructions.saturating_sub(nothing),
        ..row.clone()
    };
    let others = rows.iter().filter(|row| row.name != NOTHING);
    others.map(less_nothing).collect()
}

/// `bench NUMBER NAME TIMES MEDIAN LEAST MEAN`
fn row(line: &str) -> Option<Observed> {
    let mut words = line.trim().strip_prefix("bench ")?.split(' ');
    let phase = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    let median: u64 = words.nth(1)?.parse().ok()?;
    Some(Observed {
        phase,
        name,
        instructions: median / TICKS_PER_INSTRUCTION,
    })
}

#[cfg(test)]
mod tests {
    use super::{Spent, parse};
    use serde_json::json;

    #[test]
    fn median_of_an_operation_is_less_the_empty_one() {
        let console =
            "SeaBIOS\r\nbench 1 nothing 8 10 8 9\r\nbench 2 cpuid 8 410 400 500\r\ndone: bench\r\n";
        let rows = parse(console);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].phase, rows[0].instructions), (2, 200));
        assert_eq!(rows[0].name, "cpuid");
    }

    #[test]
    fn instructions_of_the_model_are_taken_off_for_each_entry() {
        let row = json!({"exits": 4, "ticks": 900, "entries": 5});
        let spent = Spent {
            exits: 4,
            instructions: 100,
            entries_percent: 125,
        };
        assert_eq!(Spent::of(&row, 10), spent);
    }
}
