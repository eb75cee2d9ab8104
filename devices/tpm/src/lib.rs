//! The TPM's engine, a program of its own: in the paravisor an isolated module, on Linux a process that can be run, tested and fuzzed.
//!
//! What it is asked comes in by [`serve()`] (the module's channel) or by the simulator protocol (`--socket`), goes to the [`Tpm`], which
//! knows what a machine does to its TPM (power, manufacture, save), and from there to an [`Engine`], which knows how to be
//! a TPM. The one engine so far is libtpms, behind the feature `libtpms`. What must last is kept by [`Records`], whole or
//! not at all ([`blob`]).

#![deny(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod attestation;
pub mod blob;
mod endorsement;
mod engine;
#[cfg(feature = "libtpms")]
#[expect(
    unsafe_code,
    reason = "C libraries and inherited descriptors; in the paravisor all of it runs at CPL 3"
)]
pub mod foreign;
mod machine;
mod records;
mod serve;
pub mod simulator;

pub use attestation::{Attester, ChannelAttester};
pub use engine::{Engine, EngineError};
pub use machine::{Tpm, TpmError};
pub use records::{ChannelRecords, FolderRecords, MemoryRecords, RecordError, Records};
pub use serve::{answer, serve};
