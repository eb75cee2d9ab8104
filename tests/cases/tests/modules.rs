//! Modules of the paravisor: two that work, and two dozen that do not, beside a guest that must not notice.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_cases::{figures, number, static_c_program, static_program};
use stockade_rig::guest::findings;
use stockade_rig::{Finished, Initrd, Stockade, appended, host_view};

const LIMIT: Duration = Duration::from_secs(300);
/// Written all over the guest's memory, and still there at the end.
const SCRIPT: &str = r#"
dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null
before=$(md5sum </tmp/noise)
ASK
i=0; while [ $i -lt 40 ]; do i=$((i + 1)); usleep 50000; done
[ "$before" = "$(md5sum </tmp/noise)" ] && say "memory kept" || say "memory changed"
dmesg | grep -qE "BUG:|Oops|soft lockup|rcu.*stall" && say "kernel complains"
"#;

/// The example of the documentation, compiled from there.
fn example(folder: &Path) -> PathBuf {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/modules.md");
    let text = fs::read_to_string(document).unwrap();
    let (_, code) = text.split_once("```rust\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let source = folder.join("echo.rs");
    fs::write(&source, code).unwrap();
    static_program(&source, folder, "echo")
}

/// A module of each misdeed's name.
fn misdeeds(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    named(folder, "misdeeds", names)
}

/// A program of `tests/modules` under each of these names.
fn named(folder: &Path, source: &str, names: &[&str]) -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules");
    let program = static_program(&tests.join(source).with_extension("rs"), folder, source);
    let copy = |name: &&str| {
        let path = folder.join(name);
        fs::copy(&program, &path).unwrap();
        path
    };
    names.iter().map(copy).collect()
}

/// Runs the guest with `ask` in the middle of its script.
fn run(folder: &Path, modules: &[String], ask: &str, arguments: &[&str]) -> Finished {
    let initrd = Initrd::new(&SCRIPT.replace("ASK", ask))
        .own_program(Path::new(env!("CARGO_BIN_EXE_module_client")))
        .write(folder);
    let modules = modules
        .iter()
        .flat_map(|module| ["--paravisor-module", module]);
    let run = Stockade::new("run")
        .args(["--test-devices", "--append", &appended("")])
        .arg("--initrd")
        .arg(initrd)
        .args(modules)
        .args(arguments)
        .limit(LIMIT)
        .finish();
    run.assert_code(0);
    let said = findings(&run.stdout);
    assert!(said.contains(&"memory kept"), "{}", run.transcript());
    assert!(!said.contains(&"kernel complains"), "{}", run.transcript());
    run
}

/// Runs a machine with a module of each name, and looks for what is to be said of it.
fn contains(expected: &[(&str, &[&str])], arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let programs = misdeeds(folder.path(), &names);
    let modules: Vec<String> = programs
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut all = vec!["--module-memory", "4"];
    all.extend(arguments);
    let run = run(folder.path(), &modules, "", &all);
    let is_said = |name: &str, words: &str| {
        let start = format!("module {name}: ");
        let mut lines = run.stderr.lines();
        lines.any(|line| {
            line.split_once(&start)
                .is_some_and(|(_, rest)| rest.contains(words))
        })
    };
    let missing: Vec<String> = expected
        .iter()
        .flat_map(|(name, words)| words.iter().map(move |words| (*name, *words)))
        .filter(|(name, words)| !is_said(name, words))
        .map(|(name, words)| format!("module {name}: {words}"))
        .collect();
    assert!(
        missing.is_empty(),
        "not said: {missing:#?}\n{}",
        run.transcript()
    );
    for (name, words) in expected {
        let may_survive = words.contains(&"has ended");
        assert!(may_survive || !is_said(name, "survives"), "{name} survives");
    }
}

const GIVEN_UP: &str = "it is not started again";

