//! One synthetic timer (TLFS, "Synthetic timers"), in units of the reference clock.

use bitfield_struct::bitfield;

use super::FIRST_VECTOR;
use crate::local::GeneralProtection;

/// STIMERx_CONFIG.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
struct Configuration {
    is_enabled: bool,
    is_periodic: bool,
    /// May be late; we are never on purpose.
    is_lazy: bool,
    /// A count starts it.
    starts_by_count: bool,
    vector: u8,
    /// Raises its vector, in place of a message.
    is_direct: bool,
    #[bits(3)]
    __: u8,
    #[bits(4)]
    source: u8,
    #[bits(44)]
    reserved: u64,
}

/// What a timer that came due is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Raise this vector. It is done.
    Vector(u8),
    /// Leave a message for this source; to be tried again until [`Timer::delivered`].
    Message { source: u8, due: u64 },
}

/// Whether a timer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running {
        due: u64,
    },
    /// It came due and its message has no room yet.
    Waiting {
        due: u64,
    },
}

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    configuration: Configuration,
    count: u64,
    state: State,
}

impl Timer {
    /// Stopped.
    pub(super) const fn new() -> Self {
        Self {
            configuration: Configuration::new(),
            count: 0,
            state: State::Idle,
        }
    }

    pub(super) const fn configuration(&self) -> u64 {
        self.configuration.into_bits()
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Writes the configuration, which starts or stops it.
    pub(super) fn configure(&mut self, value: u64, now: u64) -> Result<(), GeneralProtection> {
        let mut wanted = Configuration::from_bits(value);
        if wanted.is_direct() && wanted.vector() < FIRST_VECTOR {
            return Err(GeneralProtection);
        }
        // Source 0 is the hypervisor's own: a timer of it cannot be on.
        if !wanted.is_direct() && wanted.source() == 0 {
            wanted.set_is_enabled(false);
        }
        self.configuration = wanted;
        self.start(now);
        Ok(())
    }

    /// Writes the count: the moment, or the period. Zero stops it.
    pub(super) fn set_count(&mut self, count: u64, now: u64) {
        self.count = count;
        let can_start = self.configuration.is_direct() || self.configuration.source() != 0;
        if count == 0 {
            self.configuration.set_is_enabled(false);
        } else if self.configuration.starts_by_count() && can_start {
            self.configuration.set_is_enabled(true);
        }
        self.start(now);
    }

    fn start(&mut self, now: u64) {
        self.state = match (self.configuration.is_enabled(), self.count) {
            (false, _) | (true, 0) => State::Idle,
            (true, period) if self.configuration.is_periodic() => State::Running {
                due: now.saturating_add(period),
            },
            (true, due) => State::Running { due },
        };
    }

    /// Returns when it is due, if it runs.
    pub(super) const fn due(&self) -> Option<u64> {
        match self.state {
            State::Running { due } => Some(due),
            State::Idle | State::Waiting { .. } => None,
        }
    }

    /// Lets it come due.
    pub(super) fn advance(&mut self, now: u64) -> Option<Expiry> {
        let due = match self.state {
            State::Running { due } if due <= now => due,
            State::Waiting { due } => due,
            State::Idle | State::Running { .. } => return None,
        };
        if self.configuration.is_direct() {
            self.go_on(due, now);
            return Some(Expiry::Vector(self.configuration.vector()));
        }
        self.state = State::Waiting { due };
        let source = self.configuration.source();
        Some(Expiry::Message { source, due })
    }

    /// Its message is with the guest.
    pub(super) fn delivered(&mut self, now: u64) {
        if let State::Waiting { due } = self.state {
            self.go_on(due, now);
        }
    }

    /// Goes on to the next period that is not over yet, or stops.
    fn go_on(&mut self, due: u64, now: u64) {
        if !self.configuration.is_periodic() {
            self.configuration.set_is_enabled(false);
            self.state = State::Idle;
            return;
        }
        // A period is not zero while it runs.
        let period = self.count.max(1);
        let missed = now.saturating_sub(due) / period;
        let later = missed.saturating_add(1).saturating_mul(period);
        self.state = State::Running {
            due: due.saturating_add(later),
        };
    }
}
