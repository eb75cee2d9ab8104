//! Layout, manifest, guest loaders, ACPI tables and memory map.
//!
//! What the image builder and the paravisor must agree on ([`layout`], [`manifest`]), then in the order of a start: what the
//! host tells ([`parameters`]), what the guest gets ([`ram`], [`memory_map`], [`acpi`]), how its files come in ([`payload`], [`load`]),
//! what kind of kernel it has ([`mod@format`], [`linux`], [`multiboot`], [`pvh`], [`kernel`]), how that is started ([`launch`]),
//! or firmware of the guest's own ([`firmware`]), what that is told by files ([`loader_script`], [`smbios`]), and what a TPM is told of all
//! that ([`measured`]).
//! Pure logic without hardware: everything here is tested on the host.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;

pub mod acpi;
mod bios_data;
mod bios_vectors;
pub mod firmware;
pub mod format;
pub mod kernel;
pub mod launch;
pub mod layout;
pub mod linux;
pub mod load;
pub mod loader_script;
pub mod manifest;
pub mod measured;
pub mod memory_map;
pub mod multiboot;
pub mod parameters;
pub mod payload;
pub mod pvh;
pub mod ram;
pub mod smbios;
