//! The local APIC timer (SDM 10.5.4).
//!
//! The bus clock is 1 GHz: with divisor 1 a tick is a nanosecond, so no arithmetic here is ever inexact. In TSC-deadline mode
//! the guest's TSC is compared as it is. Counts are computed from the moment of the next zero; nothing ticks.

use super::registers::DIVIDE_WRITABLE;

/// The frequency of the timer before its divisor.
pub const BUS_CLOCK_HZ: u64 = 1_000_000_000;

/// A moment, on the two clocks that a local APIC timer can run by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Guest time since power-on, for one-shot and periodic mode.
    pub ns: u64,
    /// The guest's time stamp counter, for TSC-deadline mode.
    pub tsc: u64,
}

/// When a timer fires next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerDeadline {
    /// At this guest time in nanoseconds.
    Nanoseconds(u64),
    /// At this value of the guest's time stamp counter.
    Tsc(u64),
}

/// Timer mode, bits 18:17 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// What the timer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Countdown {
    #[default]
    Stopped,
    /// The count gets to zero at this guest time.
    ZeroAt(u64),
    /// Armed for this value of the guest's TSC.
    Tsc(u64),
}

/// The timer without its LVT entry, whose mode is passed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) initial: u32,
    pub(super) divide: u32,
    pub(super) countdown: Countdown,
}

impl Timer {
    /// Starts a count; zero stops it. Ignored outside the counting modes.
    pub(super) fn start(&mut self, initial: u32, mode: Mode, now: Time) {
        if !mode.counts() {
            return;
        }
        self.initial = initial;
        self.countdown = if initial == 0 {
            Countdown::Stopped
        } else {
            Countdown::ZeroAt(now.ns.saturating_add(self.period_ns()))
        };
    }

    /// Returns the current count. A count that is due reads zero until [`Self::advance`] reloads it.
    pub(super) fn current(&self, now: Time) -> u32 {
        match self.countdown {
            Countdown::ZeroAt(zero_at) => {
                let ticks = zero_at.saturating_sub(now.ns).div_ceil(1 << self.shift());
                // The clock never runs backwards; if it did, the count would stand rather than grow.
                u32::try_from(ticks).map_or(self.initial, |ticks| ticks.min(self.initial))
            }
            Countdown::Stopped | Countdown::Tsc(_) => 0,
        }
    }

    /// Changes the divisor; a running count goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: Time) {
        let divide = value & DIVIDE_WRITABLE;
        if divide == self.divide {
            return;
        }
        let count = self.current(now);
        self.divide = divide;
        if let Countdown::ZeroAt(zero_at) = &mut self.countdown {
            *zero_at = now.ns.saturating_add(u64::from(count) << shift_of(divide));
        }
    }

    /// Follows a change of mode. Between one-shot and periodic the count goes on, as silicon does it; any other change disarms
    /// (SDM 10.5.4.1).
    pub(super) fn change_mode(&mut self, from: Mode, to: Mode) {
        if from != to && !(from.counts() && to.counts()) {
            self.initial = 0;
            self.countdown = Countdown::Stopped;
        }
    }

    /// Arms for a TSC value; zero disarms. Ignored outside TSC-deadline mode.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, mode: Mode) {
        if mode == Mode::TscDeadline {
            self.countdown = match tsc {
                0 => Countdown::Stopped,
                _ => Countdown::Tsc(tsc),
            };
        }
    }

    /// Returns what IA32_TSC_DEADLINE reads: zero once it fired, or in another mode.
    pub(super) fn tsc_deadline(&self) -> u64 {
        match self.countdown {
            Countdown::Tsc(tsc) => tsc,
            Countdown::Stopped | Countdown::ZeroAt(_) => 0,
        }
    }

    /// Returns when the timer fires next, masked or not.
    pub(super) fn deadline(&self) -> Option<TimerDeadline> {
        match self.countdown {
            Countdown::Stopped => None,
            Countdown::ZeroAt(ns) => Some(TimerDeadline::Nanoseconds(ns)),
            Countdown::Tsc(tsc) => Some(TimerDeadline::Tsc(tsc)),
        }
    }

    /// Fires what is due and returns whether anything was. Periods missed are one interrupt, as in IRR, but the phase is kept.
    pub(super) fn advance(&mut self, mode: Mode, now: Time) -> bool {
        match self.countdown {
            Countdown::ZeroAt(zero_at) if now.ns >= zero_at => {
                let period = self.period_ns();
                self.countdown = if mode == Mode::Periodic && period != 0 {
                    let into_period = (now.ns - zero_at) % period;
                    Countdown::ZeroAt(now.ns.saturating_add(period - into_period))
                } else {
                    Countdown::Stopped
                };
                true
            }
            Countdown::Tsc(tsc) if now.tsc >= tsc => {
                self.countdown = Countdown::Stopped;
                true
            }
            _ => false,
        }
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    fn shift(&self) -> u32 {
        shift_of(self.divide)
    }
}

