//! A disk under the same `fio` in the same QEMU TCG: directly, below us plain and sealed, and what a guest can do for itself.
//!
//! Each [`Way`] is one boot that does all the [`WORK`], each between two marks: QEMU's processor time is read at both, and the model
//! sums up the exits between them. What `fio` costs to start is measured first and taken off. The file lies in memory where the machine has
//! such a place, so that no drive of the host's is measured; all ways have the same cache.

mod script;
mod way;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use stockade_rig::Slot;
use stockade_rig::guest::findings;

use script::WORK;
pub(crate) use way::Way;

/// What a piece of work cost, by the guest's number for it.
#[derive(Clone, Debug, Default)]
struct Figures {
    kib_per_second: f64,
    mean_latency_us: f64,
    cpu: Duration,
    /// Exits of the guest by cause, if anybody counts them.
    exits: Vec<Exits>,
}

/// Exits of one cause.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exits {
    pub(crate) cause: String,
    pub(crate) count: f64,
    /// Entries of VMPL0 for them.
    pub(crate) entries: f64,
}

/// What a run left.
struct Ran {
    /// Processor time between the marks, by the number of the work.
    cpu: Vec<Duration>,
    console: String,
    stats: Value,
}

/// Measures and returns the table.
pub(crate) fn table(ways: &[Way]) -> String {
    let _alone = Slot::take_all();
    let folder = folder();
    let runs: Vec<(Way, Vec<Figures>)> = ways
        .iter()
        .map(|way| (*way, all(&way.run(folder.path()))))
        .collect();
    let mut text = String::from(
        "| work | way | MiB/s | mean latency, ms | CPU ms a request | exits | entries of VMPL0 |\n|---|---|---|---|---|---|---|\n",
    );
    for (index, work) in WORK.iter().enumerate().skip(1) {
        for (way, figures) in &runs {
            let requests = count(work.requests(way.effort()));
            let (Some(start), Some(own)) = (figures.first(), figures.get(index)) else {
                continue;
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.2} | {:.3} | {} |",
                work.title,
                way.words(),
                own.kib_per_second / 1024.0,
                own.mean_latency_us / 1000.0,
                own.cpu.saturating_sub(start.cpu).as_secs_f64() * 1000.0 / requests,
                exits(own, start, requests),
            );
        }
    }
    text.push('\n');
    text + &causes(&runs)
}

fn exits(own: &Figures, start: &Figures, requests: f64) -> String {
    if own.exits.is_empty() {
        return "– | –".to_owned();
    }
    let (own, start) = (total(&own.exits), total(&start.exits));
    let each = |index: usize| (own[index] - start[index]) / requests;
    format!("{:.2} | {:.2}", each(0), each(1))
}

/// Returns exits, and entries of VMPL0 for them, of all causes.
pub(crate) fn total(exits: &[Exits]) -> [f64; 2] {
    exits.iter().fold([0.0; 2], |[count, entries], exits| {
        [count + exits.count, entries + exits.entries]
    })
}

/// Exits of each cause a request.
fn causes(runs: &[(Way, Vec<Figures>)]) -> String {
    let mut text = String::from(
        "| work | way | cause | exits a request | entries of VMPL0 |\n|---|---|---|---|---|\n",
    );
    for (way, figures) in runs {
        for (work, own) in WORK.iter().zip(figures).skip(1) {
            let requests = count(work.requests(way.effort()));
            for exits in &own.exits {
                let start = figures.first().into_iter().flat_map(|start| &start.exits);
                let mut start = start.filter(|start| start.cause == exits.cause);
                let start = start.next().cloned().unwrap_or_default();
                let each = (exits.count - start.count) / requests;
                if each < 0.01 {
                    continue;
                }
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {each:.2} | {:.2} |",
                    work.title,
                    way.words(),
                    exits.cause,
                    (exits.entries - start.entries) / requests
                );
            }
        }
    }
    text
}

/// Where files are written to memory, if there is such a place.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a temporary folder")
}

fn all(ran: &Ran) -> Vec<Figures> {
    let said = findings(&ran.console);
    let number = |name: &str, index: usize| -> f64 {
        let prefix = format!("{name} {index} ");
        said.iter()
            .find_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
            .expect("the guest says it once fio has run")
    };
    let figures = ran.cpu.iter().enumerate().map(|(index, cpu)| Figures {
        kib_per_second: number("bandwidth-kib", index),
        mean_latency_us: number("latency-us", index),
        cpu: *cpu,
        exits: exits_of_phase(&ran.stats, index + 1),
    });
    figures.collect()
}

pub(crate) fn exits_of_phase(stats: &Value, phase: usize) -> Vec<Exits> {
    let rows = stats.pointer(&format!("/model/vmpl0_work/phases/{phase}"));
    let rows = rows.and_then(Value::as_object).into_iter().flatten();
    let exits = rows.filter_map(|(cause, row)| {
        let number = |name: &str| row.get(name)?.as_u64().map(count);
        Some(Exits {
            cause: cause.clone(),
            count: number("exits")?,
            entries: number("entries")?,
        })
    });
    exits.collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::exits_of_phase;
    use serde_json::json;

    #[test]
    fn a_phase_has_a_row_for_each_cause() {
        let stats = json!({"model": {"vmpl0_work": {"around": 3, "phases": {"2": {
            "phase": 2,
            "mmio": {"exits": 5, "ticks": 9, "entries": 7},
        }}}}});
        let exits = exits_of_phase(&stats, 2);
        assert_eq!(exits.len(), 1);
        assert_eq!(exits[0].cause, "mmio");
        assert!((exits[0].entries - 7.0).abs() < 1e-9);
        assert!(exits_of_phase(&stats, 1).is_empty());
    }
}
