//! x2APIC mode (SDM 11.12).

use core::sync::atomic::Ordering;

use super::apic::{APIC_BASE, BASE_ENABLE, BASE_X2APIC};
use super::cpu;
use super::processor::{has_feature_ecx, rdmsr, wrmsr};

pub(crate) const ID: u32 = 0x802;
pub(crate) const VERSION: u32 = 0x803;
pub(crate) const TPR: u32 = 0x808;
pub(crate) const PPR: u32 = 0x80A;
pub(crate) const EOI: u32 = 0x80B;
pub(crate) const LDR: u32 = 0x80D;
pub(crate) const SVR: u32 = 0x80F;
pub(crate) const ISR: u32 = 0x810;
pub(crate) const TMR: u32 = 0x818;
pub(crate) const IRR: u32 = 0x820;
pub(crate) const ESR: u32 = 0x828;
pub(crate) const ICR: u32 = 0x830;
pub(crate) const LVT_TIMER: u32 = 0x832;
pub(crate) const TIMER_INITIAL: u32 = 0x838;
pub(crate) const TIMER_CURRENT: u32 = 0x839;
pub(crate) const TIMER_DIVIDE: u32 = 0x83E;
pub(crate) const SELF_IPI: u32 = 0x83F;

/// Returns whether CPUID offers it.
pub(crate) fn is_offered() -> bool {
    has_feature_ecx(21)
}

/// Turns it on for this processor; the way back is [`apic::reset`](super::apic::reset).
pub(crate) fn enable() {
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | BASE_ENABLE | BASE_X2APIC);
    cpu::current().is_x2apic.store(true, Ordering::Relaxed);
}