/// Returns the base-two logarithm of the divisor: bits 3, 1 and 0 count 2, 4, … 128, 1.
fn shift_of(divide: u32) -> u32 {
    ((divide & 0b11 | (divide & 0b1000) >> 1) + 1) & 0b111
}

#[cfg(test)]
mod tests {
    use super::{Countdown, Mode, Time, Timer, TimerDeadline, shift_of};

    const fn at(ns: u64) -> Time {
        Time { ns, tsc: 0 }
    }

    fn running(initial: u32, divide: u32, mode: Mode) -> Timer {
        let mut timer = Timer::default();
        timer.set_divide(divide, at(0));
        timer.start(initial, mode, at(1000));
        timer
    }

    #[test]
    fn all_eight_divisors_are_those_of_the_manual() {
        let divisors = [0, 1, 2, 3, 8, 9, 10, 11].map(|bits| 1u32 << shift_of(bits));
        assert_eq!(divisors, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn one_shot_counts_down_by_the_divided_clock_and_stays_zero() {
        let mut timer = running(100, 0b0011, Mode::OneShot);
        assert_eq!(timer.current(at(1000)), 100);
        assert_eq!(timer.current(at(1000 + 16 * 40)), 60);
        assert_eq!(timer.deadline(), Some(TimerDeadline::Nanoseconds(2600)));
        assert!(!timer.advance(Mode::OneShot, at(2599)));
        assert!(timer.advance(Mode::OneShot, at(2600)));
        assert!(!timer.advance(Mode::OneShot, at(9999)));
        assert_eq!(timer.current(at(9999)), 0);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn late_periodic_timer_fires_once_and_keeps_its_phase() {
        let mut timer = running(100, 0b1011, Mode::Periodic);
        assert!(timer.advance(Mode::Periodic, at(1000 + 730)));
        assert!(!timer.advance(Mode::Periodic, at(1000 + 799)));
        assert_eq!(timer.deadline(), Some(TimerDeadline::Nanoseconds(1800)));
        assert_eq!(timer.current(at(1730)), 70);
    }

    #[test]
    fn changed_divisor_keeps_the_count_and_changes_the_rate() {
        let mut timer = running(100, 0b1011, Mode::OneShot);
        timer.set_divide(0b0000, at(1040));
        assert_eq!(timer.current(at(1040)), 60);
        assert_eq!(timer.current(at(1060)), 50);
        assert_eq!(timer.deadline(), Some(TimerDeadline::Nanoseconds(1160)));
    }

    #[test]
    fn change_between_one_shot_and_periodic_goes_on_counting() {
        let mut timer = running(100, 0b1011, Mode::OneShot);
        timer.change_mode(Mode::OneShot, Mode::Periodic);
        assert_eq!(timer.current(at(1030)), 70);
        timer.change_mode(Mode::Periodic, Mode::TscDeadline);
        assert_eq!(
            timer,
            Timer {
                divide: 0b1011,
                ..Timer::default()
            }
        );
    }

    #[test]
    fn tsc_deadline_fires_once_when_the_counter_is_reached() {
        let mut timer = Timer::default();
        timer.start(100, Mode::TscDeadline, at(0));
        assert_eq!(
            timer.countdown,
            Countdown::Stopped,
            "initial count is ignored"
        );
        timer.set_tsc_deadline(5000, Mode::TscDeadline);
        assert_eq!(timer.deadline(), Some(TimerDeadline::Tsc(5000)));
        assert!(!timer.advance(
            Mode::TscDeadline,
            Time {
                ns: 9999,
                tsc: 4999
            }
        ));
        assert!(timer.advance(
            Mode::TscDeadline,
            Time {
                ns: 9999,
                tsc: 5000
            }
        ));
        assert_eq!(timer.tsc_deadline(), 0);
    }

    #[test]
    fn deadline_outside_its_mode_is_ignored() {
        let mut timer = Timer::default();
        timer.set_tsc_deadline(5000, Mode::OneShot);
        assert_eq!(timer.countdown, Countdown::Stopped);
    }

    #[test]
    fn longest_count_at_the_end_of_time_does_not_overflow() {
        let mut timer = Timer::default();
        timer.set_divide(0b1010, at(0));
        timer.start(u32::MAX, Mode::Periodic, at(u64::MAX - 1));
        assert!(timer.advance(Mode::Periodic, at(u64::MAX)));
        assert_eq!(timer.deadline(), Some(TimerDeadline::Nanoseconds(u64::MAX)));
    }
}
