//! What VMPL0 spends on each exit of its guest, in time-stamp counter ticks spent inside it: the host's own time does not count.
//!
//! QEMU's `-icount` makes the counter an instruction counter, so these are its retired instructions. Around each entry the
//! measurement holds some of the model's own; `entries` and the cheapest entry tell how many.

use super::rmp::Vmpl;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::Vmsa;

/// The end-of-interrupt register of a local APIC at its usual address, and its MSR in x2APIC mode.
const EOI_GPA: u64 = 0xFEE0_00B0;
const EOI_MSR: u64 = 0x80B;
/// Transmit holding register of COM1.
const COM1: u64 = 0x3F8;

/// Causes told apart, by what a guest does most.
const NAMES: [&str; 9] = [
    "cpuid",
    "rdmsr",
    "wrmsr",
    "out-com1",
    "port",
    "lapic-eoi",
    "mmio",
    "hlt",
    "other",
];

/// An index into the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause(usize);

impl Cause {
    /// The cause of an exit the host saw as `code`, by the VMSA it left.
    pub fn of(code: ExitCode, vmsa: &Vmsa) -> Self {
        let code = if code == ExitCode::EXCP_VC {
            vmsa.guest_exit_code
        } else {
            code
        };
        let (info1, info2) = (vmsa.guest_exit_info1, vmsa.guest_exit_info2);
        Self(match code {
            ExitCode::CPUID => 0,
            ExitCode::MSR if info1 & 1 == 0 => 1,
            ExitCode::MSR if vmsa.rcx == EOI_MSR => 5,
            ExitCode::MSR => 2,
            // APM vol. 2, 15.10.2: bit 0 says IN, the port is in the upper half.
            ExitCode::IOIO if info1 & 1 == 0 && info1 >> 16 == COM1 => 3,
            ExitCode::IOIO => 4,
            ExitCode::NPF if info2 == EOI_GPA => 5,
            ExitCode::NPF => 6,
            ExitCode::HLT => 7,
            _ => 8,
        })
    }
}

/// What a processor spent inside a guest since it was last asked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Spent {
    /// Ticks of the time-stamp counter.
    pub ticks: u64,
    /// Real entries.
    pub entries: u64,
    /// Ticks of the shortest of them.
    pub least: u64,
}

impl Spent {
    /// Adds an entry.
    pub fn add(&mut self, ticks: u64) {
        self.least = if self.entries == 0 {
            ticks
        } else {
            self.least.min(ticks)
        };
        self.ticks += ticks;
        self.entries += 1;
    }
}

/// The exit a vCPU's VMPL0 works on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Work {
    cause: Option<Cause>,
    spent: Spent,
}

impl Work {
    /// Takes note of an exit: VMPL0's time adds up until a lower VMPL has run again and tells the next cause.
    pub fn note(&mut self, vmpl: Vmpl, spent: Spent, next: Cause, table: &Table) {
        if vmpl == Vmpl::ZERO {
            self.spent.ticks += spent.ticks;
            self.spent.entries += spent.entries;
            if spent.entries != 0 {
                table.least.fetch_min(spent.least, Ordering::Relaxed);
            }
            return;
        }
        // A lower VMPL that runs on after an interrupt of the host's has given VMPL0 nothing to do.
        if self.spent.entries == 0 {
            self.cause = Some(next);
            return;
        }
        if let Some(cause) = self.cause.replace(next) {
            table.add(cause, self.spent);
        }
        self.spent = Spent::default();
    }
}

/// The sums of all vCPUs.
pub struct Table {
    rows: [[AtomicU64; 3]; NAMES.len()],
    least: AtomicU64,
}

impl Table {
    /// Zeros.
    pub const fn new() -> Self {
        Self {
            rows: [const { [const { AtomicU64::new(0) }; 3] }; NAMES.len()],
            least: AtomicU64::new(u64::MAX),
        }
    }

    fn add(&self, cause: Cause, spent: Spent) {
        let [exits, ticks, entries] = &self.rows[cause.0];
        exits.fetch_add(1, Ordering::Relaxed);
        ticks.fetch_add(spent.ticks, Ordering::Relaxed);
        entries.fetch_add(spent.entries, Ordering::Relaxed);
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// A JSON object.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.least.load(Ordering::Relaxed);
        write!(
            f,
            "{{\"least\":{}",
            if least == u64::MAX { 0 } else { least }
        )?;
        for (name, row) in NAMES.iter().zip(&self.rows) {
            let [exits, ticks, entries] = row.each_ref().map(|count| count.load(Ordering::Relaxed));
            if exits != 0 {
                write!(
                    f,
                    ",\"{name}\":{{\"exits\":{exits},\"ticks\":{ticks},\"entries\":{entries}}}"
                )?;
            }
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use zerocopy::FromZeros;

    fn spent(ticks: u64) -> Spent {
        let mut spent = Spent::default();
        spent.add(ticks);
        spent
    }

    fn cause(code: ExitCode, info1: u64, info2: u64) -> &'static str {
        let mut vmsa = Vmsa::new_zeroed();
        (
            vmsa.guest_exit_code,
            vmsa.guest_exit_info1,
            vmsa.guest_exit_info2,
        ) = (code, info1, info2);
        NAMES[Cause::of(ExitCode::EXCP_VC, &vmsa).0]
    }

    #[test]
    fn causes_are_told_apart_by_direction_port_and_address() {
        assert_eq!(cause(ExitCode::MSR, 0, 0), "rdmsr");
        assert_eq!(cause(ExitCode::MSR, 1, 0), "wrmsr");
        assert_eq!(cause(ExitCode::IOIO, 0x3F8_0010, 0), "out-com1");
        assert_eq!(cause(ExitCode::IOIO, 0x3F8_0011, 0), "port");
        assert_eq!(cause(ExitCode::NPF, 0, EOI_GPA), "lapic-eoi");
        assert_eq!(cause(ExitCode::NPF, 0, 0xFEE0_0380), "mmio");
    }

    #[test]
    fn time_at_vmpl0_counts_for_the_exit_before_it() {
        let (table, two) = (Table::new(), Vmpl::try_new(2).unwrap());
        let mut work = Work::default();
        let (cpuid, hlt) = (Cause(0), Cause(7));
        work.note(Vmpl::ZERO, spent(1000), hlt, &table);
        work.note(two, spent(7), cpuid, &table);
        work.note(Vmpl::ZERO, spent(30), hlt, &table);
        work.note(Vmpl::ZERO, spent(12), hlt, &table);
        work.note(two, spent(7), hlt, &table);
        work.note(two, spent(7), cpuid, &table);
        assert_eq!(
            table.to_string(),
            "{\"least\":12,\"cpuid\":{\"exits\":1,\"ticks\":42,\"entries\":2}}"
        );
    }
}
