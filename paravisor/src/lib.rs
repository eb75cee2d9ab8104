//! The paravisor: run loop, dispatch, machine wiring.
//!
//! Read it in the order an exit takes: [`run_loop`] enters the guest and takes its exit, [`dispatch`](dispatch) answers it with
//! [`registers`](registers) or a device of the [`machine`] through [`vcpu::Bus`], [`inject`](inject) gives the guest its
//! interrupts. [`guest`] is the start, [`host`] what all of it stands on. Everything here is safe code over the traits of [`host`]
//! and runs in tests on any machine; `main.rs` puts it on the platform.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod guest;
pub mod run_loop;

mod console;
mod dispatch;
mod inject;
mod registers;

pub mod machine;
pub mod stats;
pub mod vcpu;
pub mod wires;

pub mod host;
