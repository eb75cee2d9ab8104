//! The tests of `tss-esapi` (crates.io): one after the other against one TPM.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{Judged, Verdict, Verdicts, allocate_sha1, must, prepared, text};
use crate::tpm::{SimulatedTpm, two_free_ports};

const CRATE: &str = "tss-esapi";
const VERSION: &str = "7.7.0";
/// The libraries it links, and how it finds them.
const PACKAGES: &str = "gcc pkg-config libtss2-dev libtss2-tcti-mssim0 libtss2-tcti-swtpm0";

/// The suite, built.
#[derive(Debug)]
pub struct Esapi {
    folder: PathBuf,
}

impl Esapi {
    /// Fetches and builds it, unless that was done before.
    ///
    /// # Panics
    /// If something it needs is missing.
    #[must_use]
    pub fn fetch() -> Self {
        let root = prepared("esapi-7.7.0", |root| {
            let has_headers = Path::new("/usr/include/tss2/tss2_esys.h").is_file();
            assert!(has_headers, "run: apt-get install {PACKAGES}");
            let folder = root.join(CRATE);
            must(Command::new("cp").arg("-r").arg(source(root)).arg(&folder));
            // A workspace of its own, however deep in ours it lies.
            let manifest = folder.join("Cargo.toml");
            let words = fs::read_to_string(&manifest).expect("a crate has one");
            fs::write(manifest, words + "\n[workspace]\n").expect("the folder is ours");
            must(tests(&folder).arg("--no-run"));
        });
        Self {
            folder: root.join(CRATE),
        }
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it comes to no verdicts.
    #[must_use]
    pub fn run(&self, judged: Judged) -> Verdicts {
        let state = tempfile::tempdir().expect("a temporary folder");
        let (tcti, _tpm) = start(judged, state.path());
        let output = tests(&self.folder)
            .args(["--no-fail-fast", "--", "--test-threads=1"])
            .env("TEST_TCTI", tcti)
            .env("TSS2_LOG", "all+NONE")
            .output()
            .expect("cargo ran this test, so it is there");
        let said = text(&output.stdout);
        let verdicts = verdicts(&said);
        assert!(!verdicts.is_empty(), "{said}{}", text(&output.stderr));
        verdicts
    }
}

/// Where cargo has put the crate's source, which it fetched and checked.
fn source(root: &Path) -> PathBuf {
    let wanting = root.join("wanting");
    fs::create_dir_all(wanting.join("src")).expect("the folder is ours");
    fs::write(wanting.join("src/lib.rs"), "").expect("the folder is ours");
    let manifest = format!(
        "[package]\nname = \"wanting\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{CRATE} = \"={VERSION}\"\n"
    );
    fs::write(wanting.join("Cargo.toml"), manifest).expect("the folder is ours");
    let metadata = must(cargo(&wanting).args(["metadata", "--format-version", "1"]));
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("there are some");
    let found = packages.iter().find(|package| package["name"] == CRATE);
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let folder = manifest.and_then(|path| Path::new(path).parent());
    folder.expect("cargo fetched it").to_path_buf()
}

fn tests(folder: &Path) -> Command {
    let mut command = cargo(folder);
    command.args([
        "test",
        "--locked",
        "--release",
        "--test",
        "integration_tests",
    ]);
    command
}

/// Cargo, for a workspace that has nothing to do with ours.
fn cargo(folder: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(folder).env_remove("CARGO_TARGET_DIR");
    command
}

/// A TPM while the suite asks it.
enum Started {
    Ours { _tpm: SimulatedTpm },
    Swtpm(Child),
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Self::Swtpm(process) = self {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts a TPM and returns how it is reached.
fn start(judged: Judged, state: &Path) -> (String, Started) {
    if judged == Judged::Swtpm {
        let port = two_free_ports();
        let swtpm = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg(format!("--tpmstate=dir={}", state.display()))
            .arg(format!("--server=type=tcp,port={port}"))
            .arg(format!("--ctrl=type=tcp,port={}", port + 1))
            .spawn();
        let process = swtpm.unwrap_or_else(|e| panic!("swtpm: {e}; run: apt-get install swtpm"));
        let process = Started::Swtpm(process);
        // The platform's port is not in the way of the one that takes commands.
        let is_up = || TcpStream::connect(("127.0.0.1", port + 1)).is_ok();
        let up = (0..100).any(|_| is_up() || wait());
        assert!(up, "swtpm does not come up");
        return (format!("swtpm:host=127.0.0.1,port={port}"), process);
    }
    if judged == Judged::OursWithSha1 {
        allocate_sha1(state);
    }
    let tpm = SimulatedTpm::start(Some(state));
    let tcti = format!("mssim:host=127.0.0.1,port={}", tpm.port());
    (tcti, Started::Ours { _tpm: tpm })
}

/// Waits a little; nothing has come of it yet.
fn wait() -> bool {
    thread::sleep(Duration::from_millis(50));
    false
}

/// Lines such as `test utils_tests::get_tpm_vendor_test::get_tpm_vendor ... ok`; what a test prints may come between.
fn verdicts(said: &str) -> Verdicts {
    let line = |line: &str| {
        let (name, word) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let verdict = match word.trim() {
            "ok" => Verdict::Passed,
            "FAILED" => Verdict::Failed,
            _ => Verdict::Skipped,
        };
        // Such as ` - should panic`.
        let name = name.split(" - ").next()?;
        Some((name.to_owned(), verdict))
    };
    said.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdicts};

    #[test]
    fn verdicts_are_read_from_the_harness_s_lines() {
        let said = "running 3 tests\ntest a::one ... ok\ntest a::two ... FAILED\n\
            test b::three ... ignored, not here\ntest b::four - should panic ... ok\ntest result: FAILED. 2 passed\n";
        let found: Vec<_> = verdicts(said).into_iter().collect();
        let expected = [
            ("a::one", Verdict::Passed),
            ("a::two", Verdict::Failed),
            ("b::four", Verdict::Passed),
            ("b::three", Verdict::Skipped),
        ];
        assert_eq!(found, expected.map(|(name, it)| (name.to_owned(), it)));
    }
}
