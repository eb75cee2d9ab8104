//! The documentation keeps up with the code: what it names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stockade_abi::terminate::StopReason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("the document is there")
}

/// Returns what stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder)
        .expect("the checkout is readable")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("the source is readable");
            let names = text.lines().filter_map(|line| {
                let name = line.trim_start().strip_prefix("fn ")?;
                Some(name.split(['(', '<']).next()?.to_owned())
            });
            found.extend(names);
        }
    }
}

#[test]
fn every_file_the_documents_name_exists() {
    for name in [
        "testing.md",
        "threats.md",
        "spec-index.md",
        "performance.md",
    ] {
        for words in quoted(&document(name)) {
            // What a build makes is there only after it.
            let is_made = words.starts_with("target/");
            let is_path = words.contains('/') && !words.contains([' ', '$']) && !is_made;
            assert!(
                !is_path || root().join(words).exists(),
                "{name} names {words}"
            );
        }
    }
}

/// A number in a log is looked up there.
#[test]
fn every_stop_code_is_explained() {
    let architecture = document("architecture.md");
    for reason in StopReason::ALL {
        let row = format!("| {} | {reason} |", reason.code());
        assert!(architecture.contains(&row), "there is no row {row}");
    }
}

fn is_fuzz_target(name: &str) -> bool {
    let folder = root().join("tests/fuzz/src");
    folder.join(name).with_extension("rs").exists()
}

#[test]
fn every_test_the_threats_name_exists() {
    let mut found = BTreeSet::new();
    for folder in [
        "apic",
        "boot",
        "devices",
        "igvm",
        "intercept",
        "paravisor",
        "tests",
    ] {
        functions(&root().join(folder), &mut found);
    }
    let threats = document("threats.md");
    let mut named = 0;
    for words in quoted(&threats) {
        let name = words.split_once(": ").map_or(words, |(_, name)| name);
        let is_test = name.contains('_') && !name.contains([':', '/', '.', ' ']);
        if !is_test {
            continue;
        }
        named += 1;
        let exists = match name.strip_suffix('…') {
            Some(start) => found.iter().any(|function| function.starts_with(start)),
            // A fuzz target is a file of its name.
            None => found.contains(name) || is_fuzz_target(name),
        };
        assert!(exists, "no test {name}");
    }
    assert!(named > 15, "threats without tests: only {named} are named");
}
