//! The computer the model runs on: what QEMU gives a PVH kernel, made ready for a hypervisor.
//!
//! [`init`](boot::init) makes the first processor ready and returns the [`Boot`](boot::Boot); [`smp::start`] brings the others.

pub mod frames;
pub mod memory;
pub mod options;
pub mod processor;
