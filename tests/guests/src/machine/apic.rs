//! The local APIC's registers (SDM 11.4, APM vol. 2, 16.3), by memory or by MSR as the mode is.

use core::sync::atomic::Ordering;

use super::memory::{read32, write32};
use super::processor::{cpuid, open, rdmsr, wrmsr};
use super::{cpu, time};

pub(crate) const BASE: u64 = 0xFEE0_0000;
pub(crate) const APIC_BASE: u32 = 0x1B;
pub(crate) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(crate) const BASE_X2APIC: u64 = 1 << 10;
pub(crate) const BASE_ENABLE: u64 = 1 << 11;

pub(crate) const ID: u32 = 0x20;
pub(crate) const VERSION: u32 = 0x30;
pub(crate) const TPR: u32 = 0x80;
pub(crate) const PPR: u32 = 0xA0;
pub(crate) const EOI: u32 = 0xB0;
pub(crate) const LDR: u32 = 0xD0;
pub(crate) const DFR: u32 = 0xE0;
pub(crate) const SVR: u32 = 0xF0;
pub(crate) const ISR: u32 = 0x100;
pub(crate) const TMR: u32 = 0x180;
pub(crate) const IRR: u32 = 0x200;
pub(crate) const ESR: u32 = 0x280;
pub(crate) const ICR: u32 = 0x300;
pub(crate) const ICR_HIGH: u32 = 0x310;
pub(crate) const LVT_TIMER: u32 = 0x320;
pub(crate) const LVT_THERMAL: u32 = 0x330;
pub(crate) const LVT_PERFORMANCE: u32 = 0x340;
pub(crate) const LVT_LINT0: u32 = 0x350;
pub(crate) const LVT_LINT1: u32 = 0x360;
pub(crate) const LVT_ERROR: u32 = 0x370;
pub(crate) const TIMER_INITIAL: u32 = 0x380;
pub(crate) const TIMER_CURRENT: u32 = 0x390;
pub(crate) const TIMER_DIVIDE: u32 = 0x3E0;

pub(crate) const MASKED: u32 = 1 << 16;
pub(crate) const PERIODIC: u32 = 1 << 17;
pub(crate) const TSC_DEADLINE: u32 = 2 << 17;
pub(crate) const TSC_DEADLINE_MSR: u32 = 0x6E0;
/// Divide by one.
pub(crate) const DIVIDE_1: u32 = 0b1011;

/// Delivery modes and other bits of the command register.
pub(crate) const LOWEST: u32 = 1 << 8;
pub(crate) const NMI: u32 = 4 << 8;
pub(crate) const INIT: u32 = 5 << 8;
pub(crate) const STARTUP: u32 = 6 << 8;
pub(crate) const EXTINT: u32 = 7 << 8;
pub(crate) const LOGICAL: u32 = 1 << 11;
pub(crate) const PENDING: u32 = 1 << 12;
pub(crate) const ASSERT: u32 = 1 << 14;
pub(crate) const LEVEL: u32 = 1 << 15;
pub(crate) const TO_SELF: u32 = 1 << 18;
pub(crate) const TO_ALL: u32 = 2 << 18;
pub(crate) const TO_OTHERS: u32 = 3 << 18;

pub(crate) const SPURIOUS_VECTOR: u8 = 0xFF;
pub(crate) const SOFTWARE_ENABLE: u32 = 1 << 8;

/// Returns this processor's APIC id by CPUID.
pub(crate) fn cpuid_id() -> u8 {
    (cpuid(1, 0).ebx >> 24) as u8
}

/// Looks which mode this processor's APIC is in.
pub(crate) fn follow_mode() {
    let is_x2apic = rdmsr(APIC_BASE) & BASE_X2APIC != 0;
    cpu::current().is_x2apic.store(is_x2apic, Ordering::Relaxed);
}

/// Returns whether this processor's APIC is in x2APIC mode.
pub(super) fn is_x2apic() -> bool {
    cpu::current().is_x2apic.load(Ordering::Relaxed)
}

/// Reads a register by its offset in the page.
pub(crate) fn read(register: u32) -> u32 {
    if is_x2apic() {
        rdmsr(0x800 + (register >> 4)) as u32
    } else {
        read32(BASE + u64::from(register))
    }
}

/// Writes a register.
pub(crate) fn write(register: u32, value: u32) {
    if is_x2apic() {
        wrmsr(0x800 + (register >> 4), u64::from(value));
    } else {
        write32(BASE + u64::from(register), value);
    }
}

/// Ends the interrupt in service.
pub(crate) fn eoi() {
    write(EOI, 0);
}

/// Returns the bit of a vector in ISR, TMR or IRR.
pub(crate) fn bit(bank: u32, vector: u8) -> bool {
    read(bank + u32::from(vector >> 5) * 0x10) >> (vector & 31) & 1 != 0
}

/// Returns the number of vectors set in a bank.
pub(crate) fn bits(bank: u32) -> u32 {
    (0..8)
        .map(|word| read(bank + word * 0x10).count_ones())
        .sum()
}

/// Sends an interprocessor interrupt.
pub(crate) fn send(destination: u32, command: u32) {
    if is_x2apic() {
        wrmsr(0x830, u64::from(destination) << 32 | u64::from(command));
        return;
    }
    write(ICR_HIGH, destination << 24);
    write(ICR, command);
    time::until(100_000, || read(ICR) & PENDING == 0);
}

/// Sends a fixed interrupt to this processor by the shorthand.
pub(crate) fn send_self(vector: u8) {
    send(0, TO_SELF | ASSERT | u32::from(vector));
}

/// Reads the error status, which a write makes current (SDM 11.5.3).
pub(crate) fn errors() -> u32 {
    write(ESR, 0);
    read(ESR)
}

/// Returns what the error register says that `body` did.
pub(crate) fn errors_of(body: impl FnOnce()) -> u32 {
    write(ESR, 0);
    write(ESR, 0);
    body();
    errors()
}

/// Makes this processor's APIC as a kernel would: xAPIC mode, software-enabled, all sources masked, nothing pending.
pub(crate) fn reset() {
    let base = rdmsr(APIC_BASE);
    if base & BASE_X2APIC != 0 {
        wrmsr(APIC_BASE, BASE | base & BASE_BOOTSTRAP);
    }
    let wanted = BASE | base & BASE_BOOTSTRAP | BASE_ENABLE;
    if rdmsr(APIC_BASE) != wanted {
        wrmsr(APIC_BASE, wanted);
    }
    follow_mode();
    write(TIMER_INITIAL, 0);
    for lvt in [
        LVT_TIMER,
        LVT_THERMAL,
        LVT_PERFORMANCE,
        LVT_LINT0,
        LVT_LINT1,
        LVT_ERROR,
    ] {
        write(lvt, MASKED);
    }
    write(SVR, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(TPR, 0);
    write(DFR, u32::MAX);
    write(LDR, 0);
    write(ICR_HIGH, 0);
    write(TIMER_DIVIDE, DIVIDE_1);
    drain();
    write(ESR, 0);
    write(ESR, 0);
}

/// Takes and ends all that is pending or in service.
fn drain() {
    for _ in 0..256 {
        if bits(ISR) == 0 {
            break;
        }
        eoi();
    }
    if bits(IRR) != 0 {
        time::until(10_000, || {
            open();
            bits(IRR) == 0
        });
    }
}

/// Arms the timer.
pub(crate) fn start_timer(lvt: u32, divide: u32, count: u32) {
    write(TIMER_DIVIDE, divide);
    write(LVT_TIMER, lvt);
    write(TIMER_INITIAL, count);
}
