//! Port I/O.

use core::arch::asm;

/// Reads a byte.
pub(crate) fn inb(port: u16) -> u8 {
    let value;
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(preserves_flags)) };
    value
}

/// Reads a word.
pub(crate) fn inw(port: u16) -> u16 {
    let value;
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(preserves_flags)) };
    value
}

/// Reads a double word.
pub(crate) fn inl(port: u16) -> u32 {
    let value;
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(preserves_flags)) };
    value
}

/// Writes a byte.
pub(crate) fn outb(port: u16, value: u8) {
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(preserves_flags)) };
}

/// Writes a word.
pub(crate) fn outw(port: u16, value: u16) {
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(preserves_flags)) };
}

/// Writes a double word.
pub(crate) fn outl(port: u16, value: u32) {
    unsafe { asm!("out dx, eax", in("eax") value, in("dx") port, options(preserves_flags)) };
}
