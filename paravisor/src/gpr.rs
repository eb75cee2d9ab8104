//! General-purpose registers by their numbers in instructions, and RIP behind one.

use stockade_abi::vmsa::Vmsa;

const RFLAGS_RF: u64 = 1 << 16;

/// A register's place in a save area, by ModRM and REX (APM vol. 3, 1.4.1).
macro_rules! place {
    ($number:expr, $vmsa:ident, $($borrow:tt)*) => {
        match $number {
            0 => $($borrow)* $vmsa.rax,
            1 => $($borrow)* $vmsa.rcx,
            2 => $($borrow)* $vmsa.rdx,
            3 => $($borrow)* $vmsa.rbx,
            4 => $($borrow)* $vmsa.rsp,
            5 => $($borrow)* $vmsa.rbp,
            6 => $($borrow)* $vmsa.rsi,
            7 => $($borrow)* $vmsa.rdi,
            8 => $($borrow)* $vmsa.r8,
            9 => $($borrow)* $vmsa.r9,
            10 => $($borrow)* $vmsa.r10,
            11 => $($borrow)* $vmsa.r11,
            12 => $($borrow)* $vmsa.r12,
            13 => $($borrow)* $vmsa.r13,
            14 => $($borrow)* $vmsa.r14,
            _ => $($borrow)* $vmsa.r15,
        }
    };
}

/// Returns what a register has.
pub(crate) fn value(vmsa: &Vmsa, number: u8) -> u64 {
    *place!(number, vmsa, &)
}

/// Returns a register.
pub(crate) fn register(vmsa: &mut Vmsa, number: u8) -> &mut u64 {
    place!(number, vmsa, &mut)
}

/// Completes an instruction that the next one follows at `rip` (step 6 of the run loop).
pub(crate) fn complete(vmsa: &mut Vmsa, rip: u64) {
    vmsa.rip = rip;
    vmsa.vintr_ctrl.set_int_shadow(false);
    vmsa.rflags &= !RFLAGS_RF;
}

/// Completes an instruction of `len` bytes.
pub(crate) fn advance(vmsa: &mut Vmsa, len: u8) {
    complete(vmsa, vmsa.rip.wrapping_add(u64::from(len)));
}
