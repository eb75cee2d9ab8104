//! The chip's saved state.

use stockade_bus::{Clock, IrqLine};

use super::comparator::{Comparator, ComparatorState};
use super::{COMPARATORS, Configuration, Counter, Hpet, ROUTES, ROUTES_OF_LAST, TICK_NS};
use crate::RestoreError;
use crate::state::check_version;

/// The timer's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpetState {
    /// Format version: 1.
    pub version: u32,
    /// General configuration.
    pub configuration: u64,
    /// The main counter when the state was saved.
    pub counter: u64,
    /// The comparators.
    pub comparators: [ComparatorState; COMPARATORS],
}

impl<L: IrqLine, C: Clock> Hpet<L, C> {
    /// Returns the state to save, after a last look at the clock.
    #[must_use]
    pub fn save(&mut self) -> HpetState {
        self.advance();
        let Self {
            lines: _,
            clock: _,
            counter: _,
            is_legacy,
            comparators,
            seen: _,
        } = self;
        let (is_legacy, comparators) = (*is_legacy, comparators.each_ref().map(Comparator::save));
        HpetState {
            version: 1,
            configuration: Configuration::new()
                .with_enabled(self.is_running())
                .with_legacy_replacement(is_legacy)
                .into_bits(),
            counter: self.count(),
            comparators,
        }
    }

    /// Takes a saved state and drives the lines accordingly.
    pub fn restore(&mut self, state: &HpetState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let configuration = Configuration::from_bits(state.configuration);
        if configuration.into_bits() > 3 {
            return Err(RestoreError::Impossible("HPET configuration"));
        }
        let [a, b, c] = &state.comparators;
        self.comparators = [
            Comparator::restore(a, ROUTES)?,
            Comparator::restore(b, ROUTES)?,
            Comparator::restore(c, ROUTES_OF_LAST)?,
        ];
        self.seen = self.clock.now_ns() / TICK_NS;
        self.is_legacy = configuration.legacy_replacement();
        self.counter = if configuration.enabled() {
            Counter::Running(state.counter.wrapping_sub(self.seen))
        } else {
            Counter::Halted(state.counter)
        };
        self.update_irq();
        Ok(())
    }
}
