//! The end: what the model tells QEMU, architecture.md section 4.

use core::fmt;

use super::console;

/// Why the model ends; the number goes to QEMU's isa-debug-exit device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff = 0x10,
    /// The guest terminated by the GHCB MSR protocol.
    Terminated = 0x11,
    /// The model refuses the image or its command line.
    Refused = 0x12,
    /// Hardware would have stopped the VM.
    Stopped = 0x13,
    /// A bug of the model.
    Bug = 0x14,
}

/// The port of isa-debug-exit.
const EXIT_PORT: u16 = 0xF4;

/// Ends QEMU; without the device it stops the processor.
pub fn exit(ending: Ending) -> ! {
    // SAFETY: the port belongs to isa-debug-exit, or to nobody.
    unsafe { x86::io::outl(EXIT_PORT, ending as u32) };
    loop {
        // SAFETY: nothing is left to run here.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Prints `model-error: …` and ends QEMU.
pub fn fail(ending: Ending, error: impl fmt::Display) -> ! {
    console::line(format_args!("model-error: {error}"));
    exit(ending)
}
