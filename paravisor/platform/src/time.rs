//! Time from the time-stamp counter.
//!
//! The frequency comes from what the PSP vouches for: the Secure TSC registers where that feature is on, else the CPUID page.
//! [`TscClock`] counts nanoseconds from its making by multiplication with a fixed-point [`Ratio`], exact to one for centuries:
//! every exit asks for the time, and a division of 128 bits costs more than all else it does.

use core::sync::atomic::{AtomicU64, Ordering};

use stockade_bus::{Clock, Nanoseconds};

use crate::cpuid::CpuidTable;
use crate::processor;

const NANOSECONDS: u64 = 1_000_000_000;
/// Leaf 15h: TSC and crystal clock (APM vol. 3, appendix E; Intel SDM).
const TSC_LEAF: u32 = 0x15;
/// Leaf 4000_0010h: TSC frequency in kHz, by convention of hypervisors.
const HYPERVISOR_TIMING_LEAF: u32 = 0x4000_0010;
/// Frequencies outside are taken for nonsense.
const PLAUSIBLE_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

/// The frequency of a Secure TSC whose nominal frequency is `nominal_mhz`, lowered by `factor` parts of 100,000
/// (APM vol. 2, 15.36.18; SNP ABI, section 8.17.2.5).
#[must_use]
pub fn secure_tsc_hz(nominal_mhz: u64, factor: u32) -> Option<u64> {
    let nominal = nominal_mhz.checked_mul(1_000_000)?;
    let correction = u128::from(nominal) * u128::from(factor) / 100_000;
    let hz = nominal.checked_sub(u64::try_from(correction).ok()?)?;
    PLAUSIBLE_HZ.contains(&hz).then_some(hz)
}

/// Returns the frequency the CPUID page gives, if it does.
#[must_use]
pub fn tsc_hz_from_cpuid(cpuid: &CpuidTable) -> Option<u64> {
    let [denominator, numerator, crystal_hz, _] = cpuid.lookup(TSC_LEAF, 0);
    let ratio = u64::from(crystal_hz)
        .checked_mul(u64::from(numerator))?
        .checked_div(u64::from(denominator));
    let [khz, ..] = cpuid.lookup(HYPERVISOR_TIMING_LEAF, 0);
    [ratio.unwrap_or(0), u64::from(khz) * 1000]
        .into_iter()
        .find(|hz| PLAUSIBLE_HZ.contains(hz))
}

/// A ratio of two frequencies, rounded up: 64 bits before and 64 behind the point.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    whole: u64,
    fraction: u64,
}

impl Ratio {
    /// # Panics
    /// If the divisor is 0.
    fn new(dividend: u64, divisor: u64) -> Self {
        let rest = u128::from(dividend % divisor) << 64;
        let fraction = rest.div_ceil(u128::from(divisor));
        Self {
            whole: dividend / divisor,
            // The rest is less than the divisor, and both fit into 63 bits.
            fraction: u64::try_from(fraction).unwrap_or(u64::MAX),
        }
    }

    /// Returns `value` times the ratio, not less than that and less than one more than that, cut off.
    fn of(self, value: u64) -> u64 {
        let value = u128::from(value);
        let behind = (value * u128::from(self.fraction)) >> 64;
        u64::try_from(value * u128::from(self.whole) + behind).unwrap_or(u64::MAX)
    }
}

/// The source of guest time. It never runs backwards, whatever the host does to the counter.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    start: u64,
    frequency_hz: u64,
    /// Nanoseconds in a tick.
    period: Ratio,
    /// Ticks in a nanosecond.
    rate: Ratio,
    latest: &'static AtomicU64,
}

impl TscClock {
    /// Returns a clock that starts at 0 now. `latest` is its own, and remembers the latest time seen on any processor.
    ///
    /// # Panics
    /// If the frequency is 0.
    #[must_use]
    pub fn new(frequency_hz: u64, latest: &'static AtomicU64) -> Self {
        Self::starting_at(read_tsc(), frequency_hz, latest)
    }

    fn starting_at(start: u64, frequency_hz: u64, latest: &'static AtomicU64) -> Self {
        assert!(frequency_hz != 0, "a counter that stands is no clock");
        Self {
            start,
            frequency_hz,
            period: Ratio::new(NANOSECONDS, frequency_hz),
            rate: Ratio::new(frequency_hz, NANOSECONDS),
            latest,
        }
    }

    /// Returns the counter's frequency.
    #[must_use]
    pub fn frequency_hz(&self) -> u64 {
        self.frequency_hz
    }

