//! What single operations cost: the guest times each by the TSC, which counts instructions where QEMU runs with `-icount`.
//!
//! Each operation is done [`TIMES`] times between two readings of the counter, and the median less an empty pair is printed. CPUID of
//! the leaf [`MARK`] plus a number tells a hypervisor that looks for it which operation comes; to any other it is a CPUID like another.

mod operations;
mod timing;

use crate::machine::console::say;
use crate::machine::exit::Ending;
use crate::machine::options::Options;
use crate::machine::processor::cpuid;
use crate::machine::{apic, smp, x2apic};

use operations::{Mode, OTHERS, WITH_MODE, WITHOUT_MODE, start_other};
use timing::Samples;

/// How often each operation is done.
pub(crate) const TIMES: usize = 128;
/// The CPUID leaf that names operation 0, which is none.
const MARK: u32 = 0x5354_4B00;

/// An operation and how it is done many times.
pub(crate) struct Operation {
    /// What the line says.
    pub(crate) name: &'static str,
    /// Does it.
    pub(crate) run: fn(&mut Samples, Mode),
}

/// Does everything and says what it cost.
pub(crate) fn run(options: &Options) -> Ending {
    let mut samples = Samples::new();
    let mut number = 0;
    let mut each = |operation: &Operation, mode: Mode| {
        number += 1;
        samples.start();
        cpuid(MARK + number, 0);
        (operation.run)(&mut samples, mode);
        cpuid(MARK, 0);
        let (median, least, mean) = samples.figures();
        let name = operation.name;
        say!("bench {number} {mode}{name} {TIMES} {median} {least} {mean}");
    };
    apic::reset();
    for operation in WITHOUT_MODE {
        each(operation, Mode::None);
    }
    for mode in [Mode::Xapic, Mode::X2apic] {
        if mode == Mode::X2apic && !x2apic::is_offered() {
            continue;
        }
        mode.set();
        for operation in WITH_MODE {
            each(operation, mode);
        }
        if options.cpus().is_some_and(|cpus| cpus > 1) && start_other(mode) {
            for operation in OTHERS {
                each(operation, mode);
            }
            smp::park(1);
        }
    }
    apic::reset();
    say!("done: bench");
    Ending::Passed
}
