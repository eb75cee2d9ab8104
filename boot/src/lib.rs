//! Layout, manifest, guest loaders, ACPI tables and memory map.

#![no_std]
