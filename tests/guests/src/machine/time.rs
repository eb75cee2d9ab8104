//! Time by the TSC, measured against the ACPI timer.

use core::sync::atomic::{AtomicU64, Ordering};

use super::acpi;
use super::processor::{cli, pause, rdtsc, sti};

static HZ: AtomicU64 = AtomicU64::new(1_000_000_000);

/// Measures the TSC over 20 ms. If the ACPI timer stands still the TSC is taken to run at 1 GHz, and that timer's checks fail.
pub(super) fn calibrate() {
    let (start, start_ticks) = (rdtsc(), acpi::timer());
    for _ in 0..50_000_000_u64 {
        let ticks = u64::from(acpi::timer().wrapping_sub(start_ticks) & 0xFF_FFFF);
        if ticks >= acpi::TIMER_HZ / 50 {
            let cycles = rdtsc() - start;
            let hz = u128::from(cycles) * u128::from(acpi::TIMER_HZ) / u128::from(ticks);
            HZ.store(u64::try_from(hz).unwrap_or(u64::MAX), Ordering::Relaxed);
            return;
        }
        if rdtsc() - start > 20_000_000_000 {
            return;
        }
    }
}

/// Returns how often the TSC counts a second.
pub(crate) fn tsc_hz() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// Returns microseconds as TSC cycles.
pub(crate) fn cycles(us: u64) -> u64 {
    (u128::from(us) * u128::from(tsc_hz()) / 1_000_000) as u64
}

/// Waits until `is_done` or `us` microseconds have passed, and returns whether it was done.
pub(crate) fn until(us: u64, mut is_done: impl FnMut() -> bool) -> bool {
    let (start, wait) = (rdtsc(), cycles(us));
    loop {
        if is_done() {
            return true;
        }
        if rdtsc().wrapping_sub(start) >= wait {
            return is_done();
        }
        pause();
    }
}

/// Waits.
pub(crate) fn wait(us: u64) {
    until(us, || false);
}

/// Waits with interrupts on until `is_done` or `us` microseconds have passed, and returns whether it was done.
pub(crate) fn until_interrupted(us: u64, is_done: impl FnMut() -> bool) -> bool {
    sti();
    let done = until(us, is_done);
    cli();
    done
}

/// Waits with interrupts on.
pub(crate) fn wait_interrupted(us: u64) {
    until_interrupted(us, || false);
}
