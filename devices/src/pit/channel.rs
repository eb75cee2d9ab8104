//! One counter of the 8254.

use crate::RestoreError;

/// Which bytes of the count an access moves (control word, RW field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

impl Access {
    fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Low,
            2 => Self::High,
            _ => Self::LowThenHigh,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::High => 2,
            Self::LowThenHigh => 3,
        }
    }
}

/// A count being read: latched, or live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Latch {
    count: u16,
    bytes_left: u8,
}

/// One counter: how it was programmed and when it was last loaded or triggered.
#[derive(Debug)]
pub(super) struct Channel {
    access: Access,
    mode: u8,
    is_bcd: bool,
    /// The count register; 0 stands for 65,536 (10,000 in BCD).
    reload: u16,
    /// The low byte of a two-byte write that waits for its high byte.
    pending_low: Option<u8>,
    /// The tick the counter started from `reload` at; `None` while no count was written or no trigger came.
    started: Option<u64>,
    /// Ticks counted when the gate stopped the counter.
    stopped_after: Option<u64>,
    gate: bool,

    status: Option<u8>,
    latch: Option<Latch>,
    read_high_next: bool,
}

impl Channel {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            access: Access::LowThenHigh,
            mode: 0,
            is_bcd: false,
            reload: 0,
            pending_low: None,
            started: None,
            stopped_after: None,
            gate,
            status: None,
            latch: None,
            read_high_next: false,
        }
    }

    /// Takes a control word.
    pub(super) fn program(&mut self, access: u8, mode: u8, is_bcd: bool) {
        *self = Self {
            access: Access::from_bits(access),
            // Bit 2 is "don't care" in modes 2 and 3.
            mode: if mode > 5 { mode - 4 } else { mode },
            is_bcd,
            ..Self::new(self.gate)
        };
    }

    fn modulus(&self) -> u64 {
        if self.is_bcd { 10_000 } else { 0x1_0000 }
    }

    /// Ticks from load to terminal count.
    fn period(&self) -> u64 {
        let count = if self.is_bcd {
            from_bcd(self.reload)
        } else {
            u64::from(self.reload)
        };
        if count == 0 { self.modulus() } else { count }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn is_triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        self.stopped_after
            .or_else(|| Some(now.saturating_sub(self.started?)))
    }

    pub(super) fn write(&mut self, byte: u8, now: u64) {
        let [low, high] = self.reload.to_le_bytes();
        self.reload = match (self.access, self.pending_low.take()) {
            (Access::Low, _) => u16::from(byte),
            (Access::High, _) => u16::from_le_bytes([0, byte]),
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, byte]),
            (Access::LowThenHigh, None) => {
                self.pending_low = Some(byte);
                if self.mode == 0 {
                    // The first byte stops the counter (data sheet, mode 0).
                    self.started = None;
                }
                debug_assert_eq!(u16::from_le_bytes([low, high]), self.reload);
                return;
            }
        };
        self.load(now);
    }

    fn load(&mut self, now: u64) {
        if self.is_triggered() {
            return;
        }
        // A running periodic counter takes the new count at its next reload; starting over is what guests rely on.
        self.started = Some(now);
        self.stopped_after = if self.gate { None } else { Some(0) };
    }

    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        let rises = gate && !self.gate;
        let falls = !gate && self.gate;
        match self.mode {
            1 | 5 if rises => self.started = Some(now),
            2 | 3 if rises && self.started.is_some() => {
                self.started = Some(now);
                self.stopped_after = None;
            }
            0 | 4 if rises => {
                if let Some(counted) = self.stopped_after.take() {
                    self.started = Some(now.saturating_sub(counted));
                }
            }
            0 | 2 | 3 | 4 if falls => self.stopped_after = self.elapsed(now),
            _ => {}
        }
        self.gate = gate;
    }

    /// Returns the level of OUT.
    pub(super) fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != 0;
        };
        let period = self.period();
        match self.mode {
            0 | 1 => elapsed >= period,
            2 => !self.gate || elapsed % period != period - 1,
            3 => !self.gate || elapsed % period < period.div_ceil(2),
            _ => elapsed != period,
        }
    }

    /// Returns the first tick after `now` at which OUT rises.
    pub(super) fn next_rise(&self, now: u64) -> Option<u64> {
        if self.stopped_after.is_some() {
            return None;
        }
        let (started, period) = (self.started?, self.period());
        if self.is_periodic() {
            let periods = now.saturating_sub(started) / period + 1;
            return started.checked_add(periods.checked_mul(period)?);
        }
        let strobe = u64::from(matches!(self.mode, 4 | 5));
        let rise = started.checked_add(period + strobe)?;
        (rise > now).then_some(rise)
    }

    /// Returns the last tick up to `now` at which OUT of a periodic channel rose.
    pub(super) fn last_rise(&self, now: u64) -> Option<u64> {
        let next = self.next_rise(now).filter(|_| self.is_periodic())?;
        let last = next - self.period();
        (Some(last) != self.started).then_some(last)
    }

    fn count(&self, now: u64) -> u16 {
        let Some(elapsed) = self.elapsed(now) else {
            return self.reload;
        };
        let (period, modulus) = (self.period(), self.modulus());
        let left = match self.mode {
            2 => period - elapsed % period,
            // Mode 3 counts by two, each half period from the full (even) count.
            3 => (period & !1).saturating_sub(elapsed % period * 2 % (period & !1).max(2)),
            // The others count on through zero.
            _ => (period + modulus - elapsed % modulus) % modulus,
        };
        let left = left % modulus;
        if self.is_bcd {
            to_bcd(left)
        } else {
            u16::try_from(left).unwrap_or(0)
        }
    }

    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latch.is_some() {
            return;
        }
        let bytes_left = if self.access == Access::LowThenHigh {
            2
        } else {
            1
        };
        self.latch = Some(Latch {
            count: self.count(now),
            bytes_left,
        });
    }

    pub(super) fn latch_status(&mut self, now: u64) {
        if self.status.is_some() {
            return;
        }
        let null_count = self.started.is_none();
        self.status = Some(
            u8::from(self.output(now)) << 7
                | u8::from(null_count) << 6
                | self.access.bits() << 4
                | self.mode << 1
                | u8::from(self.is_bcd),
        );
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let count = self
            .latch
            .map_or_else(|| self.count(now), |latch| latch.count);
        let [low, high] = count.to_le_bytes();
        let byte = match self.access {
            Access::Low => low,
            Access::High => high,
            Access::LowThenHigh => {
                let is_high = self.read_high_next;
                self.read_high_next = !is_high;
                if is_high { high } else { low }
            }
        };
        self.latch = self.latch.and_then(|latch| {
            let bytes_left = latch.bytes_left - 1;
            (bytes_left > 0).then_some(Latch {
                bytes_left,
                ..latch
            })
        });
        byte
    }
}

