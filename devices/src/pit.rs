//! The interval timer (Intel 8254 data sheet) and port 61h, which gates its third channel.
//!
//! A channel is its programming plus the moment it was loaded; counts and outputs are computed from the clock when somebody
//! looks. Channel 0 drives the interrupt wire, channel 2 is the speaker's and the stock kernel's calibration delay.

use bitfield_struct::bitfield;
use stockade_bus::{AccessError, Clock, Deadline, IrqLine, Level, Nanoseconds, PortIo};

use crate::RestoreError;
use crate::state::check_version;

mod channel;

use channel::Channel;
pub use channel::ChannelState;

/// The 8254's input clock.
pub const FREQUENCY_HZ: u64 = 1_193_182;
/// Offset of port 61h among this device's ports: 40h to 43h are 0 to 3.
pub const PORT_61: u16 = 0x21;

/// What a write to port 43h says (data sheet, figure 7).
#[bitfield(u8)]
struct ControlWord {
    bcd: bool,
    #[bits(3)]
    mode: u8,
    #[bits(2)]
    access: u8,
    #[bits(2)]
    channel: u8,
}

/// The read-back command (data sheet, figure 12).
#[bitfield(u8)]
struct ReadBack {
    __: bool,
    #[bits(3)]
    channels: u8,
    no_status: bool,
    no_count: bool,
    #[bits(2)]
    command: u8,
}

/// NMI status and control, the PC's port B.
#[bitfield(u8)]
struct PortB {
    timer2_gate: bool,
    speaker: bool,
    parity_disable: bool,
    channel_check_disable: bool,
    refresh: bool,
    timer2_output: bool,
    #[bits(2)]
    __: u8,
}

/// Version of the saved state.
const VERSION: u32 = 2;

/// The refresh request toggles about every 15 µs.
const REFRESH_NS: u64 = 15_085;

/// One 8254 with port 61h.
#[derive(Debug)]
pub struct Pit<L, C> {
    irq: L,
    clock: C,

    channels: [Channel; 3],
    /// The four writable bits of port 61h.
    port_b: u8,

    /// How far channel 0's output was followed.
    seen_ns: Nanoseconds,
    /// By how many ticks its last rise was seen late.
    late: u64,
}

