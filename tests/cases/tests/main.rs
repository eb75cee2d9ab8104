//! The end-to-end cases, what a user does, a subject a file: `cargo test --release -p stockade-cases disk::` runs those of one.
//!
//! They are one program, so that the last machine of a subject does not run alone: two start at a time, whatever they are about.

mod acpi;
mod attestation;
mod bad_input;
mod conformance;
mod console;
mod devices;
mod disk;
mod disk_queues;
mod docs;
mod ends;
mod enlightened;
mod firmware;
mod firmware_clients;
mod firmware_configuration;
mod firmware_resets;
mod framebuffer;
mod hostile;
mod hostile_boot_disk;
mod hostile_sealed;
mod hostile_variables;
mod hostile_virtio;
mod hyperv;
mod idle;
mod images;
mod key_release;
mod latency;
mod memory_clear;
mod memtest;
mod model;
mod module_time;
mod modules;
mod net;
mod net_tap;
mod pci;
mod power_button;
mod power_cut;
mod repeatable;
mod sealing;
mod self_check;
mod smp;
mod state;
mod stock_disk;
mod tpm;
mod tpm_broken;
mod tpm_channel;
mod tpm_engine;
mod tpm_firmware;
mod tpm_state;
mod tpm_suites;
mod tpm_uses;
mod variables;
mod virtio_console;
mod xen;

/// A subject nobody names here would pass by never being tried.
#[test]
fn every_file_of_cases_is_part_of_this_program() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let all = include_str!("main.rs");
    for entry in std::fs::read_dir(folder).expect("this is its folder") {
        let path = entry.expect("it can be read").path();
        let Some(subject) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        let is_named = all.contains(&format!("mod {subject};"));
        assert!(is_named || subject == "main" || path.is_dir(), "{subject}");
    }
}
