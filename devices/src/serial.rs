//! A 16550A serial port (National PC16550D data sheet).
//!
//! [`Serial`] is the chip. The wire behind it is two rings: characters the guest sent wait in one until the machine takes
//! them with [`Serial::take_output`]; characters from outside wait in the other, behind the 16-byte receive FIFO.

use bitflags::bitflags;
use stockade_bus::{AccessError, IrqLine, Level, PortIo};

mod idle;
mod ring;
mod saved;

pub use idle::{IDLE_STATUS, LINE_STATUS};
use ring::Ring;
pub use saved::SerialState;

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Ier: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Lsr: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const THR_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }
}

/// Line control: divisor latch access.
const LCR_DLAB: u8 = 0x80;
/// FIFO control: FIFOs on.
const FCR_ENABLE: u8 = 0x01;
/// FIFO control: clear the receive FIFO.
const FCR_CLEAR_RECEIVE: u8 = 0x02;
/// The bits of FCR that stay: enable, DMA mode, trigger level.
const FCR_STORED: u8 = 0xC9;
/// Modem status with a peer that is always there: CTS, DSR and carrier.
const MSR_CONNECTED: u8 = 0xB0;

const IIR_NONE: u8 = 0x01;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_FIFOS: u8 = 0xC0;

/// Depth of the receive FIFO.
const FIFO_DEPTH: usize = 16;
/// Characters the guest may send before the machine must have taken them.
pub const OUTPUT_DEPTH: usize = 2048;
/// Characters from outside that wait behind the FIFO.
pub const INPUT_DEPTH: usize = 1024;

/// One 16550A.
#[derive(Debug)]
pub struct Serial<L> {
    irq: L,

    divisor: u16,
    ier: Ier,
    fcr: u8,
    lcr: u8,
    mcr: Mcr,
    scratch: u8,
    modem_delta: u8,
    overrun: bool,
    transmitter_empty_pending: bool,
    fifo: Ring<FIFO_DEPTH>,

    output: Ring<OUTPUT_DEPTH>,
    has_line: bool,
    input: Ring<INPUT_DEPTH>,
}

impl<L: IrqLine> Serial<L> {
    /// Returns the chip after reset, its interrupt wired to `irq`.
    pub fn new(irq: L) -> Self {
        Self {
            irq,
            divisor: 0x0C,
            ier: Ier::empty(),
            fcr: 0,
            lcr: 0,
            mcr: Mcr::empty(),
            scratch: 0,
            modem_delta: 0,
            overrun: false,
            transmitter_empty_pending: false,
            fifo: Ring::new(),
            output: Ring::new(),
            has_line: false,
            input: Ring::new(),
        }
    }

    /// Puts the chip back to power-on; what the guest already sent is still delivered.
    pub fn reset(&mut self) {
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
        *divisor = 0x0C;
        *ier = Ier::empty();
        *fcr = 0;
        *lcr = 0;
        *mcr = Mcr::empty();
        *scratch = 0;
        *modem_delta = 0;
        *overrun = false;
        *transmitter_empty_pending = false;
        *fifo = Ring::new();
        self.update_irq();
    }