    /// Returns the counter's value at time `ns`: what [`crate::Ghcb::arm_timer`] takes. Never before that time.
    #[must_use]
    pub fn tsc_at(&self, ns: Nanoseconds) -> u64 {
        // One more than what is cut off: at that tick the time is there in any case.
        let ticks = self.rate.of(ns).saturating_add(1);
        self.start.saturating_add(ticks)
    }

    fn ns_at(&self, tsc: u64) -> Nanoseconds {
        self.period.of(tsc.saturating_sub(self.start))
    }
}

impl Clock for TscClock {
    fn now_ns(&self) -> Nanoseconds {
        let now = self.ns_at(read_tsc());
        // Another processor's later time is not written again: the cache line stays where it is.
        match self.latest.load(Ordering::Relaxed) {
            latest if latest >= now => latest,
            _ => self.latest.fetch_max(now, Ordering::Relaxed).max(now),
        }
    }
}

/// Reads the time-stamp counter.
#[must_use]
pub fn read_tsc() -> u64 {
    processor::read_tsc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use stockade_abi::cpuid_page::CpuidPage;

    fn clock(hz: u64) -> TscClock {
        TscClock::starting_at(1_000, hz, Box::leak(Box::default()))
    }

    fn table(leaf: u32, [eax, ebx, ecx]: [u32; 3]) -> CpuidTable {
        let mut page = CpuidPage::zeroed();
        page.count = 1;
        page.entries[0].eax_in = leaf;
        page.entries[0].eax = eax;
        page.entries[0].ebx = ebx;
        page.entries[0].ecx = ecx;
        CpuidTable::parse(&page).unwrap()
    }

    #[test]
    fn deadlines_are_never_early() {
        for hz in [1_000_000, 2_999_999_999, 3_000_000_000] {
            let clock = clock(hz);
            for ns in [0, 1, 999, 1_000_000_007, u64::MAX / 4] {
                assert!(clock.ns_at(clock.tsc_at(ns)) >= ns, "{hz} Hz, {ns} ns");
            }
        }
    }

    #[test]
    fn deadlines_are_late_by_less_than_two_ticks_and_a_nanosecond() {
        for hz in [1_000_000, 2_596_128_000, 3_000_000_001] {
            let clock = clock(hz);
            for ns in [0, 7, 999_999, 86_400_000_000_007] {
                let exact = u128::from(ns) * u128::from(hz) / 1_000_000_000;
                let late = u128::from(clock.tsc_at(ns) - 1_000) - exact;
                assert!(late <= 2, "{hz} Hz, {ns} ns: {late}");
            }
        }
    }

    #[test]
    fn a_century_does_not_overflow() {
        let clock = clock(5_000_000_000);
        let century_s = 100 * 365 * 86_400_u64;
        let tsc = 1_000 + century_s * 5_000_000_000;
        assert_eq!(clock.ns_at(tsc), century_s * 1_000_000_000);
        assert_eq!(clock.ns_at(0), 0);
    }

    /// A host that moves the counter back must not move the guest's time back.
    #[test]
    fn time_stands_when_the_counter_goes_back() {
        let clock = clock(1_000_000_000);
        clock.latest.store(u64::MAX - 1, Ordering::Relaxed);
        assert_eq!(clock.now_ns(), u64::MAX - 1);
    }

    #[test]
    fn leaf_15_gives_crystal_times_ratio() {
        let table = table(TSC_LEAF, [2, 6, 1_000_000_000]);
        assert_eq!(tsc_hz_from_cpuid(&table), Some(3_000_000_000));
    }

    #[test]
    fn implausible_or_missing_frequencies_are_none() {
        assert_eq!(tsc_hz_from_cpuid(&table(TSC_LEAF, [0, 1, 1])), None);
        assert_eq!(tsc_hz_from_cpuid(&table(TSC_LEAF, [1, 1, 1])), None);
        let huge = table(TSC_LEAF, [1, u32::MAX, u32::MAX]);
        assert_eq!(tsc_hz_from_cpuid(&huge), None);
        let hypervisor = table(HYPERVISOR_TIMING_LEAF, [2_450_000, 0, 0]);
        assert_eq!(tsc_hz_from_cpuid(&hypervisor), Some(2_450_000_000));
    }

    #[test]
    fn secure_frequency_is_nominal_less_the_factor() {
        assert_eq!(secure_tsc_hz(2_000, 0), Some(2_000_000_000));
        assert_eq!(secure_tsc_hz(2_000, 200), Some(1_996_000_000));
        assert_eq!(secure_tsc_hz(0, 0), None);
        assert_eq!(secure_tsc_hz(u64::MAX, 0), None);
        assert_eq!(secure_tsc_hz(2_000, u32::MAX), None);
    }
}
