//! IGVM images: building and reading them.
//!
//! [`build()`] packs paravisor and payload for a confidential start, [`enlightened()`] packs a kernel that knows of SNP and needs no
//! paravisor. Both return the file's bytes; [`write()`] puts them on disk whole or not at all, [`Image`] reads them back.
//! `crate::measure` and `crate::inspect` work on an [`Image`].

mod build;
mod cpuid;
mod elf;
mod enlightened;
mod error;
mod file;
mod firmware_file;
mod id_block;
mod kernel_file;
mod page_tables;
mod pages;
mod parts;
mod program_file;
mod vmsa;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

pub use build::{BuildOptions, DEFAULT_POLICY, build};
pub use cpuid::LEAVES;
pub use elf::{ElfError, Paravisor};
pub use enlightened::{EnlightenedOptions, ZeroPages, enlightened};
pub use error::ImageError;
pub use file::{Image, read, write};
pub use firmware_file::{Firmware, FirmwareItem};
pub use id_block::Identity;
pub use kernel_file::{Module, read_kernel};
pub use program_file::{ProgramError, check_program};
