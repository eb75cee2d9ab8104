//! A disk under the same `fio` in the same QEMU TCG: directly, below us plain and sealed, and what a guest can do for itself.
//!
//! Each [`Way`] is one boot that does all the [`WORK`]. Two marks lie in the middle of each, when `fio` has long begun: clock and QEMU's
//! processor time are read at both, the guest counts what its disk carried between them, the model the exits. So nothing has to be
//! taken off for `fio`'s own start. The file lies in memory where the machine has such a place, so that no drive of the host's is
//! measured; all ways have the same cache.

mod script;
mod way;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use stockade_rig::Slot;
use stockade_rig::guest::findings;

use script::{WORK, Work};
pub(crate) use way::Way;

/// What a piece of work cost, by the guest's number for it.
#[derive(Clone, Debug, Default)]
struct Figures {
    window: Window,
    /// Requests between the marks.
    requests: f64,
    mib: f64,
    mean_latency_us: f64,
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

/// What passed between the marks.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    wall: Duration,
    cpu: Duration,
}

/// What a run left.
struct Ran {
    /// By the number of the work.
    windows: Vec<Window>,
    console: String,
    stats: Value,
}

/// Measures and returns the table.
pub(crate) fn table(ways: &[Way]) -> String {
    let _alone = Slot::take_all();
    let folder = folder();
    let runs: Vec<(Way, Vec<Figures>)> = ways
        .iter()
        .map(|way| (*way, all(&way.run(folder.path(), &WORK), &WORK)))
        .collect();
    let mut text = String::from(
        "| work | way | MiB/s | mean latency, ms | CPU ms a request | exits | entries of VMPL0 |\n|---|---|---|---|---|---|---|\n",
    );
    for (index, work) in WORK.iter().enumerate() {
        for (way, figures) in &runs {
            let Some(own) = figures.get(index) else {
                continue;
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.2} | {:.3} | {} |",
                work.title,
                way.words(),
                own.mib / own.window.wall.as_secs_f64(),
                own.mean_latency_us / 1000.0,
                own.window.cpu.as_secs_f64() * 1000.0 / own.requests,
                exits(own),
            );
        }
    }
    text.push('\n');
    text + &causes(&runs)
}

fn exits(own: &Figures) -> String {
    if own.exits.is_empty() {
        return "– | –".to_owned();
    }
    let [exits, entries] = total(&own.exits).map(|count| count / own.requests);
    format!("{exits:.2} | {entries:.2}")
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
        for (work, own) in WORK.iter().zip(figures) {
            for exits in &own.exits {
                let [each, entries] = [exits.count, exits.entries].map(|it| it / own.requests);
                if each < 0.01 {
                    continue;
                }
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {each:.2} | {entries:.2} |",
                    work.title,
                    way.words(),
                    exits.cause,
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

fn all(ran: &Ran, works: &[Work]) -> Vec<Figures> {
    let said = findings(&ran.console);
    let number = |name: &str, index: usize| -> f64 {
        let prefix = format!("{name} {index} ");
        said.iter()
            .find_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
            .expect("the guest says it once fio has run")
    };
    let is_late = said.iter().any(|line| line.starts_with("too late"));
    assert!(!is_late, "fio ended before the last mark");
    let windows = ran.windows.iter().zip(works).enumerate();
    let figures = windows.map(|(index, (window, work))| {
        let sectors = number("sectors", index);
        Figures {
            window: *window,
            requests: sectors / count(work.sectors()),
            mib: sectors / 2048.0,
            mean_latency_us: number("latency-us", index),
            exits: exits_of_phase(&ran.stats, index + 1),
        }
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
    use super::script::WORK;
    use super::{Way, all, exits_of_phase, folder, total};
    use serde_json::json;
    use stockade_rig::Slot;

    /// What the design asks of a plain disk: exits of the guest a request of 128 KiB, its tick included.
    const MOST_EXITS: f64 = 4.0;

    /// The first two kinds of work are of 128 KiB.
    #[test]
    fn a_plain_disk_takes_no_more_exits_than_the_design_allows() {
        let _alone = Slot::take_all();
        let folder = folder();
        let works = &WORK[..2];
        let figures = all(&Way::Plain.run(folder.path(), works), works);
        assert_eq!(figures.len(), works.len());
        for (work, own) in works.iter().zip(figures) {
            let [exits, entries] = total(&own.exits).map(|count| count / own.requests);
            assert!(own.requests > 100.0 && exits > 0.0, "{}", work.title);
            assert!(
                exits <= MOST_EXITS,
                "{}: {exits:.2} exits, {entries:.2} entries of VMPL0 a request",
                work.title
            );
        }
    }

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
