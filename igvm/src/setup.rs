//! What a run needs and may be missing: QEMU, a kernel, busybox, our own bare-metal programs.
//!
//! Each part finds what is there, gets the rest from the distribution where that is allowed, and otherwise says the one
//! command to type. Everything fetched or made lies in [`Cache`].

mod archive;
mod cache;
mod debian;
mod initramfs;
mod modules;
mod programs;
mod qemu;
mod tpm_engine;
mod unwind_tables;

pub use archive::Archive;
pub use cache::Cache;
pub use debian::{FirmwareFiles, Kernel, busybox, firmware, kernel, package};
pub use initramfs::{Mode, default_initramfs};
pub use modules::Modules;
pub use programs::{Program, build_program};
pub use qemu::{MINIMUM_VERSION, Qemu, Version};
pub use tpm_engine::{Library, TpmEngine, tpm_engine};

use std::io;
use std::path::PathBuf;

/// Why something needed could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The QEMU program cannot be started.
    #[error("cannot start {program}: {source}; install it with: {command}")]
    QemuMissing {
        /// What was tried.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
        /// What to type.
        command: &'static str,
    },
    /// The QEMU program is older than what the model needs.
    #[error(
        "{program} is version {found}, at least {MINIMUM_VERSION} is needed; name a newer one with --qemu"
    )]
    QemuTooOld {
        /// What was tried.
        program: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The QEMU program does not say a version we understand, or cannot emulate SVM.
    #[error("{program} {what}; name another with --qemu")]
    QemuUnfit {
        /// What was tried.
        program: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A package of the distribution is missing and could not be fetched.
    #[error("{what} is missing and could not be fetched ({reason}); {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// Why fetching failed.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// One of our own programs did not build.
    #[error("building {program} failed: {reason}")]
    Build {
        /// Which one.
        program: &'static str,
        /// What cargo said last.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SetupError {
    /// Wraps an I/O error with the file it is about.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
