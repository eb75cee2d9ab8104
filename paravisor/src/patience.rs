//! How long a device may gather before it is looked at.
//!
//! Gathering saves calls of the host and visits of the guest, and costs a request time: at most what some of them take. What they take is
//! measured, for it is microseconds on a processor and a hundred times that where one is emulated.

/// So many calls are what gathering may cost: the look that ends it takes a few.
const CALLS: u64 = 64;
/// Bounds, in nanoseconds: a host that answers slowly makes nobody wait for long.
const LEAST_NS: u64 = 50_000;
const MOST_NS: u64 = 4_000_000;
/// A call counts for an eighth of the mean.
const WEIGHT: u64 = 8;

/// What a call of the host takes, on the mean of the last ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    mean_ns: u64,
}

impl Patience {
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
}

#[cfg(test)]
mod tests {
    use super::{LEAST_NS, MOST_NS, Patience};

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
