//! Time: the TSC, and what its frequency is.
//!
//! Calibration compares the TSC and the local APIC's timer with the ACPI PM timer over a sleep: nothing spins, which under
//! `-icount` would be dear.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{lapic, pic};

/// The PM timer's frequency. ACPI 6.5, 4.8.3.3.
const PM_TIMER_HZ: u64 = 3_579_545;
/// The PM timer's width that may be relied on.
const PM_TIMER_MASK: u32 = 0xFF_FFFF;

static TSC_KHZ: AtomicU64 = AtomicU64::new(1_000_000);
static LAPIC_KHZ: AtomicU64 = AtomicU64::new(1_000_000);
static BOOT_TSC: AtomicU64 = AtomicU64::new(0);

/// Returns the time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every processor in long mode has a TSC, and CR4.TSD is clear.
    unsafe { x86::time::rdtsc() }
}

/// Returns the TSC's frequency in kHz.
#[must_use]
pub fn tsc_khz() -> u64 {
    TSC_KHZ.load(Ordering::Relaxed)
}

/// Returns the nanoseconds since the model took over.
#[must_use]
pub fn since_boot_ns() -> u64 {
    ticks_to_ns(tsc().wrapping_sub(BOOT_TSC.load(Ordering::Relaxed)))
}

/// Converts TSC ticks to nanoseconds.
#[must_use]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    scale(ticks, 1_000_000, tsc_khz())
}

/// Converts nanoseconds to TSC ticks.
#[must_use]
pub fn ns_to_ticks(ns: u64) -> u64 {
    scale(ns, tsc_khz(), 1_000_000)
}

/// Converts TSC ticks to ticks of the local APIC's timer.
pub(super) fn ticks_to_lapic(ticks: u64) -> u64 {
    scale(ticks, LAPIC_KHZ.load(Ordering::Relaxed), tsc_khz())
}

/// `value * numerator / denominator`, as much as fits.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product / u128::from(denominator.max(1))).unwrap_or(u64::MAX)
}

/// Starts the clock.
pub(super) fn start() {
    BOOT_TSC.store(tsc(), Ordering::Relaxed);
}

/// Finds the frequencies; `tsc_khz` is believed when given.
pub(super) fn calibrate(pm_timer_port: u16, tsc_khz: Option<u64>) {
    lapic::set_timer(u32::MAX);
    let before = Reading::take(pm_timer_port);
    pic::sleep_20_ms();
    let after = Reading::take(pm_timer_port);
    lapic::set_timer(0);
    let pm_ticks = u64::from(after.pm.wrapping_sub(before.pm) & PM_TIMER_MASK);
    let khz = |ticks: u64| scale(ticks, PM_TIMER_HZ, pm_ticks.saturating_mul(1000));
    let measured = khz(after.tsc.wrapping_sub(before.tsc));
    LAPIC_KHZ.store(
        khz(u64::from(before.lapic.wrapping_sub(after.lapic))).max(1),
        Ordering::Relaxed,
    );
    TSC_KHZ.store(tsc_khz.unwrap_or(measured).max(1), Ordering::Relaxed);
    log::info!(
        "TSC {} kHz (measured {measured}), APIC timer {} kHz",
        self::tsc_khz(),
        LAPIC_KHZ.load(Ordering::Relaxed)
    );
}

/// The three counters at one moment.
struct Reading {
    pm: u32,
    tsc: u64,
    lapic: u32,
}

impl Reading {
    /// Reads them closest together of a few tries.
    fn take(pm_timer_port: u16) -> Self {
        let mut best = (
            u64::MAX,
            Self {
                pm: 0,
                tsc: 0,
                lapic: 0,
            },
        );
        for _ in 0..5 {
            let start = tsc();
            // SAFETY: the port is the PM timer, which a read does not change.
            let pm = unsafe { x86::io::inl(pm_timer_port) };
            let lapic = lapic::current_count();
            let end = tsc();
            let width = end.wrapping_sub(start);
            if width < best.0 {
                best = (
                    width,
                    Self {
                        pm,
                        tsc: start + width / 2,
                        lapic,
                    },
                );
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_does_not_overflow_on_the_way() {
        assert_eq!(scale(u64::MAX, 1000, 1000), u64::MAX);
        assert_eq!(scale(u64::MAX, 2, 1), u64::MAX);
        assert_eq!(scale(3_000_000, 1_000_000, 3_000_000), 1_000_000);
    }
}
