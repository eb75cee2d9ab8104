//! Linux's own tests of its TPM driver, `tools/testing/selftests/tpm2`, from the distribution's source package.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Verdict, Verdicts, must, prepared};
use crate::{Initrd, package_file};

const PACKAGE: &str = "linux-source-6.1";
const TESTS: &str = "tools/testing/selftests/tpm2";

/// Linux's tests of its TPM driver, which run in a guest.
#[derive(Debug)]
pub struct Kselftest;

impl Kselftest {
    /// The classes of tests there are.
    pub const CLASSES: [&str; 3] = ["SmokeTest", "AsyncTest", "SpaceTest"];

    /// Adds them to an initramfs, in the folder `tpm2`, and the interpreter they are run by, which is `python3.11`.
    #[must_use]
    pub fn add_to(initrd: Initrd) -> Initrd {
        let folder = prepared(PACKAGE, |folder| {
            let source = package_file(PACKAGE, &format!("usr/src/{PACKAGE}.tar.xz"));
            must(
                Command::new("tar")
                    .args(["--strip-components=5", "-xf"])
                    .arg(source)
                    .arg(format!("{PACKAGE}/{TESTS}"))
                    .current_dir(folder),
            );
        });
        let read = |name: &str| fs::read(Path::new(&folder).join(name)).expect("it is unpacked");
        ["tpm2.py", "tpm2_tests.py"]
            .into_iter()
            .fold(initrd.python(), |initrd, name| {
                initrd.file(&format!("tpm2/{name}"), &read(name))
            })
    }

    /// Reads lines such as `test_async (tpm2_tests.AsyncTest.test_async) ... ok`.
    #[must_use]
    pub fn verdicts(console: &str) -> Verdicts {
        let line = |line: &str| {
            let (name, word) = line.trim().split_once(") ... ")?;
            let name = name.split_once("(tpm2_tests.")?.1.to_owned();
            let verdict = match word {
                "ok" => Verdict::Passed,
                word if word.starts_with("skipped") => Verdict::Skipped,
                _ => Verdict::Failed,
            };
            Some((name, verdict))
        };
        console.lines().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Kselftest, Verdict};

    #[test]
    fn verdicts_are_read_from_the_console() {
        let console = "guest-check: test_a (tpm2_tests.SmokeTest.test_a) ... ok\r\n\
            test_b (tpm2_tests.SmokeTest.test_b) ... FAIL\r\nRan 2 tests in 3.2s\r\n";
        let found: Vec<_> = Kselftest::verdicts(console).into_iter().collect();
        let expected = [
            ("SmokeTest.test_a", Verdict::Passed),
            ("SmokeTest.test_b", Verdict::Failed),
        ];
        assert_eq!(found, expected.map(|(name, it)| (name.to_owned(), it)));
    }
}
