//! Why an image could not be built or read: one line each, with the file and what to do.

use std::io;
use std::path::PathBuf;

use stockade_boot::firmware::FirmwareError;
use stockade_boot::format::FormatError;
use stockade_boot::layout::STAGING_SIZE;
use stockade_boot::linux::PlanError;
use stockade_boot::manifest::ManifestError;
use stockade_boot::ram::RamError;

use super::elf::ElfError;

/// Why an image could not be built or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages say")]
pub enum ImageError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The image could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The magic number is missing.
    #[error("{file} is not an IGVM file; make one with `stockade build`")]
    NotIgvm { file: String },
    /// The file is shorter or longer than it says.
    #[error("{file} has {found} bytes but should have {expected}; copy or build it again")]
    Length {
        file: String,
        found: u64,
        expected: u64,
    },
    /// The file is for other platforms.
    #[error("{file} is for {platforms}, not for SEV-SNP; take an image made by `stockade build`")]
    OtherPlatform { file: String, platforms: String },
    /// The file contradicts itself.
    #[error("{file} is damaged ({reason}); copy or build it again")]
    Damaged { file: String, reason: String },
    /// The file uses a part of the format we do not follow.
    #[error("{file} {reason}; take an image made by `stockade build`")]
    Unsupported { file: String, reason: String },
    /// The paravisor is no ELF file we can launch.
    #[error("the paravisor cannot be launched: {0}")]
    Paravisor(#[from] ElfError),
    /// The kernel is none.
    #[error(
        "{0}; take a bzImage, as distributions install it in /boot, or a multiboot or PVH kernel"
    )]
    Kernel(#[from] FormatError),
    /// The firmware is none.
    #[error("{0}; take OVMF_CODE_4M.fd and OVMF_VARS_4M.fd, as distributions package them (ovmf)")]
    Firmware(#[from] FirmwareError),
    /// Kernel, initrd and command line do not fit.
    #[error("{0}; give the guest more memory or smaller files")]
    Plan(#[from] PlanError),
    /// The guest's memory is impossible.
    #[error("{0}; choose another memory size")]
    Memory(#[from] RamError),
    /// The payload cannot be described.
    #[error("{0}; choose other files or another number of vCPUs")]
    Manifest(#[from] ManifestError),
    /// All payload files together exceed the staging range.
    #[error("the payload has {bytes} bytes, {STAGING_SIZE} fit; choose a smaller initrd")]
    PayloadTooLarge { bytes: u64 },
    /// The kernel would not see what stands behind it.
    #[error("the command line contains a NUL character; leave it out")]
    CommandLineNul,
    /// No key to sign with.
    #[error("{} is no P-384 key in PEM; make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384`", path.display())]
    IdKey { path: PathBuf },
    /// The library refused what we made.
    #[error("the image cannot be written as IGVM: {0}")]
    Igvm(#[from] igvm::Error),
}
