//! What is counted: exits by kind, and everything the host or the guest did that should not happen.

use alloc::string::String;
use core::fmt::Write;

/// Counters of one vCPU, in the order they are printed.
const KINDS: usize = 27;

/// Exits by kind and oddities, for the line `stockade-stats`.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    kinds: [(&'static str, u64); KINDS],
    /// Guest resets.
    pub resets: u64,
    /// Interrupts of the host nobody had asked for.
    pub dropped_vectors: u64,
    /// Faults in guest RAM that were not the guest's.
    pub spurious_faults: u64,
    /// Returns from the guest without an exit.
    pub empty_returns: u64,
    /// MSRs the guest named that do not exist.
    pub unknown_msrs: u64,
    /// The last of them.
    pub last_unknown_msr: u32,
    /// Instructions that were not emulated.
    pub unsupported_instructions: u64,
    /// Bytes of guest memory the paravisor has for itself.
    pub paravisor_bytes: u64,
}

impl Stats {
    /// Counts an exit.
    pub fn count(&mut self, kind: &'static str) {
        for (name, count) in &mut self.kinds {
            if name.is_empty() {
                *name = kind;
            }
            // Names are string constants of one table: equal pointers in the usual case, and few of them.
            if *name == kind {
                *count += 1;
                return;
            }
        }
    }

    /// Returns the line for the tool, JSON without line breaks.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = String::from("{\"exits\":{");
        let mut separator = "";
        for (name, count) in self.kinds.iter().filter(|(name, _)| !name.is_empty()) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}\"{name}\":{count}");
            separator = ",";
        }
        text.push('}');
        for (name, count) in [
            ("resets", self.resets),
            ("dropped_vectors", self.dropped_vectors),
            ("spurious_faults", self.spurious_faults),
            ("empty_returns", self.empty_returns),
            ("unknown_msrs", self.unknown_msrs),
            ("last_unknown_msr", u64::from(self.last_unknown_msr)),
            ("unsupported_instructions", self.unsupported_instructions),
            ("paravisor_bytes", self.paravisor_bytes),
        ] {
            let _ = write!(text, ",\"{name}\":{count}");
        }
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Stats;

    #[test]
    fn kinds_are_counted_and_printed_in_order_of_appearance() {
        let mut stats = Stats::default();
        for kind in ["npf", "cpuid", "npf"] {
            stats.count(kind);
        }
        stats.resets = 2;
        let json = stats.to_json();
        assert!(
            json.starts_with("{\"exits\":{\"npf\":2,\"cpuid\":1},\"resets\":2,"),
            "{json}"
        );
        assert!(json.ends_with('}'));
    }
}
