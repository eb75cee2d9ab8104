//! Instructions: MSRs, control registers, CPUID, flags.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Reads an MSR.
pub(crate) fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
pub(crate) fn wrmsr(msr: u32, value: u64) {
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32) };
}

/// Asks CPUID.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Returns a bit of CPUID leaf 1, ECX.
pub(crate) fn has_feature_ecx(bit: u32) -> bool {
    cpuid(1, 0).ecx >> bit & 1 != 0
}

/// Reads the time stamp counter.
pub(crate) fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads CR2.
pub(crate) fn cr2() -> u64 {
    let value;
    unsafe { asm!("mov {}, cr2", out(reg) value) };
    value
}

/// Reads CR3.
pub(crate) fn cr3() -> u64 {
    let value;
    unsafe { asm!("mov {}, cr3", out(reg) value) };
    value
}

/// Reads CR4.
pub(crate) fn cr4() -> u64 {
    let value;
    unsafe { asm!("mov {}, cr4", out(reg) value) };
    value
}

/// Writes CR4.
pub(crate) fn set_cr4(value: u64) {
    unsafe { asm!("mov cr4, {}", in(reg) value) };
}

/// Reads CR8.
pub(crate) fn cr8() -> u64 {
    let value;
    unsafe { asm!("mov {}, cr8", out(reg) value) };
    value
}

/// Writes CR8.
pub(crate) fn set_cr8(value: u64) {
    unsafe { asm!("mov cr8, {}", in(reg) value) };
}

/// Turns interrupts off.
pub(crate) fn cli() {
    unsafe { asm!("cli") };
}

/// Turns interrupts on.
pub(crate) fn sti() {
    unsafe { asm!("sti") };
}

/// Lets what is pending come: interrupts are on for a moment.
pub(crate) fn open() {
    unsafe { asm!("sti", "nop", "nop", "nop", "cli") };
}

/// Halts with interrupts on, and turns them off again.
pub(crate) fn halt() {
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Tells the processor that this is a waiting loop.
pub(crate) fn pause() {
    core::hint::spin_loop();
}
