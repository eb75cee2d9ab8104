//! End-to-end cases: what a user does.
//!
//! The cases themselves are in `tests/`, one file for each thing a user cares about: the boot and what it claims
//! (`self_check`), the console (`console`), how a guest ends (`ends`), images (`images`), bad input (`bad_input`), repeatable
//! runs (`repeatable`), several processors (`smp`), the hostile host (`hostile`), and the model judged by a kernel that knows SNP (`enlightened`).
//! Here is what several of them share.

#![forbid(unsafe_code)]

pub mod flushes;
pub mod sealed;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stockade_rig::{Finished, Stockade, appended, workshop};

/// Returns the figures a run left in its `--stats` file.
#[must_use]
pub fn figures(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the run wrote its figures");
    serde_json::from_str(&text).expect("the figures are JSON")
}

/// Returns a number of the figures, by its JSON pointer.
#[must_use]
#[track_caller]
pub fn number(figures: &Value, pointer: &str) -> u64 {
    let value = figures.pointer(pointer).and_then(Value::as_u64);
    value.unwrap_or_else(|| missing(figures, pointer))
}

/// Returns a text of the figures, by its JSON pointer.
#[must_use]
#[track_caller]
pub fn text<'a>(figures: &'a Value, pointer: &str) -> &'a str {
    let value = figures.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| missing(figures, pointer))
}

#[track_caller]
#[expect(clippy::panic, reason = "a test ends by panicking")]
fn missing(figures: &Value, pointer: &str) -> ! {
    panic!("no {pointer} in {figures:#}")
}

/// Builds an image of the default kernel and initramfs with these words on the kernel's command line.
#[must_use]
pub fn image(folder: &Path, words: &str) -> PathBuf {
    let path = folder.join("guest.igvm");
    build(&path, words).assert_code(0);
    path
}

/// Calls `stockade build` for the default kernel and initramfs.
#[must_use]
pub fn build(path: &Path, words: &str) -> Finished {
    Stockade::new("build")
        .arg("-o")
        .arg(path)
        .arg("--paravisor")
        .arg(&workshop().paravisor)
        .arg("--kernel")
        .arg(&workshop().kernel)
        .arg("--initrd")
        .arg(&workshop().initramfs)
        .arg("--append")
        .arg(appended(words))
        .finish()
}

/// Returns the launch digest `stockade measure` prints for an image.
#[must_use]
pub fn measured(image: &Path) -> String {
    let finished = Stockade::new("measure").arg(image).finish();
    finished.assert_code(0);
    finished.stdout.trim().to_owned()
}

/// Compiles a Rust source file as a static program of this name, as `docs/modules.md` has it.
#[must_use]
pub fn static_program(source: &Path, folder: &Path, name: &str) -> PathBuf {
    let mut command = Command::new("rustc");
    command
        .args(["--edition", "2024", "-C", "opt-level=2"])
        .args(["-C", "panic=abort", "-C", "target-feature=+crt-static"])
        .args(["-C", "strip=symbols"]);
    compiled(command, source, folder, name)
}

/// Compiles a C source file as a static program of this name.
#[must_use]
pub fn static_c_program(source: &Path, folder: &Path, name: &str) -> PathBuf {
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Werror", "-static", "-s"]);
    compiled(command, source, folder, name)
}

fn compiled(mut command: Command, source: &Path, folder: &Path, name: &str) -> PathBuf {
    let program = folder.join(name);
    let command = command.arg("-o").arg(&program).arg(source);
    let output = command.output().expect("the compiler is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    program
}
