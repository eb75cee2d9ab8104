//! What single operations cost, here and on KVM, by a guest that does each many times.

use std::fmt::Write;

use stockade_perf::bench::{Observed, OnTheModel};

use crate::nested;

/// Rows by the guest's names.
const ROWS: [(&str, &str); 14] = [
    ("xapic-eoi", "EOI, xAPIC"),
    ("x2apic-eoi", "EOI, x2APIC"),
    ("xapic-icr-self", "ICR to itself, xAPIC"),
    ("x2apic-icr-self", "ICR to itself, x2APIC"),
    ("xapic-icr-other", "ICR to a running vCPU, xAPIC"),
    ("x2apic-icr-other", "ICR to a running vCPU, x2APIC"),
    ("xapic-timer-count", "TMICT, xAPIC"),
    ("x2apic-timer-count", "TMICT, x2APIC"),
    ("tsc-deadline", "TSC deadline"),
    ("timer-interrupt", "timer interrupt delivered"),
    ("hlt-wake", "HLT and the timer that ends it"),
    ("pm-timer", "PM timer read"),
    ("cpuid", "CPUID"),
    ("nothing", "nothing"),
];

/// Runs the guest on the model and returns what VMPL0 did.
pub(crate) fn table() -> String {
    let run = OnTheModel::run(2);
    let mut text =
        String::from("| operation | instructions at VMPL0 | entries of VMPL0 |\n|---|---|---|\n");
    for (name, title) in ROWS {
        let Some(spent) = run.spent(name) else {
            continue;
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {title} | {} | {}.{:02} |",
            spent.instructions,
            spent.entries_percent / 100,
            spent.entries_percent % 100
        );
    }
    text
}

/// Runs the guest on the model and on KVM, and compares what it saw. Both run on one processor, but for what goes from one vCPU of the
/// model to another.
pub(crate) fn comparison() -> String {
    let (alone, two) = (OnTheModel::run(1), OnTheModel::run(2));
    let theirs = nested::run();
    let mut text = String::from(
        "| operation | on KVM | on the model | ratio | of it at VMPL0 | ratio |\n|---|---|---|---|---|---|\n",
    );
    for (name, title) in ROWS {
        let ours = match find(&alone.observed, name) {
            Some(_) => &alone,
            None => &two,
        };
        let (Some(here), Some(there)) = (find(&ours.observed, name), find(&theirs, name)) else {
            continue;
        };
        let own = ours.spent(name).unwrap_or_default().instructions;
        let _ = writeln!(
            text,
            "| {title} | {there} | {here} | {} | {own} | {} |",
            ratio(here, there),
            ratio(own, there)
        );
    }
    text
}

fn find(rows: &[Observed], name: &str) -> Option<u64> {
    let row = rows.iter().find(|row| row.name == name)?;
    Some(row.instructions)
}

fn ratio(ours: u64, theirs: u64) -> String {
    let percent = ours * 100 / theirs.max(1);
    format!("{}.{:02}", percent / 100, percent % 100)
}

#[cfg(test)]
mod tests {
    use super::ratio;

    #[test]
    fn a_ratio_has_two_places() {
        assert_eq!(ratio(205, 100), "2.05");
        assert_eq!(ratio(1, 0), "1.00");
    }
}