fn from_bcd(value: u16) -> u64 {
    (0..4).rev().fold(0, |sum, digit| {
        sum * 10 + u64::from(value >> (4 * digit) & 0xF).min(9)
    })
}

fn to_bcd(value: u64) -> u16 {
    let digits = [
        value / 1000 % 10,
        value / 100 % 10,
        value / 10 % 10,
        value % 10,
    ];
    digits.iter().fold(0, |word, digit| {
        word << 4 | u16::try_from(*digit).unwrap_or(0)
    })
}

/// One counter's saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelState {
    /// Control word fields: access, mode, BCD.
    pub control: (u8, u8, bool),
    /// The count register.
    pub reload: u16,
    /// The low byte of an unfinished write.
    pub pending_low: Option<u8>,
    /// Ticks since the counter started.
    pub running_for: Option<u64>,
    /// Ticks counted when the gate stopped it.
    pub stopped_after: Option<u64>,
    /// The gate input.
    pub gate: bool,
    /// A latched status byte.
    pub status: Option<u8>,
    /// A latched count and how many bytes of it are unread.
    pub latch: Option<(u16, u8)>,
    /// The next read gives the high byte.
    pub read_high_next: bool,
}

impl Channel {
    pub(super) fn save(&self, now: u64) -> ChannelState {
        let Self {
            access,
            mode,
            is_bcd,
            reload,
            pending_low,
            started,
            stopped_after,
            gate,
            status,
            latch,
            read_high_next,
        } = self;
        ChannelState {
            control: (access.bits(), *mode, *is_bcd),
            reload: *reload,
            pending_low: *pending_low,
            running_for: started.map(|start| now.saturating_sub(start)),
            stopped_after: *stopped_after,
            gate: *gate,
            status: *status,
            latch: latch.map(|latch| (latch.count, latch.bytes_left)),
            read_high_next: *read_high_next,
        }
    }

    pub(super) fn restore(state: &ChannelState, now: u64) -> Result<Self, RestoreError> {
        let (access, mode, is_bcd) = state.control;
        if !(1..=3).contains(&access) || mode > 5 {
            return Err(RestoreError::Impossible("PIT control word"));
        }
        if state
            .latch
            .is_some_and(|(_, bytes)| !(1..=2).contains(&bytes))
        {
            return Err(RestoreError::Impossible("PIT latch"));
        }
        Ok(Self {
            access: Access::from_bits(access),
            mode,
            is_bcd,
            reload: state.reload,
            pending_low: state.pending_low,
            started: state.running_for.map(|ticks| now.saturating_sub(ticks)),
            stopped_after: state.stopped_after,
            gate: state.gate,
            status: state.status,
            latch: state
                .latch
                .map(|(count, bytes_left)| Latch { count, bytes_left }),
            read_high_next: state.read_high_next,
        })
    }
}
