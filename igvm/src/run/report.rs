//! What is known of a run when it is over.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::command::Paths;
use super::outcome::Outcome;
use super::{Ended, RunError, symbols};
use crate::output;

/// The end of a run and its figures.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The paravisor's own figures (`stockade-stats`), empty when it never said them.
    pub paravisor: Value,
    /// The model's figures (`model-stats`).
    pub model: Value,
    /// From QEMU's start to its end.
    pub wall: Duration,
    /// User and system time of QEMU.
    pub cpu: Duration,
    /// Everything the paravisor logged.
    pub paravisor_log: String,
    /// Everything the model logged.
    pub model_log: String,
    /// A panic's backtrace with names.
    pub backtrace: Vec<String>,
    /// Whether there is no host's view, though one was asked for.
    pub lacks_view: bool,
}

impl Report {
    pub(super) fn collect(ended: Ended, paths: &Paths, wall: Duration) -> Result<Self, RunError> {
        let read = |path: &Path| {
            let bytes = fs::read(path).map_err(RunError::io(path))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (paravisor_log, model_log) = (read(&paths.paravisor_log)?, read(&paths.model_log)?);
        Ok(Self {
            outcome: Outcome::classify(ended, &model_log, &read(&paths.qemu_log)?)
                .with_status(&paravisor_log),
            paravisor: last_json(&paravisor_log, "stockade-stats: "),
            model: last_json(&model_log, "model-stats: "),
            wall,
            cpu: Duration::ZERO,
            paravisor_log,
            model_log,
            backtrace: Vec::new(),
            lacks_view: false,
        })
    }

    pub(super) fn symbolise(&mut self, elf: Option<&Path>) {
        self.backtrace = symbols::backtrace(&self.paravisor_log, elf);
    }

    /// Returns everything as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "outcome": self.outcome.words(),
            "exit_code": self.outcome.exit_code(),
            "wall_seconds": self.wall.as_secs_f64(),
            "cpu_seconds": self.cpu.as_secs_f64(),
            "paravisor": self.paravisor,
            "model": self.model,
        })
    }

    pub(super) fn write_json(&self, path: &Path) -> Result<(), RunError> {
        let mut text = format!("{:#}", self.to_json());
        text.push('\n');
        output::write(path, text.as_bytes()).map_err(RunError::io(path))
    }

    /// Returns the summary for a person, a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<22} {value}");
        };
        let get = |value: &Value, name: &str| match value.get(name) {
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
            None => "unknown".to_owned(),
        };
        line("ended", self.outcome.words());
        line("launch digest", get(&self.model, "launch_digest"));
        line("VMPLs", get(&self.model, "vmpls"));
        if let Some(Value::Object(exits)) = self.paravisor.get("exits") {
            line(
                "guest exits",
                format!("{} ({})", total(exits), by_kind(exits)),
            );
        }
        line(
            "guest memory in clear",
            format!(
                "{} bytes readable by the host",
                get(&self.model, "ram_host_readable_bytes")
            ),
        );
        line(
            "time",
            format!(
                "{:.1} s, {:.1} s of CPU",
                self.wall.as_secs_f64(),
                self.cpu.as_secs_f64()
            ),
        );
        if self.lacks_view {
            let words = "not written: the model did not reach its end";
            line("host's view", words.to_owned());
        }
        for frame in &self.backtrace {
            line("backtrace", frame.clone());
        }
        text
    }
}

fn total(exits: &Map<String, Value>) -> u64 {
    exits.values().filter_map(Value::as_u64).sum()
}

/// The kinds that happened, most frequent first.
fn by_kind(exits: &Map<String, Value>) -> String {
    let mut kinds: Vec<(&String, u64)> = exits
        .iter()
        .filter_map(|(kind, count)| Some((kind, count.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let words: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    words.join(", ")
}

pub(super) fn last_json(log: &str, prefix: &str) -> Value {
    let line = log.lines().rfind(|line| line.starts_with(prefix));
    line.and_then(|line| serde_json::from_str(&line[prefix.len()..]).ok())
        .unwrap_or(Value::Null)
}

/// CPU time of all children waited for so far.
pub(super) fn children_cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};

    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Duration::ZERO;
    };
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0))
            + Duration::from_micros(micros)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::{by_kind, last_json};
    use serde_json::{Value, json};

    #[test]
    fn the_last_figures_count() {
        let log = "a\nmodel-stats: {\"x\":1}\nb\nmodel-stats: {\"x\":2}\n";
        assert_eq!(last_json(log, "model-stats: "), json!({"x": 2}));
        assert_eq!(last_json("nothing", "model-stats: "), Value::Null);
    }

    #[test]
    fn kinds_are_listed_by_frequency_without_zeros() {
        let Value::Object(exits) = json!({"cpuid": 3, "npf": 10, "hlt": 0}) else {
            unreachable!()
        };
        assert_eq!(by_kind(&exits), "npf 10, cpuid 3");
    }
}
