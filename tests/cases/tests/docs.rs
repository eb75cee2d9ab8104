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

/// Returns the names of all functions of the product and its tests.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources().iter().filter(|file| !file.starts_with("ci/")) {
        let text = fs::read_to_string(root().join(file)).expect("the source is readable");
        let names = text.lines().filter_map(|line| {
            let name = line.trim_start().strip_prefix("fn ")?;
            Some(name.split(['(', '<']).next()?.to_owned())
        });
        found.extend(names);
    }
    found
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

/// Returns the sections that `line` cites of volumes of AMD's manual: `APM vol. 2, 15.36.16 and 15.36.20`.
fn cited(line: &str) -> Vec<(char, &str)> {
    let mut found = Vec::new();
    for rest in line.split("APM vol. ").skip(1) {
        let mut volume = rest.chars();
        let (Some(number), Some(mut rest)) = (volume.next(), volume.as_str().strip_prefix(", "))
        else {
            continue;
        };
        loop {
            let is_of_a_section =
                |c: char| c.is_ascii_digit() || c.is_ascii_uppercase() || c == '.';
            let end = rest.find(|c| !is_of_a_section(c)).unwrap_or(rest.len());
            let section = rest[..end].trim_end_matches('.');
            if !section.contains('.') {
                break;
            }
            found.push((number, section));
            let further = &rest[end..];
            let next = further.strip_prefix(", ").or(further.strip_prefix(" and "));
            let Some(next) = next else { break };
            rest = next;
        }
    }
    found
}

#[test]
fn every_section_cited_of_the_apm_is_in_the_index() {
    assert_eq!(
        cited("(APM vol. 2, 8.2.9 and 8.4, table 8-1)"),
        [('2', "8.2.9"), ('2', "8.4")]
    );
    let index = document("spec-index.md");
    let mut missing = BTreeSet::new();
    for file in sources() {
        let text = fs::read_to_string(root().join(&file)).expect("the source is readable");
        for (volume, section) in text.lines().flat_map(cited) {
            let (_, rows) = index
                .split_once(&format!("## AMD APM vol. {volume}\n"))
                .expect("the volume is there");
            let rows = rows.split("\n## ").next().unwrap_or_default();
            let row = rows
                .lines()
                .find(|row| row.starts_with(&format!("| {section} |")));
            if !row.is_some_and(|row| row.contains(&format!("`{file}`"))) {
                missing.insert(format!("vol. {volume}, {section}: {file}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Returns the names of all sources, from the root on.
fn sources() -> Vec<String> {
    let mut folders: Vec<PathBuf> = [
        "apic",
        "boot",
        "ci",
        "devices",
        "igvm",
        "intercept",
        "paravisor",
        "tests",
    ]
    .map(|name| root().join(name))
    .into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)
            .expect("the checkout is readable")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("it is below the root");
                found.push(name.to_str().expect("names are text").to_owned());
            }
        }
    }
    found
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
    let found = functions();
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
