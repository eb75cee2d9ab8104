//! The chip's saved state.

use stockade_bus::{Clock, IrqLine};

use super::calendar::DateTime;
use super::{RegisterB, RegisterC, Rtc, SECOND_NS};
use crate::RestoreError;
use crate::state::check_version;

/// How far from 1970 a clock may be, in seconds: some 30,000 years, far from any overflow.
const FARTHEST: i64 = 1 << 40;

/// The chip's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtcState {
    /// Format version: 1.
    pub version: u32,
    /// The selected cell.
    pub index: u8,
    /// CMOS memory.
    pub cells: [u8; 128],
    /// Register B.
    pub register_b: u8,
    /// Register C.
    pub register_c: u8,
    /// Nanoseconds since the Unix epoch when the state was saved.
    pub unix_ns: i128,
    /// Seconds since the Unix epoch the clock is held at by SET.
    pub held: Option<i64>,
}

impl<L: IrqLine, C: Clock> Rtc<L, C> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> RtcState {
        let Self {
            irq: _,
            clock,
            index,
            cells,
            register_b,
            register_c,
            epoch_ns,
            held,
            seen_ns: _,
        } = self;
        RtcState {
            version: 1,
            index: *index,
            cells: *cells,
            register_b: register_b.bits(),
            register_c: register_c.bits(),
            unix_ns: *epoch_ns + i128::from(clock.now_ns()),
            held: held.map(|time| time.to_unix()),
        }
    }

    /// Takes a saved state and drives the wire accordingly. Time goes on from the moment of saving.
    pub fn restore(&mut self, state: &RtcState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        if state.index > 0x7F {
            return Err(RestoreError::Impossible("RTC index"));
        }
        let limit_ns = i128::from(FARTHEST) * i128::from(SECOND_NS);
        let is_held_plausible = state
            .held
            .is_none_or(|s| (-FARTHEST..=FARTHEST).contains(&s));
        if !is_held_plausible || !(-limit_ns..=limit_ns).contains(&state.unix_ns) {
            return Err(RestoreError::Impossible("RTC time"));
        }
        self.index = state.index;
        self.cells = state.cells;
        self.register_b = RegisterB::from_bits_retain(state.register_b);
        self.register_c = RegisterC::from_bits_truncate(state.register_c);
        self.seen_ns = self.clock.now_ns();
        self.epoch_ns = state.unix_ns - i128::from(self.seen_ns);
        self.held = state.held.map(DateTime::from_unix);
        self.update_irq();
        Ok(())
    }
}
