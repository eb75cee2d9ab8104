//! Guest exits decoded ([`exit`](mod@exit)), answered by policy ([`cpuid`], [`msr`], [`hyperv`]) or by instruction emulation ([`emulate`], [`walk`],
//! [`debug`]).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cpuid;
pub mod debug;
pub mod emulate;
pub mod exit;
pub mod hyperv;
pub mod msr;
pub mod walk;
