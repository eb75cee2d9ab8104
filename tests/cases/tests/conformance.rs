//! The conformance guest under the paravisor: every check holds, but for those that the emulated processor alone decides.
//!
//! The guest says itself where plain QEMU is known to be wrong. Below the paravisor most of that is ours and must be right; what is left
//! is what QEMU's processor does without an exit. [`PROCESSOR`] names it, and a test fails when one of these starts to hold.

use std::collections::BTreeSet;

use stockade_guests::report::{Check, Report, Totals, Verdict};
use stockade_rig::conformance::{Clock, Start, on_plain_qemu, on_the_model};

/// The requirement; there are some hundred more.
const LEAST: usize = 150;
/// How many checks a run in real time may fail that are judged again in counted time.
const MISSED: usize = 4;
/// The guest's time is the number of its instructions, however busy this machine is.
const COUNTED: &str = "--icount";

/// Checks that TCG's processor fails beneath us, where no exit tells anybody, and why.
const PROCESSOR: &[(&str, &str)] = &[
    ("debug.general_detect", "DR7.GD is not looked at"),
    (
        "faults.reserved_bit_faults",
        "the error code of a reserved bit lacks P",
    ),
    (
        "msr.nx_bit_is_reserved_without_nxe",
        "the error code of a reserved bit lacks P",
    ),
    // An SNP processor has these in every VMSA, and no host or paravisor may intercept them (APM vol. 2, 15.34.10, 15.35.10).
    ("msr.sev_status_refuses", "SEV_STATUS is there"),
    ("msr.ghcb_msr_refuses", "the GHCB's MSR is there"),
    ("msr.efer_svme_is_refused", "EFER.SVME is set"),
    (
        "msr.segment_bases_refuse_non_canonical_addresses",
        "bases are not checked",
    ),
    (
        "msr.lstar_refuses_non_canonical_addresses",
        "LSTAR is not checked",
    ),
    ("control.cr0_refuses_nw_without_cd", "CR0 is not checked"),
    ("control.cr0_refuses_upper_bits", "CR0 is not checked"),
    ("legacy.real_mode_limit", "segment limits are not checked"),
];

/// Runs the guest and judges all but the list of failures.
fn run(start: Start, cpus: usize, words: &str, arguments: &[&str]) -> (Report, Totals) {
    let finished = on_the_model(start, cpus, words).args(arguments).finish();
    let report = Report::parse(&finished.stdout);
    let complete = report.check_complete();
    assert!(complete.is_ok(), "{complete:?}\n{}", finished.transcript());
    let totals = complete.unwrap_or_default();
    assert!(finished.stdout.contains(start.word()));
    assert_eq!(report.cpus, Some(cpus));
    let status = if totals.failed == 0 { 1 } else { 3 };
    finished.assert_code(status);
    (report, totals)
}

fn conforms(start: Start, cpus: usize, arguments: &[&str]) {
    let (report, totals) = run(start, cpus, "", arguments);
    let foreseen: BTreeSet<&str> = PROCESSOR.iter().map(|(name, _)| *name).collect();
    let wrong = |report: &Report| -> Vec<Check> {
        let failures = report.failures();
        let unforeseen = failures.filter(|check| !foreseen.contains(check.name.as_str()));
        unforeseen.cloned().collect()
    };
    let failed = wrong(&report);
    if !failed.is_empty() {
        assert!(!arguments.contains(&COUNTED), "{failed:#?}");
        // Processors that run at the same time do so in real time, and a busy machine takes them from a guest that watches a clock. A
        // clock that is wrong is wrong in counted time too, where nothing but the guest makes it go on.
        println!("judged again in counted time: {failed:#?}");
        assert!(failed.len() <= MISSED, "{failed:#?}");
        let counted = [arguments, &[COUNTED]].concat();
        let (report, _) = run(start, cpus, &only(&failed), &counted);
        let wrong = wrong(&report);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    for name in &foreseen {
        let holds = report
            .check(name)
            .is_some_and(|check| check.verdict == Verdict::Passed);
        assert!(!holds, "{name} holds now: it is to be taken off the list");
    }
    assert!(totals.passed >= LEAST, "{totals:?}");
}

#[test]
fn multiboot_with_one_cpu_conforms_to_the_instruction() {
    conforms(Start::Multiboot, 1, &[COUNTED]);
}

#[test]
fn multiboot_with_two_cpus_and_x2apic_conforms() {
    conforms(Start::Multiboot, 2, &["--x2apic"]);
}

#[test]
fn multiboot_with_four_cpus_conforms() {
    conforms(Start::Multiboot, 4, &[]);
}

#[test]
fn pvh_with_one_cpu_and_x2apic_conforms_to_the_instruction() {
    conforms(Start::Pvh, 1, &[COUNTED, "--x2apic"]);
}

#[test]
fn pvh_with_two_cpus_conforms() {
    conforms(Start::Pvh, 2, &[]);
}

#[test]
fn pvh_with_four_cpus_and_x2apic_conforms() {
    conforms(Start::Pvh, 4, &["--x2apic"]);
}

/// What a test kernel writes to the debug exit device becomes our exit code: `(value << 1) | 1`.
#[test]
fn the_value_at_the_debug_exit_device_is_the_exit_code() {
    let all_hold = on_the_model(Start::Pvh, 1, "test=apic.version").finish();
    all_hold
        .assert_code(1)
        .assert_says(&["ended with status 1"]);
    let one_fails = on_the_model(Start::Pvh, 1, "test=control.cr0_refuses").finish();
    one_fails
        .assert_code(3)
        .assert_says(&["ended with status 3"]);
}

/// Runs the guest on plain QEMU and returns its report and what it failed that it does not itself expect of QEMU.
fn on_qemu(words: &str, clock: Clock) -> (Report, Totals, Vec<Check>) {
    let (console, status) = on_plain_qemu(2, words, clock);
    let plain = Report::parse(&console);
    let complete = plain.check_complete();
    assert!(complete.is_ok(), "{complete:?}\n{console}");
    let totals = complete.unwrap_or_default();
    assert_eq!(status, Some(if totals.failed == 0 { 1 } else { 3 }));
    let unknown = plain.unexpected_under_qemu().cloned().collect();
    (plain, totals, unknown)
}

/// Prints where plain QEMU differs from the manual, and so from us; whatever it fails is known to be its fault.
#[test]
fn plain_qemu_fails_only_what_it_is_known_to_fail() {
    let (plain, totals, unknown) = on_qemu("", Clock::Real);
    println!("plain QEMU: {totals:?}");
    for check in plain.failures() {
        if let Verdict::Failed(how) = &check.verdict {
            let why = check.known_qemu.as_deref().unwrap_or("?");
            println!("| {} | {why} | {how} |", check.name);
        }
    }
    assert!(totals.passed >= LEAST, "{totals:?}");
    if unknown.is_empty() {
        return;
    }
    println!("judged again in counted time: {unknown:#?}");
    assert!(unknown.len() <= MISSED, "{unknown:#?}");
    let (_, _, wrong) = on_qemu(&only(&unknown), Clock::Counted);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The guest's words that have it make these checks and no others.
fn only(checks: &[Check]) -> String {
    let words: Vec<_> = checks
        .iter()
        .map(|check| format!("test={}", check.name))
        .collect();
    words.join(" ")
}
