//! The bare-metal program: starts, runs the suite, says how it went, ends the machine.
//!
//! What it checks, how it is started and what it says is described in the crate's library.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the program owns the whole machine and does on purpose what must fault; each check's claim says why"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are taken apart by width everywhere"
)]

mod bench;
mod machine;
mod suite;

use core::panic::PanicInfo;

use machine::console::say;
use machine::exit;

/// Called by the assembly in 64-bit mode on the first processor.
#[unsafe(no_mangle)]
extern "C" fn guest_main(is_multiboot: u32, information: u64) -> ! {
    let options = machine::init(is_multiboot != 0, information);
    exit::end(if options.is_bench() {
        bench::run(&options)
    } else {
        suite::run(&options)
    })
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    say!("panic: {information}");
    exit::end(exit::Ending::Failed)
}
