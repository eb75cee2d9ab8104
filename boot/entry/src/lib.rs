//! The paravisor's assembly: its first instructions, exception stubs, and the few routines whose exact instructions matter.
//!
//! In the order of a start: `start` accepts the memory that was not launched and calls Rust; [`exception`] has the stubs of
//! all 256 vectors; [`window`] leaves for the host unless the host has just signalled; [`copy`] touches memory another may
//! take away; [`module`] enters programs at CPL-3; `memory` is what the compiler expects of a libc. Everything that only makes sense in the bare-metal image is
//! behind the feature `image`; the rest runs in tests on the host.

#![no_std]
#![expect(
    unsafe_code,
    reason = "one of the paravisor's two homes of unsafe: entry and exception stubs are assembly"
)]

#[cfg(test)]
extern crate std;

pub mod copy;
pub mod exception;
#[cfg(any(test, feature = "image"))]
mod memory;
pub mod module;
#[cfg(feature = "image")]
mod start;
pub mod window;
