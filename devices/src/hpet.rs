//! The high precision event timer (IA-PC HPET specification 1.0a): a 100 MHz counter and three comparators.
//!
//! The counter is the clock itself, less an offset, so nothing ticks: matches are computed when somebody looks. Start from
//! [`Hpet::new`] and its [`Lines`]; `comparator` is one comparator. Message interrupts (FSB) are not offered.
//! While [`Hpet::is_legacy_replacement`] says so, the machine must keep the 8254 and the RTC off the interrupt controllers:
//! the specification lets comparators 0 and 1 take their places (2.3.5, LEG_RT_CNF).

use bitfield_struct::bitfield;
use stockade_bus::{AccessError, Clock, Deadline, IrqLine, Level, Mmio, Nanoseconds};

mod comparator;
mod saved;

use comparator::Comparator;
pub use comparator::ComparatorState;
pub use saved::HpetState;

/// How many comparators there are.
pub const COMPARATORS: usize = 3;
/// Bytes of the register block.
pub const BLOCK_SIZE: u64 = 0x400;
/// Nanoseconds in a tick: 100 MHz.
const TICK_NS: u64 = 10;
const FEMTOSECONDS_PER_NS: u64 = 1_000_000;

/// General capabilities and ID (2.3.4): vendor 8086, legacy replacement, 64-bit counter, three comparators, revision 1.
const CAPABILITIES: u64 = (TICK_NS * FEMTOSECONDS_PER_NS) << 32 | 0x8086_A201;

const CAPABILITIES_OFFSET: u64 = 0x00;
const CONFIGURATION_OFFSET: u64 = 0x10;
const STATUS_OFFSET: u64 = 0x20;
const COUNTER_OFFSET: u64 = 0xF0;
const COMPARATOR_BASE: u64 = 0x100;
const COMPARATOR_SIZE: u64 = 0x20;
const COMPARATOR_END: u64 = COMPARATOR_BASE + COMPARATOR_SIZE * COMPARATORS as u64;

/// General configuration (2.3.5).
#[bitfield(u64)]
struct Configuration {
    enabled: bool,
    legacy_replacement: bool,
    #[bits(62)]
    __: u64,
}

/// Where comparators can be routed to: as on ICH9, IOAPIC pins 20 to 23 for all, and ISA interrupt 11 for the last.
#[derive(Clone, Debug)]
pub struct Lines<L> {
    /// ISA interrupt 0: comparator 0 in legacy replacement.
    pub timer: L,
    /// ISA interrupt 8: comparator 1 in legacy replacement.
    pub clock: L,
    /// ISA interrupt 11, on both controllers.
    pub irq11: L,
    /// IOAPIC pins 20 to 23.
    pub pins: [L; 4],
}

/// The first of [`Lines::pins`].
const FIRST_PIN: u8 = 20;
/// Routes comparators 0 and 1 have, a bit a pin.
const ROUTES: u32 = 0xF << FIRST_PIN;
/// Routes comparator 2 has.
const ROUTES_OF_LAST: u32 = ROUTES | 1 << 11;

/// The main counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// Stands at a value.
    Halted(u64),
    /// Is the clock's tick number plus this.
    Running(u64),
}

/// One HPET.
#[derive(Debug)]
pub struct Hpet<L, C> {
    lines: Lines<L>,
    clock: C,

    counter: Counter,
    is_legacy: bool,
    comparators: [Comparator; COMPARATORS],

    /// The tick up to which the comparators were followed.
    seen: u64,
}

fn after_reset() -> [Comparator; COMPARATORS] {
    [ROUTES, ROUTES, ROUTES_OF_LAST].map(Comparator::new)
}

impl<L: IrqLine, C: Clock> Hpet<L, C> {
    /// Returns the timer after reset: halted at 0.
    pub fn new(lines: Lines<L>, clock: C) -> Self {
        let seen = clock.now_ns() / TICK_NS;
        Self {
            lines,
            clock,
            counter: Counter::Halted(0),
            is_legacy: false,
            comparators: after_reset(),
            seen,
        }
    }

    /// Puts the timer back to power-on.
    pub fn reset(&mut self) {
        let Self {
            lines: _,
            clock: _,
            counter,
            is_legacy,
            comparators,
            seen,
        } = self;
        *counter = Counter::Halted(0);
        *is_legacy = false;
        *comparators = after_reset();
        *seen = self.clock.now_ns() / TICK_NS;
        self.update_irq();
    }

    /// Returns whether comparators 0 and 1 stand in for the 8254 and the RTC.
    #[must_use]
    pub fn is_legacy_replacement(&self) -> bool {
        self.is_legacy
    }

