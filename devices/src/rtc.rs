//! The real-time clock and its CMOS memory (Motorola MC146818A data sheet; century in cell 0x32 as on PCs).
//!
//! Time of day is the epoch given at construction plus the machine's clock; the guest may set it, which only moves the
//! offset. Periodic, alarm and update-ended interrupts are computed from elapsed time, so a late look catches up.

use bitflags::bitflags;
use stockade_bus::{AccessError, Clock, Deadline, IrqLine, Level, Nanoseconds, PortIo};

mod calendar;
mod saved;

use calendar::DateTime;
pub use calendar::unix_seconds;
pub use saved::RtcState;

const SECOND_NS: u64 = 1_000_000_000;
/// How long before the end of a second update-in-progress reads as one (data sheet: 244 µs plus the cycle).
const UPDATE_NS: u64 = 244_000 + 1_984_000;

const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
const CENTURY: u8 = 0x32;

/// Register A: update in progress.
const A_UIP: u8 = 0x80;
/// Register A as every BIOS leaves it: 32 kHz base, 1024 Hz periodic rate.
const A_DEFAULT: u8 = 0x26;
/// Register D: valid RAM and time.
const D_VALID: u8 = 0x80;

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct RegisterB: u8 {
        const DAYLIGHT = 1 << 0;
        const HOURS_24 = 1 << 1;
        const BINARY = 1 << 2;
        const SQUARE_WAVE = 1 << 3;
        const UPDATE_INTERRUPT = 1 << 4;
        const ALARM_INTERRUPT = 1 << 5;
        const PERIODIC_INTERRUPT = 1 << 6;
        const SET = 1 << 7;
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct RegisterC: u8 {
        const UPDATE = 1 << 4;
        const ALARM = 1 << 5;
        const PERIODIC = 1 << 6;
        const IRQF = 1 << 7;
    }
}

/// One MC146818A with 128 cells.
#[derive(Debug)]
pub struct Rtc<L, C> {
    irq: L,
    clock: C,

    index: u8,
    cells: [u8; 128],
    register_b: RegisterB,
    register_c: RegisterC,
    /// Nanoseconds since the Unix epoch at machine time zero, as the guest believes.
    epoch_ns: i128,
    /// While SET holds the clock: the time it was stopped at.
    held: Option<DateTime>,

    /// How far the interrupt sources were looked at, in machine time.
    seen_ns: Nanoseconds,
}

impl<L: IrqLine, C: Clock> Rtc<L, C> {
    /// Returns a clock that shows `unix_seconds` at machine time zero.
    pub fn new(irq: L, clock: C, unix_seconds: u64) -> Self {
        let mut cells = [0; 128];
        cells[usize::from(REGISTER_A)] = A_DEFAULT;
        let seen_ns = clock.now_ns();
        Self {
            irq,
            clock,
            index: 0,
            cells,
            register_b: RegisterB::HOURS_24,
            register_c: RegisterC::empty(),
            epoch_ns: i128::from(unix_seconds) * i128::from(SECOND_NS),
            held: None,
            seen_ns,
        }
    }

    /// Writes a CMOS cell the way firmware finds it (memory size and the like).
    pub fn set_cell(&mut self, cell: u8, value: u8) {
        self.cells[usize::from(cell & 0x7F)] = value;
    }

    /// Resets what RESET# resets: interrupt enables and flags; time and memory live on the battery.
    pub fn reset(&mut self) {
        self.index = 0;
        self.register_b.remove(
            RegisterB::UPDATE_INTERRUPT
                | RegisterB::ALARM_INTERRUPT
                | RegisterB::PERIODIC_INTERRUPT
                | RegisterB::SQUARE_WAVE,
        );
        self.register_c = RegisterC::empty();
        self.update_irq();
    }

