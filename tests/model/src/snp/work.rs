//! What VMPL0 spends on each exit of its guest, in time-stamp counter ticks spent inside it: the host's own time does not count.
//!
//! QEMU's `-icount` makes the counter an instruction counter, so these are its retired instructions. Around each entry the
//! measurement holds [`INSTRUCTIONS_AROUND`] of the model's own.
//!
//! A guest may say what it is about to do by asking CPUID for leaf [`MARK`] plus a number: exits are then summed up for that phase too.

use super::rmp::Vmpl;
use crate::svm::INSTRUCTIONS_AROUND;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::Vmsa;

/// The end-of-interrupt register of a local APIC at its usual address, and its MSR in x2APIC mode.
const EOI_GPA: u64 = 0xFEE0_00B0;
const EOI_MSR: u64 = 0x80B;
/// Transmit holding register of COM1.
const COM1: u64 = 0x3F8;

/// The CPUID leaf that ends all phases; those after it begin phase 1, 2 and so on.
const MARK: u64 = 0x5354_4B00;
/// One more than there can be of them.
const PHASES: usize = 48;

/// Causes told apart, by what a guest does most.
const NAMES: [&str; 10] = [
    "cpuid",
    "rdmsr",
    "wrmsr",
    "out-com1",
    "port",
    "lapic-eoi",
    "mmio",
    "hlt",
    "host",
    "other",
];

/// What VMPL0 works on: an index into the names, and the phase it begins if it is such a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    name: usize,
    begins: Option<usize>,
}

impl Cause {
    /// The cause of an exit the host saw as `code`, by the VMSA it left.
    pub fn of(code: ExitCode, vmsa: &Vmsa) -> Self {
        let code = if code == ExitCode::EXCP_VC {
            vmsa.guest_exit_code
        } else {
            code
        };
        let (info1, info2) = (vmsa.guest_exit_info1, vmsa.guest_exit_info2);
        let name = match code {
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
            ExitCode::INTR => 8,
            _ => 9,
        };
        let phase = usize::try_from(vmsa.rax.wrapping_sub(MARK)).ok();
        let begins = phase.filter(|phase| name == 0 && *phase < PHASES);
        Self { name, begins }
    }
}

/// What a processor spent inside a guest since it was last asked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Spent {
    /// Ticks of the time-stamp counter.
    pub ticks: u64,
    /// Real entries.
    pub entries: u64,
}

impl Spent {
    /// Adds an entry.
    pub fn add(&mut self, ticks: u64) {
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

/// Exits, ticks and entries, by cause.
type Rows = [[AtomicU64; 3]; NAMES.len()];

/// The sums of all vCPUs, by phase; phase 0 is none.
pub struct Table {
    phases: [Rows; PHASES],
    phase: AtomicUsize,
}

impl Table {
    /// Zeros.
    pub const fn new() -> Self {
        Self {
            phases: [const { [const { [const { AtomicU64::new(0) }; 3] }; NAMES.len()] }; PHASES],
            phase: AtomicUsize::new(0),
        }
    }

    fn add(&self, cause: Cause, spent: Spent) {
        if let Some(phase) = cause.begins {
            self.phase.store(phase, Ordering::Relaxed);
            // What tells of a phase is no part of it.
            return;
        }
        let phase = self.phase.load(Ordering::Relaxed);
        let [exits, ticks, entries] = &self.phases[phase][cause.name];
        exits.fetch_add(1, Ordering::Relaxed);
        ticks.fetch_add(spent.ticks, Ordering::Relaxed);
        entries.fetch_add(spent.entries, Ordering::Relaxed);
    }

    /// Returns the sums of these phases.
    fn sums(&self, phases: core::ops::Range<usize>) -> [[u64; 3]; NAMES.len()] {
        let mut sums = [[0; 3]; NAMES.len()];
        for rows in &self.phases[phases] {
            for (sum, count) in sums.as_flattened_mut().iter_mut().zip(rows.as_flattened()) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sums
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
        write!(f, "{{\"around\":{INSTRUCTIONS_AROUND}")?;
        write_rows(f, &self.sums(0..PHASES))?;
        f.write_str(",\"phases\":{")?;
        let mut separator = "";
        for phase in 1..PHASES {
            let sums = self.sums(phase..phase + 1);
            if sums.as_flattened().iter().any(|sum| *sum != 0) {
                write!(f, "{separator}\"{phase}\":{{\"phase\":{phase}")?;
                write_rows(f, &sums)?;
                f.write_str("}")?;
                separator = ",";
            }
        }
        f.write_str("}}")
    }
}

/// Further members of an object.
fn write_rows(f: &mut fmt::Formatter<'_>, sums: &[[u64; 3]; NAMES.len()]) -> fmt::Result {
    for (name, [exits, ticks, entries]) in NAMES.iter().zip(sums) {
        if *exits != 0 {
            write!(
                f,
                ",\"{name}\":{{\"exits\":{exits},\"ticks\":{ticks},\"entries\":{entries}}}"
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
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
        NAMES[Cause::of(ExitCode::EXCP_VC, &vmsa).name]
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
        let cause = |name| Cause { name, begins: None };
        let (cpuid, hlt) = (cause(0), cause(7));
        work.note(Vmpl::ZERO, spent(1000), hlt, &table);
        work.note(two, spent(7), cpuid, &table);
        work.note(Vmpl::ZERO, spent(30), hlt, &table);
        work.note(Vmpl::ZERO, spent(12), hlt, &table);
        work.note(two, spent(7), hlt, &table);
        work.note(two, spent(7), cpuid, &table);
        let cpuid = "\"cpuid\":{\"exits\":1,\"ticks\":42,\"entries\":2},\"phases\":{}}";
        assert!(table.to_string().ends_with(cpuid), "{table}");
    }

    /// What a guest calls a phase is summed up by itself, without the exits that begin and end it.
    #[test]
    fn a_leaf_of_cpuid_begins_a_phase() {
        let (table, two) = (Table::new(), Vmpl::try_new(2).unwrap());
        let mut work = Work::default();
        let mut vmsa = Vmsa::new_zeroed();
        let mut exit = |code, rax| {
            (vmsa.guest_exit_code, vmsa.rax) = (code, rax);
            let next = Cause::of(ExitCode::EXCP_VC, &vmsa);
            work.note(two, spent(7), next, &table);
            work.note(Vmpl::ZERO, spent(10), next, &table);
        };
        exit(ExitCode::CPUID, MARK + 3);
        exit(ExitCode::HLT, MARK + 4);
        exit(ExitCode::CPUID, MARK);
        exit(ExitCode::HLT, 0);
        exit(ExitCode::HLT, 0);
        let hlt =
            |exits| format!("\"hlt\":{{\"exits\":{exits},\"ticks\":{exits}0,\"entries\":{exits}}}");
        let (all, phase) = (hlt(2), hlt(1));
        let expected = format!(",{all},\"phases\":{{\"3\":{{\"phase\":3,{phase}}}}}}}");
        assert!(table.to_string().ends_with(&expected), "{table}");
    }
}
