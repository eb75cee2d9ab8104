//! The reset controls of a PC: port CF9h (ICH9 data sheet, 13.7.4 RST_CNT) and port 92h (13.7.2).

use stockade_bus::{AccessError, PortIo};

use crate::RestoreError;
use crate::state::check_version;

/// Where the machine plugs port 92h in.
pub const PORT_92: u16 = 0x92;
/// Where the machine plugs the reset control register in.
pub const PORT_CF9: u16 = 0xCF9;

const CF9_SYSTEM_RESET: u8 = 0x02;
const CF9_RESET_CPU: u8 = 0x04;
const CF9_STORED: u8 = 0x0A;
const PORT_92_INIT_NOW: u8 = 0x01;
const PORT_92_A20: u8 = 0x02;

/// The two registers. A reset asked for is taken out by the machine with [`ResetControl::take_reset`].
#[derive(Debug, Default)]
pub struct ResetControl {
    cf9: u8,
    port_92: u8,
    is_asked: bool,
}

impl ResetControl {
    /// Returns the registers after power-on: A20 open.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cf9: 0,
            port_92: PORT_92_A20,
            is_asked: false,
        }
    }

    /// Puts the registers back to power-on.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Returns whether the guest asked for a reset since the last call.
    pub fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.is_asked)
    }
}

/// Offsets are absolute port numbers: the two registers lie far apart.
impl PortIo for ResetControl {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        *byte = match offset {
            PORT_92 => self.port_92,
            PORT_CF9 => self.cf9,
            _ => return Err(AccessError::NoRegister),
        };
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        match offset {
            PORT_92 => {
                self.is_asked |= byte & !self.port_92 & PORT_92_INIT_NOW != 0;
                self.port_92 = byte & !PORT_92_INIT_NOW;
            }
            PORT_CF9 => {
                // The reset starts when RST_CPU goes from zero to one; SYS_RST chooses hard or soft, which are one to us.
                self.is_asked |= byte & CF9_RESET_CPU != 0;
                self.cf9 = byte & (CF9_STORED | CF9_SYSTEM_RESET);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The registers' state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetState {
    /// Format version: 1.
    pub version: u32,
    /// Port CF9h.
    pub cf9: u8,
    /// Port 92h.
    pub port_92: u8,
}

impl ResetControl {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> ResetState {
        let Self {
            cf9,
            port_92,
            is_asked: _,
        } = self;
        ResetState {
            version: 1,
            cf9: *cf9,
            port_92: *port_92,
        }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, state: &ResetState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        (self.cf9, self.port_92) = (state.cf9 & CF9_STORED, state.port_92 & !PORT_92_INIT_NOW);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::PortIo;

    use super::{PORT_92, PORT_CF9, ResetControl};

    #[test]
    fn cf9_resets_when_reset_cpu_is_set() {
        let mut control = ResetControl::new();
        control.port_write(PORT_CF9, &[0x02]).unwrap();
        assert!(!control.take_reset());
        control.port_write(PORT_CF9, &[0x06]).unwrap();
        assert!(control.take_reset());
        assert!(!control.take_reset());
    }

    #[test]
    fn port_92_opens_a20_and_resets_on_a_rising_bit_0() {
        let mut control = ResetControl::new();
        let mut byte = [0];
        control.port_read(PORT_92, &mut byte).unwrap();
        assert_eq!(byte, [0x02]);
        control.port_write(PORT_92, &[0x03]).unwrap();
        assert!(control.take_reset());
    }

    #[test]
    fn wide_accesses_are_refused() {
        let mut control = ResetControl::new();
        assert!(control.port_write(PORT_CF9, &[6, 0]).is_err());
        assert!(!control.take_reset());
    }

    #[test]
    fn restored_registers_read_the_same() {
        let mut saved = ResetControl::new();
        saved.port_write(PORT_CF9, &[0x02]).unwrap();
        let mut restored = ResetControl::new();
        restored.restore(&saved.save()).unwrap();
        assert_eq!(restored.save(), saved.save());
    }
}
