//! The paravisor: run loop, dispatch, machine wiring.
//!
//! Read it in the order an exit takes: [`run_loop`] enters the guest and takes its exit, `quick` answers the commonest kinds on the
//! spot, `dispatch` all others with `registers` or a device of the [`machine`] through [`vcpu::Bus`], `inject` gives the guest its
//! interrupts. [`crew`] is what vCPUs know of each other, [`module`] what else runs on them, [`life`] how they start and end together, [`guest`] what the guest starts
//! with, [`host`] what all of it stands on. Everything here is safe code over the traits of [`host`]
//! and runs in tests on any machine; `main.rs` puts it on the platform.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod run_loop;

mod quick;

mod dispatch;
mod gpr;
mod registers;
mod short;

mod inject;

mod console;
mod share;
mod startup;

pub mod boot_order;
pub mod crew;
pub mod firmware_files;
pub mod guest;
pub mod key_line;
pub mod life;
pub mod machine;
pub mod module;
pub mod patience;
pub mod records;
pub mod screen;
pub mod stats;
pub mod tpm;
pub mod variables;
pub mod vcpu;
pub mod vigil;
pub mod virtio;
pub mod wires;

pub mod host;
pub mod hyperv;
