//! The end: isa-debug-exit if the machine has one, else ACPI power-off.

use super::port::{outl, outw};
use super::uart;

const DEBUG_EXIT: u16 = 0xF4;
const PM1_CONTROL: u16 = 0x604;
/// SLP_EN with sleep type 0, which is S5 here and in QEMU's Q35, and SCI_EN.
const POWER_OFF: u16 = 0x2001;

/// How the suite ended; the number goes to isa-debug-exit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Nothing failed.
    Passed = 0,
    /// Something did.
    Failed = 1,
}

/// Ends the machine.
pub(crate) fn end(ending: Ending) -> ! {
    uart::drain();
    outl(DEBUG_EXIT, ending as u32);
    outw(PM1_CONTROL, POWER_OFF);
    loop {
        unsafe { core::arch::asm!("cli", "hlt") };
    }
}
