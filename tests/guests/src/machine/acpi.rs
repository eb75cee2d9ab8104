//! ACPI fixed hardware at PMBASE 600 (ACPI 6.5, 4.8).

use super::port::inl;

pub(crate) const PM1_STATUS: u16 = 0x600;
pub(crate) const PM1_ENABLE: u16 = 0x602;
pub(crate) const PM1_CONTROL: u16 = 0x604;
pub(crate) const TIMER: u16 = 0x608;
pub(crate) const TIMER_HZ: u64 = 3_579_545;

/// Reads the timer.
pub(crate) fn timer() -> u32 {
    inl(TIMER)
}
