//! Layout, manifest, guest loaders, ACPI tables and memory map.
//!
//! What the image builder and the paravisor must agree on ([`layout`], [`manifest`]), then in the order of a start: what the
//! host tells ([`parameters`]), what the guest gets ([`ram`], [`memory_map`], [`acpi`]), how its files come in ([`payload`]), and how it
//! is started ([`linux`], [`launch`]).
//! Pure logic without hardware: everything here is tested on the host.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;

pub mod acpi;
pub mod launch;
pub mod layout;
pub mod linux;
pub mod manifest;
pub mod memory_map;
pub mod parameters;
pub mod payload;
pub mod ram;
