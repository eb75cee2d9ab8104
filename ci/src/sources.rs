//! Rules a look at the source text can check.

use std::fs;
use std::path::{Path, PathBuf};

/// The two homes of unsafe code in the paravisor.
const UNSAFE_HOMES: [&str; 2] = ["boot/entry", "paravisor/platform"];
/// Programs that run at CPL 3, apart from the paravisor, and are linked with libraries in C: where each calls them.
const FOREIGN_HOMES: [&str; 1] = ["devices/tpm/src/foreign"];
/// The model and the test guests are bare-metal programs too, but never part of what is trusted.
const TEST_PROGRAMS: &str = "tests";
/// The crates the paravisor is made of, besides the homes.
const SAFE_CRATES: [&str; 8] = [
    "intercept/abi",
    "devices/bus",
    "intercept",
    "apic",
    "devices",
    "devices/storage",
    "boot",
    "paravisor",
];
/// A file longer than this, its tests not counted, has more than one concept in it.
const LONGEST: usize = 400;
/// Programs of the tests are read by fewer people; their tables may be longer.
const LONGEST_IN_TESTS: usize = 600;
const UNFINISHED: [&str; 4] = ["todo!(", "unimplemented!(", "FIXME", "TODO"];

/// Returns every offence in the sources below `root`.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(root, &mut files);
    let mut offences: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let name = path.strip_prefix(root).unwrap_or(path);
            check_file(&name.to_string_lossy(), &text)
        })
        .collect();
    for folder in SAFE_CRATES {
        let lib = root.join(folder).join("src/lib.rs");
        let text = fs::read_to_string(&lib).unwrap_or_default();
        if !text.contains("#![forbid(unsafe_code)]") {
            offences.push(format!("{folder} does not forbid unsafe code"));
        }
    }
    offences
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn check_file(name: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    // This file names what it looks for.
    if name.starts_with("ci/") {
        return offences;
    }
    let may_be_unsafe = name.starts_with(TEST_PROGRAMS)
        || UNSAFE_HOMES
            .iter()
            .chain(&FOREIGN_HOMES)
            .any(|home| name.starts_with(home));
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or("");
        if !may_be_unsafe && is_unsafe(code) {
            offences.push(format!(
                "{name}:{number}: unsafe code outside its two homes"
            ));
        }
        if UNFINISHED.iter().any(|word| line.contains(word)) {
            offences.push(format!("{name}:{number}: left unfinished"));
        }
    }
    let own = text
        .lines()
        .position(|line| line.ends_with("mod tests {"))
        .unwrap_or(text.lines().count());
    let is_tests = name.ends_with("tests.rs") || name.contains("/tests/");
    let longest = if name.starts_with(TEST_PROGRAMS) {
        LONGEST_IN_TESTS
    } else {
        LONGEST
    };
    if own > longest && !is_tests {
        offences.push(format!("{name}: {own} lines, more than {longest}"));
    }
    offences
}

fn is_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|words| code.contains(words))
}

#[cfg(test)]
mod tests {
    use super::check_file;

    #[test]
    fn unsafe_outside_its_homes_is_an_offence() {
        let code = "fn f() { unsafe { g() } }\n";
        assert_eq!(check_file("devices/src/rtc.rs", code).len(), 1);
        assert!(check_file("boot/entry/src/lib.rs", code).is_empty());
        assert!(check_file("devices/tpm/src/foreign/libtpms.rs", code).is_empty());
        assert_eq!(check_file("devices/tpm/src/machine.rs", code).len(), 1);
        assert!(check_file("devices/src/rtc.rs", "// unsafe { }\n").is_empty());
    }

    #[test]
    fn unfinished_work_is_an_offence() {
        assert_eq!(check_file("apic/src/a.rs", "fn f() { todo!() }\n").len(), 1);
    }

    #[test]
    fn long_files_are_an_offence_but_their_tests_do_not_count() {
        let long = "\n".repeat(401);
        assert_eq!(check_file("apic/src/a.rs", &long).len(), 1);
        let tested = format!("{}mod tests {{\n{long}", "\n".repeat(300));
        assert!(check_file("apic/src/a.rs", &tested).is_empty());
    }
}
