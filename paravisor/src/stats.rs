//! What is counted: exits by kind, and everything the host or the guest did that should not happen.

use alloc::string::String;
use core::fmt::Write;

use stockade_intercept::exit::Exit;

use crate::virtio::Refusals;

/// What [`Exit::kind`] can say of what a guest does.
const KINDS: [&str; 11] = [
    "npf", "msr", "hlt", "host", "ioio", "cpuid", "vmmcall", "wbinvd", "xsetbv", "rdtsc", "other",
];

const IOIO: usize = 4;

/// Returns the place of an exit's kind in [`KINDS`]; those that end the guest, or come from a host that means ill, share the last.
const fn place(exit: &Exit) -> usize {
    match exit {
        Exit::Npf { .. } => 0,
        Exit::Msr(_) => 1,
        Exit::Hlt | Exit::IdleHlt => 2,
        Exit::HostEvent(_) => 3,
        Exit::Ioio(_) => IOIO,
        Exit::Cpuid => 5,
        Exit::Vmmcall => 6,
        Exit::Wbinvd | Exit::Invd => 7,
        Exit::Xsetbv => 8,
        Exit::Rdtsc | Exit::Rdtscp => 9,
        _ => 10,
    }
}

/// What an exit turned out to be, where its kind says too little: what its cost is booked under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Nothing with a name of its own.
    #[default]
    Other,
    /// CPUID.
    Cpuid,
    /// An MSR that is not the local APIC's.
    Msr,
    /// The first serial port.
    Com1,
    /// The PM timer.
    PmTimer,
    /// Another port.
    Port,
    /// A memory-mapped register that is not the local APIC's.
    Mmio,
    /// A register of the TPM, taken short.
    Tpm,
    /// The local APIC: end of interrupt.
    Eoi,
    /// The local APIC: interrupt command.
    Ipi,
    /// The local APIC: initial count.
    TimerCount,
    /// The local APIC: TSC deadline.
    TscDeadline,
    /// Any other register of the local APIC.
    Apic,
    /// HLT, up to the sleep.
    Halt,
    /// From the end of a sleep to the entry.
    Wake,
    /// The host came back without an exit.
    Host,
    /// What devices were given in between, whatever the exit was: a part of the others.
    Turns,
}

impl Work {
    const ALL: [Self; 17] = [
        Self::Other,
        Self::Cpuid,
        Self::Msr,
        Self::Com1,
        Self::PmTimer,
        Self::Port,
        Self::Mmio,
        Self::Tpm,
        Self::Eoi,
        Self::Ipi,
        Self::TimerCount,
        Self::TscDeadline,
        Self::Apic,
        Self::Halt,
        Self::Wake,
        Self::Host,
        Self::Turns,
    ];

    /// Returns what an exit is as far as its kind says.
    #[must_use]
    pub const fn of_exit(exit: &Exit) -> Self {
        match exit {
            Exit::Cpuid => Self::Cpuid,
            Exit::Msr(_) => Self::Msr,
            Exit::Hlt | Exit::IdleHlt => Self::Halt,
            Exit::HostEvent(_) => Self::Host,
            _ => Self::Other,
        }
    }

    /// Returns what a write to register `place` of the local APIC is: the offset in its page by 16, or the x2APIC MSR less 0x800.
    #[must_use]
    pub const fn of_apic_register(place: u16) -> Self {
        match place {
            0x0B => Self::Eoi,
            0x30 => Self::Ipi,
            0x38 => Self::TimerCount,
            _ => Self::Apic,
        }
    }

    /// Returns what a write to an MSR of the local APIC is.
    #[must_use]
    pub const fn of_apic_msr(msr: u32) -> Self {
        match msr {
            0x6E0 => Self::TscDeadline,
            0x80B => Self::Eoi,
            0x830 => Self::Ipi,
            0x838 => Self::TimerCount,
            _ => Self::Apic,
        }
    }

