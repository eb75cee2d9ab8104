//! Our own bare-metal programs, built by a cargo call each so that no host feature leaks into them.

use std::path::PathBuf;
use std::process::Command;

use super::{Cache, SetupError};

/// A bare-metal program of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The paravisor.
    Paravisor,
    /// The SNP model.
    Model,
    /// The bare-metal test guests.
    Guests,
}

impl Program {
    fn package(self) -> &'static str {
        match self {
            Self::Paravisor => "stockade-paravisor",
            Self::Model => "stockade-model",
            Self::Guests => "stockade-guests",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Paravisor => "paravisor",
            Self::Model => "model",
            Self::Guests => "guests",
        }
    }
}

/// The curve's vector code is for Edwards points, which nobody has here: 11 KiB of an image less.
const FLAGS: &str = "--cfg curve25519_dalek_backend=\"serial\"";

/// Builds the program, which is quick when nothing changed, and returns its ELF file.
pub fn build_program(cache: &Cache, program: Program) -> Result<PathBuf, SetupError> {
    let failed = |reason: String| SetupError::Build {
        program: program.name(),
        reason,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(cache.workspace())
        .args(["build", "--quiet", "--profile", "image"])
        .args(["--features", "image", "--package", program.package()])
        .arg("--target-dir")
        .arg(cache.target())
        // In place of what the environment has, which is meant for programs of this machine.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS)
        .output()
        .map_err(|e| failed(format!("cargo: {e}; install Rust from https://rustup.rs")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.trim().to_owned()));
    }
    Ok(cache.target().join("image").join(program.name()))
}
