//! Test suites of other projects, fetched by name and version from their registries and run over the TPM's engine, or in a guest.
//!
//! Nothing of them is in this repository: what is fetched and built lies in `target/stockade/suites`, and is used again. A suite gives
//! [`Verdicts`]; which of them are right is the test's to say.

mod esapi;
mod kselftest;
mod pytss;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade::setup::Cache;

use crate::tpm::SimulatedTpm;

pub use esapi::Esapi;
pub use kselftest::Kselftest;
pub use pytss::Pytss;

/// How one test of a suite ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It was not tried.
    Skipped,
}

/// Every test of a suite by its name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// The TPM a suite is to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Our engine as it is made.
    Ours,
    /// Our engine after `tpm2_pcrallocate` has switched on the bank it is made without.
    OursWithSha1,
    /// swtpm of the distribution, to compare with.
    Swtpm,
}

/// Leaves what a new engine has to keep in `state`: all three banks switched on.
fn allocate_sha1(state: &Path) {
    let tpm = SimulatedTpm::start(Some(state));
    let _ = tpm.ask(state, "tpm2_pcrallocate sha1:all+sha256:all+sha384:all");
    tpm.cut_power();
}

/// Returns a suite's folder of the cache, made by `make` if it is not whole yet; others who want it wait.
fn prepared(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let suites = Cache::open()
        .and_then(|cache| cache.folder("suites"))
        .expect("target/ is writable");
    let lock = File::create(suites.join(format!("{name}.lock"))).expect("target/ is writable");
    lock.lock().expect("the file system has locks");
    let folder = suites.join(name);
    let mark = folder.join("prepared");
    if !mark.is_file() {
        // What there is, is a part.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("target/ is writable");
        make(&folder);
        fs::write(mark, "").expect("target/ is writable");
    }
    folder
}

/// Runs a step of the preparation.
fn must(command: &mut Command) -> String {
    let words = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{words}: {e}"));
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{words}: {said}{errors}");
    said
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
