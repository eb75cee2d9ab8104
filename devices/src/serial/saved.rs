//! The chip's saved state.

use stockade_bus::IrqLine;

use super::ring::Ring;
use super::{FCR_STORED, FIFO_DEPTH, Ier, Mcr, Serial};
use crate::RestoreError;
use crate::state::check_version;

/// The chip's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialState {
    /// Format version: 1.
    pub version: u32,
    /// Baud rate divisor latch.
    pub divisor: u16,
    /// Registers: IER, FCR, LCR, MCR, scratch, modem status deltas.
    pub registers: [u8; 6],
    /// A character was lost.
    pub overrun: bool,
    /// The transmitter-empty interrupt was not yet acknowledged.
    pub transmitter_empty_pending: bool,
    /// The receive FIFO: bytes and how many of them count.
    pub fifo: ([u8; FIFO_DEPTH], usize),
}

impl<L: IrqLine> Serial<L> {
    /// Returns the state to save. Characters on the line are not part of it.
    #[must_use]
    pub fn save(&self) -> SerialState {
        let Self {
            irq: _,
            divisor,
            ier,
            fcr,
            lcr,
            mcr,
            scratch,
            modem_delta,
            overrun,
            transmitter_empty_pending,
            fifo,
            output: _,
            has_line: _,
            input: _,
        } = self;
        SerialState {
            version: 1,
            divisor: *divisor,
            registers: [ier.bits(), *fcr, *lcr, mcr.bits(), *scratch, *modem_delta],
            overrun: *overrun,
            transmitter_empty_pending: *transmitter_empty_pending,
            fifo: fifo.to_array(),
        }
    }

    /// Takes a saved state and drives the wire accordingly.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let [ier, fcr, lcr, mcr, scratch, modem_delta] = state.registers;
        let ier = Ier::from_bits(ier).ok_or(RestoreError::Impossible("serial IER"))?;
        let mcr = Mcr::from_bits(mcr).ok_or(RestoreError::Impossible("serial MCR"))?;
        if fcr & !FCR_STORED != 0 || modem_delta & 0xF0 != 0 {
            return Err(RestoreError::Impossible("serial FCR or modem deltas"));
        }
        let (bytes, len) = &state.fifo;
        let held = bytes
            .get(..*len)
            .ok_or(RestoreError::Impossible("serial FIFO length"))?;
        self.fifo = Ring::new();
        for &byte in held {
            self.fifo.push(byte);
        }
        self.divisor = state.divisor;
        (self.ier, self.fcr, self.lcr, self.mcr) = (ier, fcr, lcr, mcr);
        (self.scratch, self.modem_delta) = (scratch, modem_delta);
        self.overrun = state.overrun;
        self.transmitter_empty_pending = state.transmitter_empty_pending;
        self.update_irq();
        Ok(())
    }
}
