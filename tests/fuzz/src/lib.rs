//! Fuzz targets: every place where bytes of a guest, a host, an image or a saved state are first looked at.
//!
//! A [`Target`] is a function of bytes that must return, whatever they are, and a few seeds to begin with. Two things call them:
//! `cargo test -p stockade-fuzz`, which runs each for some thousand mutated inputs, always the same ones, on stable Rust; and the
//! programs in `libfuzzer/`, which look for new paths as long as one lets them. How to run those is in `libfuzzer/README.md`.
//! A target panics on a broken promise (a value out of range, a restored device that behaves differently) as on any other bug.

#![expect(clippy::panic, reason = "a target panics on a broken promise")]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "the tests among the model's files")
)]

extern crate alloc;

pub mod apic_traffic;
pub mod chip_traffic;
pub mod corpus;
pub mod exits;
pub mod flash_traffic;
pub mod ghcb_answers;
pub mod guest_messages;
pub mod host_parameters;
pub mod igvm_files;
pub mod instructions;
pub mod kernels;
pub mod key_release;
pub mod manifests;
pub mod module_calls;
pub mod page_walks;
pub mod pci_traffic;
pub mod saved_states;
pub mod sealed_disks;
pub mod sealed_stores;
pub mod tpm_registers;
pub mod used_rings;
pub mod virtio_chains;
pub mod virtio_states;

mod input;
mod machine;
pub mod mutate;
mod pages;
mod sealed_host;

pub use input::Input;

/// Files of the SNP model, which is a bare-metal program and cannot be linked here.
#[path = "../../model/src"]
pub mod model {
    pub mod igvm_file;
}

/// A function to be called with any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its module and of its libFuzzer program.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Inputs that reach deep.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs the test tries: some thousands, fewer where one takes long.
    pub rounds: usize,
}

macro_rules! targets {
    ($($name:ident: $rounds:expr,)*) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name::run,
            seeds: $name::seeds,
            rounds: $rounds,
        }),*];
    };
}

targets! {
    exits: 2000,
    flash_traffic: 5000,
    instructions: 20_000,
    page_walks: 5000,
    kernels: 2000,
    key_release: 3000,
    manifests: 10_000,
    module_calls: 2000,
    host_parameters: 10_000,
    igvm_files: 10_000,
    ghcb_answers: 3000,
    guest_messages: 1000,
    apic_traffic: 3000,
    chip_traffic: 2000,
    pci_traffic: 3000,
    saved_states: 3000,
    sealed_disks: 3000,
    sealed_stores: 3000,
    tpm_registers: 5000,
    used_rings: 20_000,
    virtio_chains: 50_000,
    virtio_states: 50_000,
}
