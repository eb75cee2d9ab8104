//! How long a device may gather before it is looked at.
//!
//! Gathering saves calls of the host and visits of the guest, and costs a request time: at most what some of them take. What they take is
//! measured, for it is microseconds on a processor and a hundred times that where one is emulated.

/// So many calls are what gathering may cost: the look that ends it takes a few.
const CALLS: u64 = 64;
/// Bounds, in nanoseconds: a host that answers slowly makes nobody wait for long.
const LEAST_NS: u64 = 50_000;
const MOST_NS: u64 = 4_000_000;
/// So many calls a sleep costs: itself, the signal that ends it, the end of the signal and the way back.
const SLEEP_CALLS: u64 = 8;
/// Nobody looks for longer.
const LONGEST_LOOK_NS: u64 = 500_000;
/// A call counts for a quarter of the mean.
const WEIGHT: u64 = 4;
/// One call of so many is measured: to ask for the time twice costs as much as a small exit of the guest.
const CALLS_A_SAMPLE: u8 = 16;

/// What a call of the host takes, on the mean of the last ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    mean_ns: u64,
    /// Calls until one is measured.
    left: u8,
}

impl Patience {
    /// Counts a call, and returns whether it is to be measured.
    pub fn wants_sample(&mut self) -> bool {
        let wants_sample = self.left == 0;
        self.left = if wants_sample {
            CALLS_A_SAMPLE
        } else {
            self.left
        } - 1;
        wants_sample
    }

    /// Notes how long a call took.
    pub fn note_call(&mut self, ns: u64) {
        let ns = ns.min(MOST_NS);
        self.mean_ns = self.mean_ns - self.mean_ns / WEIGHT + ns / WEIGHT;
    }

    /// Returns how long a device may gather, in nanoseconds.
    #[must_use]
    pub fn ns(&self) -> u64 {
        (self.mean_ns * CALLS).clamp(LEAST_NS, MOST_NS)
    }

    /// Returns what it costs to sleep and be woken, in nanoseconds.
    #[must_use]
    pub fn sleep_ns(&self) -> u64 {
        (self.mean_ns * SLEEP_CALLS).min(LONGEST_LOOK_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::{CALLS_A_SAMPLE, LEAST_NS, LONGEST_LOOK_NS, MOST_NS, Patience};

    #[test]
    fn the_first_call_is_measured_and_then_one_of_many() {
        let mut patience = Patience::default();
        let sampled = (0..64).filter(|_| patience.wants_sample());
        let sampled: alloc::vec::Vec<u32> = sampled.collect();
        assert_eq!(sampled, [0, 16, 32, 48]);
        assert_eq!(CALLS_A_SAMPLE, 16);
    }

    /// Who looks for the host's answer before it sleeps shall not do so for longer than the sleep costs.
    #[test]
    fn a_sleep_costs_a_few_calls_and_never_much() {
        let mut patience = Patience::default();
        assert_eq!(patience.sleep_ns(), 0);
        for _ in 0..100 {
            patience.note_call(2_000);
        }
        assert!((14_000..=16_000).contains(&patience.sleep_ns()));
        patience.note_call(u64::MAX);
        assert_eq!(patience.sleep_ns(), LONGEST_LOOK_NS);
    }

    #[test]
    fn patience_follows_what_a_call_takes_within_bounds() {
        let mut patience = Patience::default();
        assert_eq!(patience.ns(), LEAST_NS);
        for _ in 0..100 {
            patience.note_call(20_000);
        }
        assert!((1_100_000..=1_280_000).contains(&patience.ns()));
        for _ in 0..100 {
            patience.note_call(u64::MAX);
        }
        assert_eq!(patience.ns(), MOST_NS);
        for _ in 0..200 {
            patience.note_call(0);
        }
        assert_eq!(patience.ns(), LEAST_NS);
    }
}