    /// Returns what an access to a port is.
    #[must_use]
    pub const fn of_port(port: u16) -> Self {
        match port {
            0x3F8..=0x3FF => Self::Com1,
            0x608..=0x60B => Self::PmTimer,
            _ => Self::Port,
        }
    }

    /// Returns whether no deadline is another one after it, and no chip was touched but by messages.
    #[must_use]
    pub const fn leaves_deadlines(self) -> bool {
        matches!(self, Self::Cpuid | Self::Eoi | Self::Ipi | Self::Tpm)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Cpuid => "cpuid",
            Self::Msr => "msr",
            Self::Com1 => "com1",
            Self::PmTimer => "pm-timer",
            Self::Port => "port",
            Self::Mmio => "mmio",
            Self::Tpm => "tpm",
            Self::Eoi => "eoi",
            Self::Ipi => "ipi",
            Self::TimerCount => "timer-count",
            Self::TscDeadline => "tsc-deadline",
            Self::Apic => "apic",
            Self::Halt => "hlt",
            Self::Wake => "wake",
            Self::Host => "host",
            Self::Turns => "device-turns",
        }
    }
}

/// How often something was done and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    count: u64,
    cycles: u64,
    /// The cheapest.
    least: u64,
    /// The dearest.
    most: u64,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.least = match (self.count, other.count) {
            (_, 0) => self.least,
            (0, _) => other.least,
            _ => self.least.min(other.least),
        };
        self.most = self.most.max(other.most);
        self.count += other.count;
        self.cycles = self.cycles.wrapping_add(other.cycles);
    }
}

/// Exits by kind and oddities, for the line `stockade-stats`.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    kinds: [u64; KINDS.len()],
    costs: [Cost; Work::ALL.len()],
    /// Guest resets.
    pub resets: u64,
    /// Interrupts of the host nobody had asked for.
    pub dropped_vectors: u64,
    /// What devices did not do.
    pub refusals: Refusals,
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
    /// How often another vCPU had to be kicked.
    pub kicks: u64,
    /// Bytes of guest memory the paravisor has for itself.
    pub paravisor_bytes: u64,
    /// Bytes its modules have had at once, at most.
    pub module_bytes: u64,
}

impl Stats {
    /// Counts an exit.
    pub fn count(&mut self, exit: &Exit) {
        let place = place(exit);
        self.kinds[place] += 1;
    }

    /// Counts an access to a port, as [`Self::count`] does.
    pub(crate) fn count_port(&mut self) {
        self.kinds[IOIO] += 1;
    }

    /// Books the TSC cycles between an exit and the next entry.
    pub fn book(&mut self, work: Work, cycles: u64) {
        if let Some(cost) = self.costs.get_mut(work as usize) {
            cost.add(Cost {
                count: 1,
                cycles,
                least: cycles,
                most: cycles,
            });
        }
    }

