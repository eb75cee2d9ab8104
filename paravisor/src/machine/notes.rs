//! What the chips last had to say, for those who do not want their lock: [`Notes`].

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use stockade_bus::Clock;

use super::{Chips, Machine};

/// Console output that is handed over even without the end of a line.
const MUCH_OUTPUT: usize = 512;
/// How long the start of a line waits for the rest of it.
const OUTPUT_PATIENCE_NS: u64 = 20_000_000;

/// What the guest asked of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// Switch off.
    PowerOff,
    /// Start over.
    Reset,
    /// End with this status, as a test kernel asks for.
    Exit(u8),
}

impl Request {
    const EXIT: u32 = 0x100;

    fn to_word(self) -> u32 {
        match self {
            Self::None => 0,
            Self::PowerOff => 1,
            Self::Reset => 2,
            Self::Exit(status) => Self::EXIT | u32::from(status),
        }
    }

    fn from_word(word: u32) -> Self {
        match word {
            0 => Self::None,
            1 => Self::PowerOff,
            2 => Self::Reset,
            _ => Self::Exit(word.to_le_bytes()[0]),
        }
    }
}

/// How urgent the console's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Output {
    /// There is none.
    None,
    /// There is some.
    Some,
    /// A line is complete, or there is much of it.
    Due,
}

/// Whether the timekeeper has to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Something is due before what was known of.
    Sooner,
    /// Nothing is.
    AsBefore,
}

/// The notes. They are written with the chips' lock held, and read without.
#[derive(Debug)]
pub(super) struct Notes {
    /// When a chip is next due, in nanoseconds; `u64::MAX` while none is.
    due_ns: AtomicU64,
    /// When output without the end of a line is handed over, likewise.
    output_due_ns: AtomicU64,
    output: AtomicU8,
    /// The console's port has room for output, no input, and nothing to tell.
    is_console_idle: AtomicBool,
    request: AtomicU32,
}

impl Notes {
    pub(super) const fn new() -> Self {
        Self {
            due_ns: AtomicU64::new(u64::MAX),
            output_due_ns: AtomicU64::new(u64::MAX),
            output: AtomicU8::new(0),
            is_console_idle: AtomicBool::new(false),
            request: AtomicU32::new(0),
        }
    }

    /// Asks the chips.
    pub(super) fn take<C: Clock + Clone>(&self, chips: &mut Chips<C>, clock: &C) -> Due {
        let output = match chips.com1.output_len() {
            0 => Output::None,
            len if len >= MUCH_OUTPUT || chips.com1.has_line() => Output::Due,
            _ => Output::Some,
        };
        self.output.store(output as u8, Ordering::Relaxed);
        self.is_console_idle
            .store(chips.com1.is_idle(), Ordering::Relaxed);
        match chips.take_request() {
            Request::None => {}
            request => self.request.store(request.to_word(), Ordering::Relaxed),
        }
        let due = chips.deadline().unwrap_or(u64::MAX);
        let due = due.min(self.note_output_due(output, clock));
        let before = self.due_ns.load(Ordering::Relaxed);
        self.due_ns.store(due, Ordering::SeqCst);
        if due < before {
            Due::Sooner
        } else {
            Due::AsBefore
        }
    }

    /// Output that no end of a line follows leaves with a timer's tick. What is due leaves at once.
    fn note_output_due<C: Clock>(&self, output: Output, clock: &C) -> u64 {
        let before = self.output_due_ns.load(Ordering::Relaxed);
        let due = match output {
            Output::Some if before != u64::MAX => before,
            Output::Some => clock.now_ns().saturating_add(OUTPUT_PATIENCE_NS),
            Output::None | Output::Due => u64::MAX,
        };
        if due != before {
            self.output_due_ns.store(due, Ordering::Relaxed);
        }
        due
    }

    /// Returns when something is next due; `u64::MAX` if nothing is.
    pub(super) fn due_ns(&self) -> u64 {
        self.due_ns.load(Ordering::SeqCst)
    }

    fn output(&self) -> Output {
        match self.output.load(Ordering::Relaxed) {
            0 => Output::None,
            some if some == Output::Some as u8 => Output::Some,
            _ => Output::Due,
        }
    }

    /// Returns what the guest asked for, once.
    pub(super) fn take_request(&self) -> Request {
        if self.request.load(Ordering::Relaxed) == 0 {
            return Request::None;
        }
        Request::from_word(self.request.swap(0, Ordering::Relaxed))
    }

    /// Forgets what the guest asked for.
    pub(super) fn forget_request(&self) {
        self.request.store(0, Ordering::Relaxed);
    }
}

/// What there is to know of the console. Takes no lock.
impl<C> Machine<C> {
    /// Returns how urgent its output is.
    pub(crate) fn output(&self) -> Output {
        self.notes.output()
    }

    /// Returns whether its port has room for output, no input, and nothing to tell.
    pub(crate) fn is_console_idle(&self) -> bool {
        self.notes.is_console_idle.load(Ordering::Relaxed)
    }
}
