//! Layout, manifest, guest loaders, ACPI tables and memory map.
//!
//! What the image builder and the paravisor must agree on ([`layout`]), read in the order of a start.
//! Pure logic without hardware: everything here is tested on the host.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod layout;
