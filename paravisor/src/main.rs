//! The bare-metal program: the run loop of the library on the platform's hardware.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "the platform calls the program by its exported symbol"
)]

extern crate alloc;

mod adapters;
mod disk_keys;
mod firmware;
mod fit;
mod flash;
mod identity;
mod modules;
mod sealing;
mod start;
mod store;

use stockade_platform::Platform;

/// Called by the platform once the machine is checked and accepted.
#[unsafe(no_mangle)]
fn paravisor_main(platform: Platform) -> ! {
    start::run(platform)
}
