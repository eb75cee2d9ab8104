//! Guest exits decoded ([`exit`](mod@exit)), answered by policy ([`cpuid`], [`msr`]) or by instruction emulation ([`emulate`], [`walk`]).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cpuid;
pub mod emulate;
pub mod exit;
pub mod msr;
pub mod walk;