    /// Returns how many characters wait to be taken.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Returns whether the waiting output has the end of a line in it.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.has_line
    }

    /// Moves waiting output into `buffer`; returns how many characters that were.
    pub fn take_output(&mut self, buffer: &mut [u8]) -> usize {
        let taken = self.output.pop_into(buffer);
        self.has_line &= !self.output.is_empty();
        if taken > 0 {
            self.update_irq();
        }
        taken
    }

    /// Returns how many characters from outside would be taken now.
    #[must_use]
    pub fn input_room(&self) -> usize {
        INPUT_DEPTH - self.input.len()
    }

    /// Takes characters from outside; returns how many fitted.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.iter().take_while(|&&b| self.input.push(b)).count();
        self.refill();
        self.update_irq();
        taken
    }

    fn is_fifo_on(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.is_fifo_on() { FIFO_DEPTH } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.is_fifo_on() {
            return 1;
        }
        match self.fcr >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// Characters travel from the line into the FIFO while there is room and the guest asserts RTS: the peer honours
    /// hardware flow control, so nothing overruns, and a driver that clears the FIFO on its way up loses nothing.
    fn refill(&mut self) {
        let depth = if self.mcr.contains(Mcr::RTS) {
            self.depth()
        } else {
            0
        };
        self.refill_to(depth);
    }

    fn refill_to(&mut self, depth: usize) {
        if self.mcr.contains(Mcr::LOOPBACK) {
            return;
        }
        while self.fifo.len() < depth {
            let Some(byte) = self.input.pop() else { break };
            self.fifo.push(byte);
        }
    }

    fn line_status(&self) -> Lsr {
        let mut lsr = Lsr::empty();
        lsr.set(Lsr::DATA_READY, !self.fifo.is_empty());
        lsr.set(Lsr::OVERRUN, self.overrun);
        lsr.set(
            Lsr::THR_EMPTY | Lsr::TRANSMITTER_EMPTY,
            !self.output.is_full(),
        );
        lsr
    }

    fn modem_status(&self) -> u8 {
        if !self.mcr.contains(Mcr::LOOPBACK) {
            return MSR_CONNECTED;
        }
        let mut msr = 0;
        for (control, status) in [
            (Mcr::RTS, 0x10),
            (Mcr::DTR, 0x20),
            (Mcr::OUT1, 0x40),
            (Mcr::OUT2, 0x80),
        ] {
            if self.mcr.contains(control) {
                msr |= status;
            }
        }
        msr
    }

    /// The interrupt identification of the most urgent cause, without the FIFO bits.
    fn cause(&self) -> u8 {
        if self.ier.contains(Ier::LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier.contains(Ier::RECEIVED) && self.fifo.len() >= self.trigger() {
            IIR_RECEIVED
        } else if self.ier.contains(Ier::RECEIVED) && !self.fifo.is_empty() {
            // Below the trigger level the chip waits four character times; the guest sees that wait as already over.
            IIR_TIMEOUT
        } else if self.ier.contains(Ier::TRANSMITTER_EMPTY) && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if self.ier.contains(Ier::MODEM_STATUS) && self.modem_delta != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn update_irq(&self) {
        let asks = self.cause() != IIR_NONE;
        // OUT2 gates the interrupt on every PC; in loopback the pin is cut off.
        let gate = self.mcr.contains(Mcr::OUT2) && !self.mcr.contains(Mcr::LOOPBACK);
        self.irq.set(Level::from(asks && gate));
    }

    fn read(&mut self, register: u16) -> Result<u8, AccessError> {
        let is_divisor = self.lcr & LCR_DLAB != 0;
        let value = match register {
            0 if is_divisor => self.divisor.to_le_bytes()[0],
            0 => self.read_receiver(),
            1 if is_divisor => self.divisor.to_le_bytes()[1],
            1 => self.ier.bits(),
            2 => self.read_identification(),
            3 => self.lcr,
            4 => self.mcr.bits(),
            LINE_STATUS => {
                // A guest that polls without RTS gets a character at a time.
                self.refill_to(1);
                let lsr = self.line_status();
                self.overrun = false;
                lsr.bits()
            }
            6 => self.modem_status() | core::mem::take(&mut self.modem_delta),
            7 => self.scratch,
            _ => return Err(AccessError::NoRegister),
        };
        self.update_irq();
        Ok(value)
    }

    fn read_receiver(&mut self) -> u8 {
        let byte = self.fifo.pop().unwrap_or(0);
        self.refill();
        byte
    }

    fn read_identification(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMITTER_EMPTY {
            self.transmitter_empty_pending = false;
        }
        cause | if self.is_fifo_on() { IIR_FIFOS } else { 0 }
    }

    fn write(&mut self, register: u16, value: u8) -> Result<(), AccessError> {
        let is_divisor = self.lcr & LCR_DLAB != 0;
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            0 if is_divisor => self.divisor = u16::from_le_bytes([value, high]),
            0 => self.transmit(value),
            1 if is_divisor => self.divisor = u16::from_le_bytes([low, value]),
            1 => self.write_interrupt_enable(value),
            2 => self.write_fifo_control(value),
            3 => self.lcr = value,
            4 => self.write_modem_control(value),
            // Line and modem status are for the factory to write.
            LINE_STATUS | 6 => {}
            7 => self.scratch = value,
            _ => return Err(AccessError::NoRegister),
        }
        self.update_irq();
        Ok(())
    }

    fn transmit(&mut self, byte: u8) {
        if self.mcr.contains(Mcr::LOOPBACK) {
            if self.fifo.len() < self.depth() {
                self.fifo.push(byte);
            } else {
                self.overrun = true;
            }
        } else {
            self.has_line |= byte == b'\n';
            self.output.push(byte);
        }
        self.transmitter_empty_pending = true;
    }

    fn write_interrupt_enable(&mut self, value: u8) {
        let new = Ier::from_bits_truncate(value);
        // Enabling the interrupt on an idle transmitter asks at once.
        if new.contains(Ier::TRANSMITTER_EMPTY) && !self.ier.contains(Ier::TRANSMITTER_EMPTY) {
            self.transmitter_empty_pending = !self.output.is_full();
        }
        self.ier = new;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggles = (value ^ self.fcr) & FCR_ENABLE != 0;
        if toggles || value & FCR_CLEAR_RECEIVE != 0 {
            self.fifo = Ring::new();
        }
        self.fcr = if value & FCR_ENABLE != 0 {
            value & FCR_STORED
        } else {
            0
        };
        self.refill();
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_status();
        self.mcr = Mcr::from_bits_truncate(value);
        let changed = (before ^ self.modem_status()) >> 4;
        // The ring indicator's delta counts only its trailing edge.
        let ring_ended = before & 0x40 != 0 && self.modem_status() & 0x40 == 0;
        self.modem_delta |= (changed & 0x0B) | if ring_ended { 0x04 } else { 0 };
        self.refill();
    }
}

impl<L: IrqLine> PortIo for Serial<L> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        for (register, byte) in (offset..).zip(data.iter_mut()) {
            *byte = self.read(register)?;
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        for (register, byte) in (offset..).zip(data) {
            self.write(register, *byte)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
