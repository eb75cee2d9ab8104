//! The tests of `tpm2-pytss` (PyPI): each starts a TPM of its own, if there is one by a name it knows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Judged, Verdict, Verdicts, allocate_sha1, must, prepared, text};
use crate::tpm::engine;

/// The suite, with the digest of its source, and what it is built and run with.
const SOURCE: &str = "tpm2-pytss==3.0.0 --hash=sha256:c193cf1908b482f93c4aa464132920fe3a37d4b9d802e267974ff2dfe37d4433";
const FOLDER: &str = "tpm2_pytss-3.0.0";
const TOOLS: [&str; 9] = [
    "setuptools==65.5.0",
    "wheel==0.48.0",
    "setuptools-scm==10.3.4",
    "pkgconfig==1.6.0",
    "pycparser==3.12",
    "cffi==2.1.1",
    "asn1crypto==1.5.1",
    "cryptography==50.0.2",
    "packaging==26.3",
];
const RUNNERS: [&str; 2] = ["pytest==9.2.0", "pytest-xdist==3.8.0"];
/// What it is compiled with, and the libraries it loads.
const PACKAGES: &str =
    "python3-venv python3-dev gcc pkg-config libtss2-dev libtss2-tcti-mssim0 libtss2-tcti-swtpm0";

/// The suite, built.
#[derive(Debug)]
pub struct Pytss {
    folder: PathBuf,
}

impl Pytss {
    /// Fetches and builds it, unless that was done before.
    ///
    /// # Panics
    /// If something it needs is missing.
    #[must_use]
    pub fn fetch() -> Self {
        let folder = prepared("pytss-3.0.0", |folder| {
            let has_headers = Path::new("/usr/include/tss2/tss2_fapi.h").is_file();
            assert!(has_headers, "run: apt-get install {PACKAGES}");
            must(
                Command::new("python3")
                    .args(["-m", "venv"])
                    .arg(folder.join("python")),
            );
            let pip = || {
                let mut pip = Command::new(folder.join("python/bin/pip"));
                pip.args(["--disable-pip-version-check", "--quiet"])
                    .current_dir(folder);
                pip
            };
            must(pip().arg("install").args(TOOLS).args(RUNNERS));
            fs::write(folder.join("source.txt"), SOURCE).expect("the folder is ours");
            must(
                pip()
                    .args([
                        "download",
                        "--no-deps",
                        "--no-binary",
                        ":all:",
                        "--no-build-isolation",
                    ])
                    .args(["--require-hashes", "-r", "source.txt"]),
            );
            must(
                Command::new("tar")
                    .arg("-xf")
                    .arg(format!("{FOLDER}.tar.gz"))
                    .current_dir(folder),
            );
            must(
                pip()
                    .args(["install", "--no-deps", "--no-build-isolation"])
                    .arg(format!("./{FOLDER}")),
            );
        });
        Self { folder }
    }

    /// Runs it, two tests at a time.
    ///
    /// # Panics
    /// If it comes to no verdicts.
    #[must_use]
    pub fn run(&self, judged: Judged) -> Verdicts {
        let programs = tempfile::tempdir().expect("a temporary folder");
        let path = match judged {
            // It takes swtpm if there is one.
            Judged::Swtpm => "/usr/bin:/bin".into(),
            Judged::Ours | Judged::OursWithSha1 => {
                put_simulator(programs.path(), judged);
                programs.path().to_path_buf()
            }
        };
        let output = Command::new(self.folder.join("python/bin/python"))
            .args([
                "-m",
                "pytest",
                "-v",
                "-n",
                "2",
                "-p",
                "no:cacheprovider",
                "test",
            ])
            .current_dir(self.folder.join(FOLDER))
            .env("PATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TSS2_LOG", "all+NONE")
            .output()
            .expect("it is prepared");
        let said = text(&output.stdout);
        let verdicts = verdicts(&said);
        assert!(!verdicts.is_empty(), "{said}{}", text(&output.stderr));
        verdicts
    }
}

/// The one simulator it knows besides swtpm is called as `tpm_server -rm -port NUMBER`, in a folder of its own.
fn put_simulator(folder: &Path, judged: Judged) {
    let program = engine().program.display();
    let mut script = "#!/bin/sh\nset -e\nwhile [ \"$1\" != -port ]; do shift; done\n".to_owned();
    if judged == Judged::OursWithSha1 {
        let state = folder.join("state");
        fs::create_dir(&state).expect("the folder is ours");
        allocate_sha1(&state);
        script += &format!(
            "/bin/cp -r {} state\nset -- \"$@\" --state state\n",
            state.display()
        );
    }
    script += &format!("shift; port=$1; shift\nexec {program} --socket 127.0.0.1:$port \"$@\"\n");
    let path = folder.join("tpm_server");
    fs::write(&path, script).expect("the folder is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}

/// Lines such as `[gw1] [ 41%] PASSED test/test_esapi.py::TestEsys::test_create`.
fn verdicts(said: &str) -> Verdicts {
    let line = |line: &str| {
        let (_, rest) = line.strip_prefix("[gw")?.split_once("%] ")?;
        let (word, name) = rest.split_once(' ')?;
        let verdict = match word {
            "PASSED" => Verdict::Passed,
            "SKIPPED" => Verdict::Skipped,
            _ => Verdict::Failed,
        };
        let name = name.trim().strip_prefix("test/")?;
        Some((name.to_owned(), verdict))
    };
    said.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdicts};

    #[test]
    fn verdicts_are_read_from_the_lines_of_both_workers() {
        let said = "bringing up nodes...\n\
            [gw0] [  0%] PASSED test/test_a.py::A::one \n\
            [gw1] [100%] FAILED test/test_a.py::A::two\n\
            [gw1] [100%] SKIPPED test/test_b.py::B::three\n\
            FAILED test/test_a.py::A::two - AssertionError\n";
        let found: Vec<_> = verdicts(said).into_iter().collect();
        let expected = [
            ("test_a.py::A::one", Verdict::Passed),
            ("test_a.py::A::two", Verdict::Failed),
            ("test_b.py::B::three", Verdict::Skipped),
        ];
        assert_eq!(found, expected.map(|(name, it)| (name.to_owned(), it)));
    }
}