    /// Returns when an enabled interrupt source is next due.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let mut next = None;
        let mut consider = |at: Nanoseconds| {
            next = Some(next.map_or(at, |n: Nanoseconds| n.min(at)));
        };
        // A flag already set needs no second look until it is read.
        if self.register_b.contains(RegisterB::PERIODIC_INTERRUPT)
            && !self.register_c.contains(RegisterC::PERIODIC)
            && let Some(period) = self.period_ns()
        {
            consider((self.seen_ns / period + 1).saturating_mul(period));
        }
        let wants_seconds = (self.register_b.contains(RegisterB::UPDATE_INTERRUPT)
            && !self.register_c.contains(RegisterC::UPDATE))
            || (self.register_b.contains(RegisterB::ALARM_INTERRUPT)
                && !self.register_c.contains(RegisterC::ALARM));
        if wants_seconds && self.held.is_none() {
            consider(self.seen_ns + SECOND_NS - self.subsecond_ns(self.seen_ns));
        }
        next
    }

    /// Raises the flags of every source that fell due since the last look.
    pub fn advance(&mut self) {
        let now = self.clock.now_ns();
        let from = core::mem::replace(&mut self.seen_ns, now);
        if now <= from {
            return;
        }
        if let Some(period) = self.period_ns()
            && now / period != from / period
        {
            self.register_c |= RegisterC::PERIODIC;
        }
        if self.held.is_none() {
            self.advance_seconds(from, now);
        }
        self.update_irq();
    }

    fn advance_seconds(&mut self, from: Nanoseconds, now: Nanoseconds) {
        let (first, last) = (self.unix_seconds(from) + 1, self.unix_seconds(now));
        if last < first {
            return;
        }
        self.register_c |= RegisterC::UPDATE;
        // A day holds every alarm there can be.
        let looked_at = first.max(last - 86_400);
        if (looked_at..=last).any(|second| self.matches_alarm(&DateTime::from_unix(second))) {
            self.register_c |= RegisterC::ALARM;
        }
    }

    fn matches_alarm(&self, time: &DateTime) -> bool {
        let matches = |cell: u8, shown: u8| {
            let wanted = self.cells[usize::from(cell)];
            wanted >= 0xC0 || wanted == shown
        };
        matches(1, self.encode(time.second))
            && matches(3, self.encode(time.minute))
            && matches(5, self.encode_hour(time.hour))
    }

    /// The period of the rate selected in register A, if one is.
    fn period_ns(&self) -> Option<u64> {
        let rate = match self.cells[usize::from(REGISTER_A)] & 0x0F {
            0 => return None,
            // Rates 1 and 2 give what 8 and 9 give, with the 32 kHz base.
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        Some((SECOND_NS << (rate - 1)) / 32_768)
    }

    fn unix_ns(&self, at: Nanoseconds) -> i128 {
        self.epoch_ns + i128::from(at)
    }

    fn unix_seconds(&self, at: Nanoseconds) -> i64 {
        i64::try_from(self.unix_ns(at).div_euclid(i128::from(SECOND_NS))).unwrap_or(0)
    }

    fn subsecond_ns(&self, at: Nanoseconds) -> u64 {
        u64::try_from(self.unix_ns(at).rem_euclid(i128::from(SECOND_NS))).unwrap_or(0)
    }

    fn time(&self) -> DateTime {
        self.held
            .unwrap_or_else(|| DateTime::from_unix(self.unix_seconds(self.clock.now_ns())))
    }

    fn set_time(&mut self, time: DateTime) {
        if self.held.is_some() {
            self.held = Some(time);
        } else {
            self.start_from(time, self.subsecond_ns(self.clock.now_ns()));
        }
    }

    fn start_from(&mut self, time: DateTime, subsecond_ns: u64) {
        let wanted = i128::from(time.to_unix()) * i128::from(SECOND_NS) + i128::from(subsecond_ns);
        self.epoch_ns = wanted - i128::from(self.clock.now_ns());
    }

    fn update_irq(&mut self) {
        let enabled = RegisterC::from_bits_truncate(self.register_b.bits());
        let asks = !(self.register_c & enabled & !RegisterC::IRQF).is_empty();
        self.register_c.set(RegisterC::IRQF, asks);
        self.irq.set(Level::from(asks));
    }

    fn encode(&self, value: u8) -> u8 {
        if self.register_b.contains(RegisterB::BINARY) {
            value
        } else {
            (value / 10) << 4 | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.register_b.contains(RegisterB::BINARY) {
            value
        } else {
            (value >> 4) * 10 + (value & 0x0F)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.register_b.contains(RegisterB::HOURS_24) {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        self.encode((hour + 11) % 12 + 1) | afternoon
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.register_b.contains(RegisterB::HOURS_24) {
            return self.decode(value) % 24;
        }
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        self.decode(value & 0x7F) % 12 + afternoon
    }

    fn read_cell(&mut self) -> u8 {
        let time = self.time();
        match self.index {
            0 => self.encode(time.second),
            2 => self.encode(time.minute),
            4 => self.encode_hour(time.hour),
            6 => time.weekday(),
            7 => self.encode(time.day),
            8 => self.encode(time.month),
            9 => self.encode(time.year_of_century()),
            CENTURY => self.encode(time.century()),
            REGISTER_A => self.read_register_a(),
            REGISTER_B => self.register_b.bits(),
            REGISTER_C => self.read_register_c(),
            REGISTER_D => D_VALID,
            cell => self.cells[usize::from(cell & 0x7F)],
        }
    }

    fn read_register_a(&self) -> u8 {
        let is_updating =
            self.held.is_none() && self.subsecond_ns(self.clock.now_ns()) >= SECOND_NS - UPDATE_NS;
        self.cells[usize::from(REGISTER_A)] | if is_updating { A_UIP } else { 0 }
    }

    fn read_register_c(&mut self) -> u8 {
        self.advance();
        let flags = core::mem::replace(&mut self.register_c, RegisterC::empty());
        self.update_irq();
        flags.bits()
    }

    fn write_cell(&mut self, value: u8) {
        let mut time = self.time();
        match self.index {
            0 => time.second = self.decode(value) % 60,
            2 => time.minute = self.decode(value) % 60,
            4 => time.hour = self.decode_hour(value),
            // The weekday follows from the date.
            6 => return,
            7 => time.day = self.decode(value).clamp(1, 31),
            8 => time.month = self.decode(value).clamp(1, 12),
            9 => time.set_year_of_century(self.decode(value) % 100),
            CENTURY => time.set_century(self.decode(value) % 100),
            REGISTER_A => return self.cells[usize::from(REGISTER_A)] = value & !A_UIP,
            REGISTER_B => return self.write_register_b(value),
            REGISTER_C | REGISTER_D => return,
            cell => return self.cells[usize::from(cell & 0x7F)] = value,
        }
        self.set_time(time);
    }

    fn write_register_b(&mut self, value: u8) {
        self.advance();
        let time = self.time();
        self.register_b = RegisterB::from_bits_retain(value);
        if self.register_b.contains(RegisterB::SET) {
            self.held = Some(time);
        } else if let Some(held) = self.held.take() {
            // Releasing SET starts a fresh second half a second ahead of its end (data sheet, divider reset).
            self.start_from(held, SECOND_NS / 2);
        }
        self.update_irq();
    }
}

impl<L: IrqLine, C: Clock> PortIo for Rtc<L, C> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        *byte = match offset {
            // The index port is write-only on the PC.
            0 => 0xFF,
            1 => self.read_cell(),
            _ => return Err(AccessError::NoRegister),
        };
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        match offset {
            // Bit 7 is the NMI mask of the PC, not the clock's.
            0 => self.index = byte & 0x7F,
            1 => self.write_cell(*byte),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
