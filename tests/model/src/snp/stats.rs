//! What is counted: exits by kind and VMPL, world switches, nested faults, RMP instructions, page state changes.

use super::decode::Instruction;
use super::rmp::{VMPLS, Vmpl};
use super::work::Table;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use stockade_abi::exit::ExitCode;

/// Kinds of exit told apart: codes below 0x100, 0x400 to 0x407, busy, the rest.
const KINDS: usize = 0x100 + 8 + 2;

type ByKind = [AtomicU64; KINDS];

/// All counters of a run.
pub struct Counters {
    exits: [ByKind; VMPLS],
    vc: [ByKind; VMPLS],
    /// Returns and requests between VMPLs.
    world_switches: AtomicU64,
    nested_faults: AtomicU64,
    conversions: AtomicU64,
    pvalidates: AtomicU64,
    rmpadjusts: AtomicU64,
    page_state_calls: AtomicU64,
    page_state_pages: AtomicU64,
    flushes: AtomicU64,
    /// What VMPL0 spends on exits.
    pub work: Table,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// Zeros.
    pub const fn new() -> Self {
        Self {
            exits: [const { [const { AtomicU64::new(0) }; KINDS] }; VMPLS],
            vc: [const { [const { AtomicU64::new(0) }; KINDS] }; VMPLS],
            world_switches: AtomicU64::new(0),
            nested_faults: AtomicU64::new(0),
            conversions: AtomicU64::new(0),
            pvalidates: AtomicU64::new(0),
            rmpadjusts: AtomicU64::new(0),
            page_state_calls: AtomicU64::new(0),
            page_state_pages: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            work: Table::new(),
        }
    }

    /// The host saw an exit of `vmpl`.
    pub fn count_exit(&self, vmpl: Vmpl, code: ExitCode) {
        add(&self.exits[vmpl.index()][kind(code)], 1);
    }

    /// The guest met a #VC condition, reflected or not.
    pub fn count_vc(&self, vmpl: Vmpl, code: ExitCode) {
        add(&self.vc[vmpl.index()][kind(code)], 1);
    }

    /// The vCPU changed its VMPL.
    pub fn count_world_switch(&self) {
        add(&self.world_switches, 1);
    }

    /// A nested page fault of the real machine.
    pub fn count_nested_fault(&self) {
        add(&self.nested_faults, 1);
    }

    /// The host took a page's state from an access.
    pub fn count_conversion(&self) {
        add(&self.conversions, 1);
    }

    /// PVALIDATE, RMPADJUST.
    pub fn count_rmp_instruction(&self, instruction: Instruction) {
        match instruction {
            Instruction::Pvalidate => add(&self.pvalidates, 1),
            Instruction::Rmpadjust => add(&self.rmpadjusts, 1),
            _ => {}
        }
    }

    /// A page state change of so many 4 KiB pages.
    pub fn count_page_state(&self, pages: u64) {
        add(&self.page_state_calls, 1);
        add(&self.page_state_pages, pages);
    }

    /// The other processors had to leave their guests.
    pub fn count_flush(&self) {
        add(&self.flushes, 1);
    }

    /// Whether `vmpl` ever ran.
    pub fn has_run(&self, vmpl: usize) -> bool {
        self.exits
            .get(vmpl)
            .is_some_and(|kinds| kinds.iter().any(|count| get(count) != 0))
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn kind(code: ExitCode) -> usize {
    match usize::try_from(code.0) {
        Ok(code @ 0..0x100) => code,
        Ok(code @ 0x400..0x408) => 0x100 + code - 0x400,
        _ if code == ExitCode::BUSY => KINDS - 2,
        _ => KINDS - 1,
    }
}

fn code(kind: usize) -> ExitCode {
    match kind as u64 {
        kind @ 0..0x100 => ExitCode(kind),
        kind @ 0x100..0x108 => ExitCode(0x400 + kind - 0x100),
        0x108 => ExitCode::BUSY,
        _ => ExitCode::INVALID,
    }
}

/// The fields of a JSON object, without its braces.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        by_vmpl(f, "exits", &self.exits)?;
        f.write_str(",")?;
        by_vmpl(f, "vc", &self.vc)?;
        f.write_str(",\"vmpls\":[")?;
        let mut separator = "";
        for vmpl in (0..VMPLS).filter(|vmpl| self.has_run(*vmpl)) {
            write!(f, "{separator}{vmpl}")?;
            separator = ",";
        }
        write!(
            f,
            "],\"world_switches\":{},\"nested_faults\":{},\"conversions\":{},\"pvalidates\":{},\"rmpadjusts\":{},\
             \"page_state_calls\":{},\"page_state_pages\":{},\"flushes\":{},\"vmpl0_work\":{}",
            get(&self.world_switches),
            get(&self.nested_faults),
            get(&self.conversions),
            get(&self.pvalidates),
            get(&self.rmpadjusts),
            get(&self.page_state_calls),
            get(&self.page_state_pages),
            get(&self.flushes),
            self.work,
        )
    }
}

/// `"name":{"0":{"CPUID":12,…},"2":{…}}`, zeros left out.
fn by_vmpl(f: &mut fmt::Formatter<'_>, name: &str, counts: &[ByKind; VMPLS]) -> fmt::Result {
    write!(f, "\"{name}\":{{")?;
    let mut outer = "";
    for (vmpl, kinds) in counts.iter().enumerate() {
        if kinds.iter().all(|count| get(count) == 0) {
            continue;
        }
        write!(f, "{outer}\"{vmpl}\":{{")?;
        outer = ",";
        let mut inner = "";
        for (kind, count) in kinds
            .iter()
            .enumerate()
            .filter(|(_, count)| get(count) != 0)
        {
            let code = code(kind);
            match code.name() {
                Some(name) => write!(f, "{inner}\"{name}\":{}", get(count))?,
                None => write!(f, "{inner}\"{:#x}\":{}", code.0, get(count))?,
            }
            inner = ",";
        }
        f.write_str("}")?;
    }
    f.write_str("}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn counts_print_as_json_by_vmpl_and_kind() {
        let counters = Counters::new();
        let two = Vmpl::try_new(2).unwrap();
        counters.count_exit(two, ExitCode::EXCP_VC);
        counters.count_vc(two, ExitCode::CPUID);
        counters.count_vc(two, ExitCode::CPUID);
        counters.count_exit(Vmpl::ZERO, ExitCode::INVALID);
        counters.count_page_state(512);
        let text = counters.to_string();
        let expected = "\"exits\":{\"0\":{\"INVALID\":1},\"2\":{\"EXCP_VC\":1}},\"vc\":{\"2\":{\"CPUID\":2}},\"vmpls\":[0,2],\
                        \"world_switches\":0,";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("\"page_state_calls\":1,\"page_state_pages\":512"),
            "{text}"
        );
    }
}