fn ticks(ns: Nanoseconds) -> u64 {
    let ticks = u128::from(ns) * u128::from(FREQUENCY_HZ) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which `tick` has passed.
fn nanoseconds(tick: u64) -> Nanoseconds {
    let ns = (u128::from(tick) * 1_000_000_000).div_ceil(u128::from(FREQUENCY_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

impl<L: IrqLine, C: Clock> Pit<L, C> {
    /// Returns the timer, not yet programmed, channel 0 wired to `irq`.
    pub fn new(irq: L, clock: C) -> Self {
        let seen_ns = clock.now_ns();
        Self {
            irq,
            clock,
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_b: 0,
            seen_ns,
            late: 0,
        }
    }

    /// Puts the timer back to power-on.
    pub fn reset(&mut self) {
        let Self {
            irq,
            clock,
            channels,
            port_b,
            seen_ns,
            late,
        } = self;
        *channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        *port_b = 0;
        *seen_ns = clock.now_ns();
        *late = 0;
        irq.set(Level::Low);
    }

    fn now(&self) -> u64 {
        ticks(self.clock.now_ns())
    }

    /// Returns when channel 0's output next rises.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let [channel0, ..] = &self.channels;
        channel0.next_rise(ticks(self.seen_ns)).map(nanoseconds)
    }

    /// Drives the wire as channel 0's output moved since the last look. Several rises are one: a PC's
    /// interrupt controller would have latched them once, too. What rises late falls as much later: the interrupt controller forgets
    /// what falls before the processor has it, and whoever looks late shall not cost the guest its tick.
    pub fn advance(&mut self) {
        let now_ns = self.clock.now_ns();
        let from = ticks(core::mem::replace(&mut self.seen_ns, now_ns));
        let now = ticks(now_ns);
        let [channel0, ..] = &self.channels;
        if channel0.next_rise(from).is_some_and(|tick| tick <= now) {
            self.irq.set(Level::Low);
            self.irq.set(Level::High);
            self.late = channel0.last_rise(now).map_or(0, |rise| now - rise);
        }
        self.show(now);
    }

    /// Puts channel 0's output on the wire, as late as its last rise was.
    fn show(&self, now: u64) {
        let [channel0, ..] = &self.channels;
        let output = channel0.output(now.saturating_sub(self.late));
        self.irq.set(Level::from(output));
    }

    /// Follows the output of a channel that is programmed anew.
    fn start_over(&mut self, channel: u16) {
        if channel == 0 {
            self.late = 0;
        }
        self.advance();
    }

    fn write_control(&mut self, value: u8) {
        let word = ControlWord::from_bits(value);
        let now = self.now();
        if word.channel() == 3 {
            return self.read_back(ReadBack::from_bits(value));
        }
        let channel = &mut self.channels[usize::from(word.channel())];
        if word.access() == 0 {
            channel.latch_count(now);
        } else {
            channel.program(word.access(), word.mode(), word.bcd());
            self.start_over(word.channel().into());
        }
    }

    fn read_back(&mut self, command: ReadBack) {
        let now = self.now();
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if command.channels() & (1 << index) == 0 {
                continue;
            }
            if !command.no_count() {
                channel.latch_count(now);
            }
            if !command.no_status() {
                channel.latch_status(now);
            }
        }
    }

    fn read_port_b(&self) -> u8 {
        let [.., channel2] = &self.channels;
        PortB::from_bits(self.port_b)
            .with_refresh(self.clock.now_ns() / REFRESH_NS % 2 == 1)
            .with_timer2_output(channel2.output(self.now()))
            .into_bits()
    }

    fn write_port_b(&mut self, value: u8) {
        let now = self.now();
        self.port_b = value & 0x0F;
        let [.., channel2] = &mut self.channels;
        channel2.set_gate(PortB::from_bits(value).timer2_gate(), now);
    }
}

impl<L: IrqLine, C: Clock> PortIo for Pit<L, C> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        let now = self.now();
        *byte = match offset {
            0..=2 => self.channels[usize::from(offset)].read(now),
            PORT_61 => self.read_port_b(),
            // The control word cannot be read back.
            _ => return Err(AccessError::NoRegister),
        };
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        let now = self.now();
        match offset {
            0..=2 => {
                self.advance();
                self.channels[usize::from(offset)].write(*byte, now);
                self.start_over(offset);
            }
            3 => self.write_control(*byte),
            PORT_61 => self.write_port_b(*byte),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The timer's state, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitState {
    /// Format version: 2.
    pub version: u32,
    /// The three channels; their times are ticks before the moment of saving.
    pub channels: [ChannelState; 3],
    /// The writable bits of port 61h.
    pub port_b: u8,
    /// By how many ticks the last rise of channel 0's output was late.
    pub late: u64,
}

impl<L: IrqLine, C: Clock> Pit<L, C> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> PitState {
        let Self {
            irq: _,
            clock: _,
            channels,
            port_b,
            seen_ns: _,
            late,
        } = self;
        let now = self.now();
        PitState {
            version: VERSION,
            channels: channels.each_ref().map(|channel| channel.save(now)),
            port_b: *port_b,
            late: *late,
        }
    }

    /// Takes a saved state and drives the wire accordingly.
    pub fn restore(&mut self, state: &PitState) -> Result<(), RestoreError> {
        check_version(state.version, VERSION)?;
        let now = self.now();
        let [a, b, c] = &state.channels;
        self.channels = [
            Channel::restore(a, now)?,
            Channel::restore(b, now)?,
            Channel::restore(c, now)?,
        ];
        self.port_b = state.port_b & 0x0F;
        self.seen_ns = self.clock.now_ns();
        self.late = state.late;
        self.show(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
