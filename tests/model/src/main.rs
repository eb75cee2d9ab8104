//! The bare-metal program of the SNP model: its entry, after the assembly, and its end by panic.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "an exported symbol and the image's own bounds")]

use core::panic::PanicInfo;

use stockade_model::machine;
use stockade_model::machine::exit::{Ending, fail};

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Called by the assembly in 64-bit mode on the first processor.
#[unsafe(no_mangle)]
extern "C" fn model_main(start_info: u64) -> ! {
    let image = address(&raw const image_start)..address(&raw const image_end);
    // SAFETY: this is the first call of all, with the loader's address, and the linker script says where the image lies.
    match unsafe { machine::init(start_info, image) } {
        Ok(boot) => stockade_model::start(&boot),
        Err(error) => fail(Ending::Refused, error),
    }
}

fn address(label: *const u8) -> u64 {
    label.addr() as u64
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(Ending::Bug, format_args!("panic {info}"))
}
