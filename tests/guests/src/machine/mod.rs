//! The computer the suite runs on: start, traps, memory, time, other processors, and the chips' registers.
//!
//! Everything here is as thin as it can be: a check must see what the machine does and not what a driver makes of it.

pub(crate) mod acpi;
pub(crate) mod apic;
pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod exit;
mod intrinsics;
pub(crate) mod ioapic;
pub(crate) mod legacy;
pub(crate) mod memory;
pub(crate) mod options;
pub(crate) mod pic;
pub(crate) mod pit;
pub(crate) mod port;
pub(crate) mod processor;
pub(crate) mod rtc;
pub(crate) mod segments;
pub(crate) mod smp;
pub(crate) mod time;
pub(crate) mod trap;
pub(crate) mod uart;
pub(crate) mod x2apic;

use core::arch::global_asm;

use options::Options;

global_asm!(include_str!("boot.s"), options(att_syntax));

/// Makes the first processor ready, with interrupts off, and returns the words of the command line.
pub(crate) fn init(is_multiboot: bool, information: u64) -> Options {
    uart::init();
    // The loader's areas in low memory are about to be overwritten.
    let options = Options::read(is_multiboot, information);
    cpu::init(usize::from(apic::cpuid_id()));
    segments::load();
    trap::init();
    pic::init();
    time::calibrate();
    console::say!("start {}", if is_multiboot { "multiboot" } else { "pvh" });
    options
}