    /// Returns when a comparator next asks for an interrupt.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let Counter::Running(offset) = self.counter else {
            return None;
        };
        let counter = offset.wrapping_add(self.seen);
        let ticks = self
            .comparators
            .iter()
            .filter(|comparator| comparator.is_waited_for())
            .map(|comparator| comparator.distance(counter))
            .min()?;
        Some(nanoseconds(self.seen.saturating_add(ticks)))
    }

    /// Raises what fell due since the last look. Several matches of one comparator are one interrupt: an edge that is
    /// not yet taken is there once.
    pub fn advance(&mut self) {
        let now = self.clock.now_ns() / TICK_NS;
        let from = core::mem::replace(&mut self.seen, now);
        let Counter::Running(offset) = self.counter else {
            return;
        };
        let elapsed = now.saturating_sub(from);
        let counter = offset.wrapping_add(from);
        for index in 0..COMPARATORS {
            if self.comparators[index].pass(counter, elapsed) {
                self.fire(index);
            }
        }
    }

    /// Returns the main counter as of the last look.
    fn count(&self) -> u64 {
        match self.counter {
            Counter::Halted(value) => value,
            Counter::Running(offset) => offset.wrapping_add(self.seen),
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.counter, Counter::Running(_))
    }

    fn line(&self, index: usize) -> Option<&L> {
        if self.is_legacy && index < 2 {
            return Some(if index == 0 {
                &self.lines.timer
            } else {
                &self.lines.clock
            });
        }
        let route = self.comparators.get(index)?.route()?;
        match route.checked_sub(FIRST_PIN) {
            Some(pin) => self.lines.pins.get(usize::from(pin)),
            None => Some(&self.lines.irq11),
        }
    }

    /// A comparator has matched.
    fn fire(&mut self, index: usize) {
        let comparator = &mut self.comparators[index];
        if comparator.is_level_triggered() {
            comparator.is_asking = true;
            self.update_irq();
        } else if comparator.is_enabled() {
            if let Some(line) = self.line(index) {
                line.set(Level::High);
            }
            // Low again, but for a level-triggered neighbour on the same line.
            self.update_irq();
        }
    }

    /// Matches what already stands at its value, when the counter or the comparator was just set.
    fn fire_if_equal(&mut self, index: usize) {
        let count = self.count();
        if self.is_running() && self.comparators[index].take_equal(count) {
            self.fire(index);
        }
    }

    fn update_irq(&self) {
        let Lines {
            timer,
            clock,
            irq11,
            pins: [a, b, c, d],
        } = &self.lines;
        for line in [timer, clock, irq11, a, b, c, d] {
            let is_high = (0..COMPARATORS).any(|index| {
                let comparator = &self.comparators[index];
                self.is_running()
                    && comparator.drives_level()
                    && self.line(index).is_some_and(|own| core::ptr::eq(own, line))
            });
            line.set(Level::from(is_high));
        }
    }

    fn read_register(&mut self, register: u64) -> u64 {
        self.advance();
        match register {
            CAPABILITIES_OFFSET => CAPABILITIES,
            CONFIGURATION_OFFSET => Configuration::new()
                .with_enabled(self.is_running())
                .with_legacy_replacement(self.is_legacy)
                .into_bits(),
            STATUS_OFFSET => self.status(),
            COUNTER_OFFSET => self.count(),
            COMPARATOR_BASE..COMPARATOR_END => {
                let (index, register) = split(register);
                self.comparators[index].read(register)
            }
            // Reserved.
            _ => 0,
        }
    }

    /// Writes the bits of `value` that are set in `mask`.
    fn write_register(&mut self, register: u64, value: u64, mask: u64) {
        self.advance();
        let merged = |old: u64| old & !mask | value & mask;
        match register {
            CONFIGURATION_OFFSET => {
                let old = self.read_register(register);
                self.configure(Configuration::from_bits(merged(old)));
            }
            STATUS_OFFSET => {
                for (index, comparator) in self.comparators.iter_mut().enumerate() {
                    comparator.is_asking &= value & mask & (1 << index) == 0;
                }
                self.update_irq();
            }
            COUNTER_OFFSET => {
                self.counter = match self.counter {
                    Counter::Halted(old) => Counter::Halted(merged(old)),
                    Counter::Running(_) => {
                        Counter::Running(merged(self.count()).wrapping_sub(self.seen))
                    }
                };
                self.fire_all_equal();
            }
            COMPARATOR_BASE..COMPARATOR_END => {
                let (index, register) = split(register);
                if self.comparators[index].write(register, value, mask) {
                    self.fire_if_equal(index);
                }
                self.update_irq();
            }
            _ => {}
        }
    }

    fn configure(&mut self, configuration: Configuration) {
        self.is_legacy = configuration.legacy_replacement();
        let was_running = self.is_running();
        let count = self.count();
        if configuration.enabled() {
            self.counter = Counter::Running(count.wrapping_sub(self.seen));
        } else {
            self.counter = Counter::Halted(count);
        }
        if !was_running {
            self.fire_all_equal();
        }
        self.update_irq();
    }

    fn fire_all_equal(&mut self) {
        for index in 0..COMPARATORS {
            self.fire_if_equal(index);
        }
    }

    fn status(&self) -> u64 {
        let asking = self.comparators.iter().map(|c| u64::from(c.is_asking));
        asking
            .enumerate()
            .fold(0, |bits, (index, bit)| bits | bit << index)
    }
}

fn nanoseconds(tick: u64) -> Nanoseconds {
    tick.saturating_mul(TICK_NS)
}

/// Splits an offset among the comparators' registers.
fn split(register: u64) -> (usize, u64) {
    let offset = register - COMPARATOR_BASE;
    let index = usize::try_from(offset / COMPARATOR_SIZE).unwrap_or(0);
    (index.min(COMPARATORS - 1), offset % COMPARATOR_SIZE)
}

/// Returns the register an access is to, and which of its bits: whole, or either half (1.0a, 2.3.1).
fn locate(offset: u64, len: usize) -> Result<(u64, u32), AccessError> {
    if offset >= BLOCK_SIZE {
        return Err(AccessError::NoRegister);
    }
    match (len, offset & 7) {
        (8, 0) | (4, 0) => Ok((offset, 0)),
        (4, 4) => Ok((offset - 4, 32)),
        _ => Err(AccessError::Width),
    }
}

impl<L: IrqLine, C: Clock> Mmio for Hpet<L, C> {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (register, shift) = locate(offset, data.len())?;
        let value = (self.read_register(register) >> shift).to_le_bytes();
        data.copy_from_slice(&value[..data.len()]);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (register, shift) = locate(offset, data.len())?;
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let mask = if data.len() == 8 {
            u64::MAX
        } else {
            u64::from(u32::MAX) << shift
        };
        self.write_register(register, u64::from_le_bytes(bytes) << shift, mask);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
