//! One comparator of the HPET (IA-PC HPET 1.0a, 2.3.8 to 2.3.10).

use bitfield_struct::bitfield;

use crate::RestoreError;

const CONFIGURATION: u64 = 0x00;
const VALUE: u64 = 0x08;

/// Configuration and capabilities (2.3.8).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
struct Configuration {
    __: bool,
    level_triggered: bool,
    enabled: bool,
    periodic: bool,
    periodic_capable: bool,
    wide_capable: bool,
    /// The next write in periodic mode sets the comparator itself, not only its period.
    sets_value: bool,
    __: bool,
    narrow: bool,
    #[bits(5)]
    route: u8,
    __: bool,
    __: bool,
    __: u16,
    routes: u32,
}

/// What software may write, but for the route, which must be one of the comparator's.
const WRITABLE: u64 = Configuration::new()
    .with_level_triggered(true)
    .with_enabled(true)
    .with_periodic(true)
    .with_sets_value(true)
    .with_narrow(true)
    .into_bits();

/// One comparator.
#[derive(Clone, Debug)]
pub(super) struct Comparator {
    configuration: Configuration,
    /// What the counter is compared with; moves on by `period` at each match in periodic mode.
    value: u64,
    /// What was last written in periodic mode; 0 if nothing was.
    period: u64,
    /// The status bit: a level-triggered match not yet acknowledged.
    pub(super) is_asking: bool,
}

impl Comparator {
    pub(super) fn new(routes: u32) -> Self {
        Self {
            configuration: Configuration::new()
                .with_periodic_capable(true)
                .with_wide_capable(true)
                .with_routes(routes),
            value: u64::MAX,
            period: 0,
            is_asking: false,
        }
    }

    pub(super) fn is_level_triggered(&self) -> bool {
        self.configuration.level_triggered()
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.configuration.enabled()
    }

    /// Returns whether the comparator holds its line high.
    pub(super) fn drives_level(&self) -> bool {
        self.is_asking && self.is_enabled() && self.is_level_triggered()
    }

    /// Returns whether its next match changes a line.
    pub(super) fn is_waited_for(&self) -> bool {
        self.is_enabled() && !self.drives_level()
    }

    /// Returns the IOAPIC pin chosen, if the comparator has it.
    pub(super) fn route(&self) -> Option<u8> {
        let route = self.configuration.route();
        (self.configuration.routes() & (1 << route) != 0).then_some(route)
    }

    fn width_mask(&self) -> u64 {
        if self.configuration.narrow() {
            u32::MAX.into()
        } else {
            u64::MAX
        }
    }

    /// Returns how many ticks after `counter` the comparator next matches: at least 1.
    pub(super) fn distance(&self, counter: u64) -> u64 {
        let mask = self.width_mask();
        // From a match on it is once around; saturated, that is never in 64 bits.
        match self.value.wrapping_sub(counter) & mask {
            0 => mask.saturating_add(1),
            ticks => ticks,
        }
    }

    /// The counter went on from `counter` by `elapsed`: returns whether there was a match.
    pub(super) fn pass(&mut self, counter: u64, elapsed: u64) -> bool {
        let first = self.distance(counter);
        if first > elapsed {
            return false;
        }
        if let Some(more) = (elapsed - first).checked_div(self.step()) {
            self.move_on(more.wrapping_add(1));
        }
        true
    }

    /// Returns whether the comparator stands exactly at `counter`; it moves on if it is periodic.
    pub(super) fn take_equal(&mut self, counter: u64) -> bool {
        let is_equal = (self.value ^ counter) & self.width_mask() == 0;
        if is_equal && self.step() != 0 {
            self.move_on(1);
        }
        is_equal
    }

    /// Ticks between matches; 0 if the comparator does not move by itself.
    fn step(&self) -> u64 {
        if self.configuration.periodic() {
            self.period & self.width_mask()
        } else {
            0
        }
    }

    fn move_on(&mut self, periods: u64) {
        let moved = self.value.wrapping_add(periods.wrapping_mul(self.step()));
        self.value = moved & self.width_mask();
    }

    pub(super) fn read(&self, register: u64) -> u64 {
        match register {
            CONFIGURATION => self.configuration.into_bits(),
            VALUE => self.value,
            // The FSB route, and reserved.
            _ => 0,
        }
    }

    /// Writes the bits of `value` set in `mask`; returns whether the comparator's value was set.
    pub(super) fn write(&mut self, register: u64, value: u64, mask: u64) -> bool {
        let merged = |old: u64| old & !mask | value & mask;
        match register {
            CONFIGURATION => self.configure(merged(self.configuration.into_bits())),
            VALUE => return self.set_value(&merged),
            _ => {}
        }
        false
    }

    fn configure(&mut self, bits: u64) {
        let old = self.configuration;
        let wanted = Configuration::from_bits(bits);
        let kept = Configuration::from_bits(old.into_bits() & !WRITABLE | bits & WRITABLE);
        let is_possible = old.routes() & (1 << wanted.route()) != 0;
        self.configuration = kept.with_route(if is_possible || wanted.route() == 0 {
            wanted.route()
        } else {
            old.route()
        });
        self.value &= self.width_mask();
        self.period &= self.width_mask();
        if !self.is_level_triggered() {
            self.is_asking = false;
        }
    }

    fn set_value(&mut self, merged: &dyn Fn(u64) -> u64) -> bool {
        let configuration = self.configuration;
        let sets_value = !configuration.periodic() || configuration.sets_value();
        if configuration.periodic() {
            self.period = merged(self.period) & self.width_mask();
        }
        if sets_value {
            self.value = merged(self.value) & self.width_mask();
        }
        self.configuration = configuration.with_sets_value(false);
        sets_value
    }
}

/// One comparator's saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparatorState {
    /// The configuration register.
    pub configuration: u64,
    /// The comparator.
    pub value: u64,
    /// Its period.
    pub period: u64,
    /// The status bit.
    pub is_asking: bool,
}

impl Comparator {
    pub(super) fn save(&self) -> ComparatorState {
        let Self {
            configuration,
            value,
            period,
            is_asking,
        } = self;
        ComparatorState {
            configuration: configuration.into_bits(),
            value: *value,
            period: *period,
            is_asking: *is_asking,
        }
    }

    pub(super) fn restore(state: &ComparatorState, routes: u32) -> Result<Self, RestoreError> {
        let mut comparator = Self::new(routes);
        comparator.configure(state.configuration);
        if comparator.configuration.into_bits() != state.configuration {
            return Err(RestoreError::Impossible("HPET comparator configuration"));
        }
        let mask = comparator.width_mask();
        if state.value & !mask != 0 || state.period & !mask != 0 {
            return Err(RestoreError::Impossible("HPET comparator"));
        }
        if state.is_asking && !comparator.is_level_triggered() {
            return Err(RestoreError::Impossible("HPET status"));
        }
        comparator.value = state.value;
        comparator.period = state.period;
        comparator.is_asking = state.is_asking;
        Ok(comparator)
    }
}