    /// Adds what another vCPU has counted.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.kinds.iter_mut().zip(&other.kinds) {
            *count += other;
        }
        for (cost, other) in self.costs.iter_mut().zip(&other.costs) {
            cost.add(*other);
        }
        self.resets += other.resets;
        self.dropped_vectors += other.dropped_vectors;
        self.refusals = [self.refusals, other.refusals].into_iter().sum();
        self.spurious_faults += other.spurious_faults;
        self.empty_returns += other.empty_returns;
        self.unknown_msrs += other.unknown_msrs;
        self.last_unknown_msr = self.last_unknown_msr.max(other.last_unknown_msr);
        self.unsupported_instructions += other.unsupported_instructions;
        self.kicks += other.kicks;
        self.paravisor_bytes += other.paravisor_bytes;
        self.module_bytes = self.module_bytes.max(other.module_bytes);
    }

    /// Returns the line for the tool, JSON without line breaks.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = String::from("{\"exits\":{");
        let mut separator = "";
        for (name, count) in KINDS
            .iter()
            .zip(&self.kinds)
            .filter(|(_, count)| **count != 0)
        {
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}\"{name}\":{count}");
            separator = ",";
        }
        text.push('}');
        for (name, count) in [
            ("resets", self.resets),
            ("dropped_vectors", self.dropped_vectors),
            ("dropped_frames", self.refusals.dropped_frames),
            ("lost_characters", self.refusals.lost_characters),
            ("io_errors", self.refusals.io_errors),
            ("offline_devices", self.refusals.offline_devices),
            ("spurious_faults", self.spurious_faults),
            ("empty_returns", self.empty_returns),
            ("unknown_msrs", self.unknown_msrs),
            ("last_unknown_msr", u64::from(self.last_unknown_msr)),
            ("unsupported_instructions", self.unsupported_instructions),
            ("kicks", self.kicks),
            ("paravisor_bytes", self.paravisor_bytes),
            ("module_bytes", self.module_bytes),
        ] {
            let _ = write!(text, ",\"{name}\":{count}");
        }
        self.write_costs(&mut text);
        text.push('}');
        text
    }

    fn write_costs(&self, text: &mut String) {
        text.push_str(",\"costs\":{");
        let mut separator = "";
        for (work, cost) in Work::ALL.iter().zip(&self.costs) {
            if cost.count == 0 {
                continue;
            }
            let (name, mean) = (work.name(), cost.cycles / cost.count);
            let (count, least, most) = (cost.count, cost.least, cost.most);
            let _ = write!(
                text,
                "{separator}\"{name}\":{{\"count\":{count},\"mean_cycles\":{mean},\"least_cycles\":{least},\"most_cycles\":{most}}}"
            );
            separator = ",";
        }
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Stats, Work, place};
    use stockade_abi::exit::NpfInfo;
    use stockade_bus::Gpa;
    use stockade_intercept::exit::Exit;

    const NPF: Exit = Exit::Npf {
        gpa: Gpa(0),
        info: NpfInfo::empty(),
    };

    #[test]
    fn kinds_are_counted_by_the_names_exits_have() {
        let mut stats = Stats::default();
        for exit in [NPF, Exit::Cpuid, NPF, Exit::Busy] {
            stats.count(&exit);
            assert!(place(&exit) == KINDS.len() - 1 || KINDS[place(&exit)] == exit.kind());
        }
        stats.resets = 2;
        let json = stats.to_json();
        assert!(
            json.starts_with("{\"exits\":{\"npf\":2,\"cpuid\":1,\"other\":1},\"resets\":2,"),
            "{json}"
        );
        assert!(json.ends_with('}'));
    }
    #[test]
    fn sum_of_two_vcpus_has_every_count_once() {
        let (mut first, mut second) = (Stats::default(), Stats::default());
        first.count(&NPF);
        second.count(&Exit::Hlt);
        second.count(&NPF);
        (first.kicks, second.kicks) = (1, 2);
        first.add(&second);
        let json = first.to_json();
        assert!(
            json.starts_with("{\"exits\":{\"npf\":2,\"hlt\":1}"),
            "{json}"
        );
        assert!(json.contains("\"kicks\":3"), "{json}");
    }

    #[test]
    fn costs_are_means_over_both_vcpus() {
        let (mut first, mut second) = (Stats::default(), Stats::default());
        first.book(Work::Eoi, 30);
        second.book(Work::Eoi, 10);
        first.add(&second);
        let json = first.to_json();
        let eoi = "\"costs\":{\"eoi\":{\"count\":2,\"mean_cycles\":20,\"least_cycles\":10,\"most_cycles\":30}}";
        assert!(json.contains(eoi), "{json}");
    }

    #[test]
    fn work_knows_the_same_register_in_both_modes_of_the_apic() {
        for (place, msr) in [(0x0B, 0x80B), (0x30, 0x830), (0x38, 0x838), (0x08, 0x808)] {
            assert_eq!(Work::of_apic_register(place), Work::of_apic_msr(msr));
        }
        assert_eq!(Work::of_apic_register(0x0B), Work::Eoi);
        for (index, work) in Work::ALL.into_iter().enumerate() {
            assert_eq!(work as usize, index);
        }
    }
}
