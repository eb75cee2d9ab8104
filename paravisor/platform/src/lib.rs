//! The paravisor's only unsafe crate besides `stockade-entry`: GHCB, VMSA, RMP, paging, memory.
//!
//! Read it in the order of a start: `boot` checks the processor and the host, builds [`Platform`] and calls the program.
//! [`ghcb`] is every call to the host with its answer checked; [`doorbell`] what the host may tell us unasked; [`vmsa`] the
//! guest's registers and the entry into VMPL2; [`memory`] guest RAM; [`module`] address spaces at CPL-3; [`psp`] the way to the secure processor; [`time`],
//! [`random`], [`cpuid`] and `console` what the rest stands on.
//!
//! Everything but `boot` and what it installs (exception and panic handlers, the allocator) is tested on the host; those are
//! behind the feature `image`. Interrupts are off throughout: the only asynchronous thing is #HV, which does nothing.

#![no_std]
#![expect(
    unsafe_code,
    reason = "one of the paravisor's two homes of unsafe: processor instructions, page tables, shared memory"
)]
#![cfg_attr(
    not(feature = "image"),
    expect(
        dead_code,
        reason = "on the host, what only the start uses is there for its tests"
    )
)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "image")]
pub mod boot;
mod bounce;
#[cfg(feature = "image")]
pub mod console;
#[cfg(feature = "image")]
mod cpu;
pub mod cpuid;
pub mod doorbell;
mod error;
#[cfg(feature = "image")]
mod exception;
mod extended;
pub mod ghcb;
mod machine;
pub mod memory;
pub mod module;
mod msr_protocol;
mod paging;
#[cfg(feature = "image")]
mod panic;
mod processor;
pub mod psp;
pub mod random;
mod shared;
#[cfg(feature = "image")]
mod stop;
pub mod time;
pub mod vmsa;

pub use bounce::SharedRegion;
pub use error::HostError;
pub use ghcb::Ghcb;
pub use machine::{Cpu, Launch, Platform};
pub use processor::RmpFailure;
pub use shared::{SHARED_PAGE_SIZE, SharedPage};
#[cfg(feature = "image")]
pub use stop::stop;
