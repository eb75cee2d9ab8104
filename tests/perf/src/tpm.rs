//! A TPM's commands as a guest's kernel gives them: below us, where the engine is a module at CPL-3, and directly in the same QEMU, whose TPM
//! is swtpm, a process of the host's. And what the guest's timers feel of a TPM that makes RSA keys.
//!
//! Both engines are libtpms. Ours is emulated with everything else, swtpm runs on the processor itself, beside QEMU: its time is in no
//! column but the latency.

mod way;

use std::fmt::Write;

use stockade_rig::Slot;
use stockade_rig::guest::findings;

use crate::disks::{exits_of_phase, total};
use way::{Ran, Way};

/// The commands, as the guest names them, and as the table does.
const COMMANDS: [(&str, &str); 5] = [
    ("GetRandom", "GetRandom, 32 bytes"),
    ("PCR_Extend", "PCR_Extend, SHA-256"),
    ("Quote", "Quote, ECDSA P-256"),
    ("Unseal", "Unseal, 32 bytes"),
    ("Create", "Create, RSA-2048"),
];

/// What the guest says of a command.
#[derive(Clone, Debug, PartialEq)]
struct Figures {
    times: f64,
    median_ms: f64,
    mean_ms: f64,
}

/// Measures and returns both tables.
pub(crate) fn table() -> String {
    let _alone = Slot::take_all();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runs = Way::ALL.map(|way| (way, way.time_commands(folder.path())));
    let mut text = String::from(
        "| command | way | median, ms | mean, ms | CPU ms of QEMU | exits | entries of VMPL0 |\n|---|---|---|---|---|---|---|\n",
    );
    for (index, (name, title)) in COMMANDS.iter().enumerate() {
        for (way, ran) in &runs {
            let figures = figures(&ran.console, name).expect("the guest says it");
            let cpu = ran
                .cpu
                .get(index)
                .map_or(0.0, std::time::Duration::as_secs_f64);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {title} | {} | {:.2} | {:.2} | {:.2} | {} |",
                way.words(),
                figures.median_ms,
                figures.mean_ms,
                cpu * 1000.0 / figures.times,
                exits(ran, index + 1, figures.times),
            );
        }
    }
    text.push('\n');
    text + &causes(&runs) + "\n" + &jitter(folder.path())
}

fn exits(ran: &Ran, phase: usize, times: f64) -> String {
    let exits = exits_of_phase(&ran.stats, phase);
    if exits.is_empty() {
        return "– | –".to_owned();
    }
    let [count, entries] = total(&exits);
    format!("{:.1} | {:.1}", count / times, entries / times)
}

/// Exits by cause, and entries of VMPL0 for them.
fn causes(runs: &[(Way, Ran)]) -> String {
    let names = COMMANDS.map(|(name, _)| name).join(" | ");
    let mut text =
        format!("| exits a command, entries of VMPL0 | {names} |\n|---|---|---|---|---|---|\n");
    let Some((_, ran)) = runs.iter().find(|(way, _)| *way == Way::Below) else {
        return text;
    };
    for cause in ["mmio", "hlt", "host", "wrmsr", "lapic-eoi"] {
        let each = COMMANDS.iter().enumerate().map(|(index, (name, _))| {
            let exits = exits_of_phase(&ran.stats, index + 1);
            let own = exits.into_iter().find(|exits| exits.cause == cause);
            let own = own.unwrap_or_default();
            let times = figures(&ran.console, name).map_or(1.0, |figures| figures.times);
            format!("{:.1}, {:.1}", own.count / times, own.entries / times)
        });
        let each: Vec<String> = each.collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {cause} | {} |", each.join(" | "));
    }
    text
}

/// `command NUMBER NAME TIMES MEDIAN MEAN`, times in microseconds.
fn figures(console: &str, name: &str) -> Option<Figures> {
    findings(console).into_iter().find_map(|line| {
        let mut words = line.strip_prefix("command ")?.split(' ');
        let is_it = words.nth(1)? == name;
        let mut number = || words.next()?.parse::<f64>().ok();
        let (times, median, mean) = (number()?, number()?, number()?);
        is_it.then_some(Figures {
            times,
            median_ms: median / 1000.0,
            mean_ms: mean / 1000.0,
        })
    })
}

/// cyclictest, alone and while the TPM makes keys.
fn jitter(folder: &std::path::Path) -> String {
    let mut text = String::from(
        "| cyclictest, 1 ms, priority 90 | way | wake-ups | average µs | latest µs |\n|---|---|---|---|---|\n",
    );
    for way in Way::ALL {
        let console = way.feel_timers(folder);
        for (name, title) in [("quiet", "TPM idle"), ("busy", "TPM makes RSA keys")] {
            let prefix = format!("{name} ");
            let said = findings(&console);
            let line = said.iter().find_map(|line| line.strip_prefix(&prefix));
            let line = line.expect("cyclictest ends with a line");
            let fields = ["C", "Avg", "Max"].map(|field| number(line, field).unwrap_or("?"));
            let [count, average, latest] = fields;
            let _ = writeln!(
                text,
                "| {title} | {} | {count} | {average} | {latest} |",
                way.words()
            );
        }
    }
    text
}

/// A field of a line such as `T: 0 (   91) P:90 I:1000 C:   2000 Min:     12 Act:   40 Avg:   45 Max:     310`.
fn number<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{field}:"))?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::{Figures, figures, number};

    #[test]
    fn figures_are_those_of_the_command_by_name() {
        let console = "guest-check: command 1 GetRandom 200 900 1100\r\nguest-check: command 5 Create 12 2000000 3000000\r\n";
        let expected = Figures {
            times: 200.0,
            median_ms: 0.9,
            mean_ms: 1.1,
        };
        assert_eq!(figures(console, "GetRandom"), Some(expected));
        assert_eq!(figures(console, "Quote"), None);
    }

    #[test]
    fn fields_of_cyclictest_are_behind_their_names() {
        let line =
            "T: 0 (   91) P:90 I:1000 C:   2000 Min:     12 Act:   40 Avg:   45 Max:     310";
        let found = ["C", "Avg", "Max"].map(|field| number(line, field));
        assert_eq!(found, [Some("2000"), Some("45"), Some("310")]);
    }
}
