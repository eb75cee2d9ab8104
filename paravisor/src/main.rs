//! The bare-metal program: the run loop of the library on the platform's hardware.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "the platform calls the program by its exported symbol"
)]

use stockade_platform::{Platform, stop};

#[unsafe(no_mangle)]
fn paravisor_main(platform: Platform) -> ! {
    log::info!("{} vCPU", platform.launch.parameters.vcpu_count);
    let _ = platform.cpu.ghcb.power_off();
    stop(stockade_abi::terminate::StopReason::INTERNAL_PANIC)
}