#[test]
fn messages_go_through_the_channel_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let module = format!("{} one two", example(folder.path()).display());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/echo.c");
    let in_c = static_c_program(&source, folder.path(), "in-c");
    let in_c = format!("{} three", in_c.display());
    let view = folder.path().join("view");
    let ask =
        "module_client 0 hello-module; module_client 0 again; module_client 1 a; module_client 1 b";
    let arguments = ["--host-view", view.to_str().unwrap()];
    let run = run(folder.path(), &[module, in_c], ask, &arguments);
    let said = findings(&run.stdout);
    assert!(
        said.contains(&"module 0 2 eludom-olleh"),
        "{}",
        run.transcript()
    );
    assert!(said.contains(&"module 0 2 niaga"));
    run.assert_says(&[r#"module echo: ready as ["echo", "one", "two"]"#]);
    // The other one, in C, remembers what it was asked before.
    assert!(
        said.contains(&"module 1 2 a after none") && said.contains(&"module 1 2 b after a"),
        "{}",
        run.transcript()
    );
    run.assert_says(&["module in-c: ready as in-c three, 2 words"]);
    // The host has the staged file, but nothing of what was said.
    assert!(host_view::count(&view, b"ready as ") > 0);
    assert_eq!(host_view::count(&view, b"eludom-olleh"), 0);
}

#[test]
fn addresses_of_others_are_not_there() {
    contains(
        &[
            (
                "reads-paravisor",
                &["failed: page fault (error 0x4) for 0x8000010000", GIVEN_UP],
            ),
            (
                "reads-gate",
                &["failed: page fault (error 0x5) for 0x8000011000"],
            ),
            (
                "writes-paravisor",
                &["failed: page fault (error 0x6) for 0x8000010000"],
            ),
            (
                "reads-guest",
                &["failed: page fault (error 0x4) for 0xffff800000001000"],
            ),
            (
                "jumps-to-paravisor",
                &["failed: page fault (error 0x14) for 0x8000010000"],
            ),
            ("overflows", &["failed: page fault (error 0x6) for 0x7ffff"]),
            ("writes-code", &["failed: page fault (error 0x7)"]),
            ("runs-data", &["failed: page fault (error 0x15)"]),
            ("loses-stack", &["failed: "]),
        ],
        &[],
    );
}

#[test]
fn privileged_instructions_end_the_module() {
    contains(
        &[
            ("halts", &["failed: general protection fault", GIVEN_UP]),
            ("writes-port", &["failed: general protection fault"]),
            ("writes-msr", &["failed: general protection fault"]),
            ("loads-cr3", &["failed: general protection fault"]),
            ("validates", &["failed: general protection fault"]),
            (
                "calls-host",
                &["failed: intercepted instruction (exit 0x81)"],
            ),
            ("interrupts", &["failed: general protection fault"]),
            ("steps", &["failed: exception 1 "]),
            ("exits-to-host", &["has left three times", "has ended"]),
        ],
        &[],
    );
}

/// One that takes all it can has no more than its limit: the others' memory is theirs.
#[test]
fn calls_and_ends_are_what_linux_makes_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let stats = folder.path().join("stats");
    contains(
        &[
            (
                "asks",
                &[
                    "system call 57 is not offered",
                    "was refused all",
                    "has ended",
                ],
            ),
            (
                "changes-rights",
                &["has no code of its own making", "has ended"],
            ),
            (
                "eats-memory",
                &[
                    "was given 2 MiB and then -12",
                    "pages far apart",
                    "has ended",
                ],
            ),
            ("aborts", &["failed: signal 6 to itself", GIVEN_UP]),
            ("exits-3", &["failed: exit status 3", GIVEN_UP]),
        ],
        &["--stats", stats.to_str().unwrap()],
    );
    // The five have 20 MiB together; the other four need two each at most.
    let bytes = number(&figures(&stats), "/paravisor/module_bytes");
    assert!((4 << 20..12 << 20).contains(&bytes), "{bytes} bytes");
}

/// It has the processor while the guest has no use for it, and the guest has it all the same.
#[test]
fn a_module_that_loops_is_ended_and_the_guest_goes_on() {
    contains(
        &[(
            "loops",
            &["failed: more processor time than allowed; starting it again (1 of 4)"],
        )],
        &["--module-seconds", "1"],
    );
}

/// Three of them and the guest take turns on one processor.
#[test]
fn vector_registers_are_a_modules_own() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["first", "second", "third"];
    let programs = named(folder.path(), "states", &names);
    let modules: Vec<String> = programs
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let run = run(folder.path(), &modules, "", &[]);
    for name in names {
        run.assert_says(&[&format!("module {name}: found its own 100 times")]);
    }
}
