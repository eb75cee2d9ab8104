//! What a check is, how it ends, and the words to say so.

use core::fmt::{self, Display, Formatter};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::cpu;
use crate::machine::trap::{self, Fault};

/// A check: a claim about the machine and the function that tries it.
pub(crate) struct Test {
    /// The claim in short, words joined by underscores.
    pub(super) name: &'static str,
    /// The claim in a sentence.
    pub(super) claim: &'static str,
    /// Why plain QEMU is known to fail it, if it is.
    pub(super) known_qemu: Option<&'static str>,
    pub(super) run: fn(&mut Context) -> Outcome,
}

/// What a check knows of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// This processor's APIC id and number.
    pub(crate) me: u8,
    /// The processors there are, a bit each by APIC id.
    pub(crate) cpus: u32,
    /// How many there must be, if the command line says so.
    pub(crate) expected_cpus: Option<usize>,
    /// Whether checks may run that stop some emulators for good.
    pub(crate) is_risky: bool,
}

impl Context {
    /// Returns another processor's number, or the reason to skip.
    pub(crate) fn other(&self) -> Result<usize, Stop> {
        self.others().next().ok_or(Stop::Skip("only one CPU"))
    }

    /// Returns the numbers of the other processors.
    pub(crate) fn others(&self) -> impl Iterator<Item = usize> {
        let Self { me, cpus, .. } = *self;
        (0..cpu::MOST).filter(move |index| *index != usize::from(me) && cpus >> index & 1 != 0)
    }
}

/// How a check ended early.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// It did not hold.
    Fail {
        /// What was looked at.
        what: &'static str,
        /// What it was.
        got: u64,
        /// What it should have been.
        want: u64,
    },
    /// The machine lacks what the check is about.
    Skip(&'static str),
    /// An exception nobody asked for.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Display for Stop {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail { what, got, want } => {
                write!(formatter, "got {got:#x}, want {want:#x} ({what})")
            }
            Self::Skip(why) => formatter.write_str(why),
            Self::Fault(fault) => write!(
                formatter,
                "got exception {} error {:#x} at {:#x} cr2 {:#x}, want none",
                fault.vector, fault.error, fault.rip, fault.cr2
            ),
        }
    }
}

/// How a check ends.
pub(crate) type Outcome = Result<(), Stop>;

/// Holds if both are equal.
pub(crate) fn equal(what: &'static str, got: impl Into<u64>, want: impl Into<u64>) -> Outcome {
    let (got, want) = (got.into(), want.into());
    if got == want {
        Ok(())
    } else {
        Err(Stop::Fail { what, got, want })
    }
}

/// Holds if the statement is true.
pub(crate) fn holds(what: &'static str, is_true: bool) -> Outcome {
    equal(what, is_true, true)
}

/// Holds if `low <= got <= high`; tells the bound that is hurt.
pub(crate) fn within(what: &'static str, got: u64, low: u64, high: u64) -> Outcome {
    equal(what, got, got.clamp(low, high))
}

/// Goes on if the machine has what the check is about.
pub(crate) fn needs(why_not: &'static str, has: bool) -> Outcome {
    if has {
        Ok(())
    } else {
        Err(Stop::Skip(why_not))
    }
}

/// Holds if exactly these vectors came, in this order.
pub(crate) fn taken(what: &'static str, vectors: &[u8]) -> Outcome {
    let cpu = cpu::current();
    for (place, vector) in vectors.iter().enumerate() {
        equal(what, cpu.taken_at(place).unwrap_or(0), *vector)?;
    }
    equal(
        "number of interrupts taken",
        cpu.taken() as u64,
        vectors.len() as u64,
    )
}

/// Holds if `body` ends by this exception with this error code.
pub(crate) fn faults<R>(
    what: &'static str,
    vector: u8,
    error: u64,
    body: impl FnOnce() -> R,
) -> Result<Fault, Stop> {
    match trap::catch(body) {
        Ok(_) => Err(Stop::Fail {
            what,
            got: 0,
            want: u64::from(vector),
        }),
        Err(fault) => {
            equal(what, fault.vector, vector)?;
            equal("error code", fault.error, error)?;
            Ok(fault)
        }
    }
}

/// Holds if `body` ends by #GP(0).
pub(crate) fn refuses<R>(what: &'static str, body: impl FnOnce() -> R) -> Outcome {
    faults(what, trap::GENERAL_PROTECTION, 0, body).map(|_| ())
}

/// What handlers leave for their check.
static NOTES: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Leaves a value.
pub(crate) fn note(place: usize, value: impl Into<u64>) {
    NOTES[place].store(value.into(), Ordering::Release);
}

/// Returns a value left, 0 if none was.
pub(crate) fn noted(place: usize) -> u64 {
    NOTES[place].load(Ordering::Acquire)
}

/// Makes a vector note where it came: return address in note 0, flags in note 1.
pub(crate) fn hooked(vector: u8) {
    trap::hook(vector, |frame| {
        note(0, frame.rip);
        note(1, frame.rflags);
        trap::record_and_end(frame);
    });
}

/// Makes a table: the function (or a name and a function), what it claims, and why plain QEMU fails it if it does.
macro_rules! tests {
    ($($name:ident $(= $run:expr)?, $claim:literal $(, known_qemu: $why:literal)?;)*) => {
        pub(crate) const TESTS: &[$crate::suite::check::Test] = &[$($crate::suite::check::Test {
            name: stringify!($name),
            claim: $claim,
            known_qemu: $crate::suite::check::tests!(@why $($why)?),
            run: $crate::suite::check::tests!(@run $name $($run)?),
        }),*];
    };
    (@why) => { None };
    (@why $why:literal) => { Some($why) };
    (@run $name:ident) => { $name };
    (@run $name:ident $run:expr) => { $run };
}
pub(crate) use tests;

/// Forgets all values left.
pub(super) fn forget_notes() {
    for place in 0..NOTES.len() {
        note(place, 0_u64);
    }
}
