//! The PCI host bridge's two doors to configuration space (PCI Local Bus 3.0, 3.2.2.3.2; PCI Express 5.0, 7.2.2) and the
//! functions of a bare Q35: the host bridge at 00:00.0 and the LPC bridge at 00:1f.0.
//!
//! [`PciRoot`] answers both doors; a function is anything with [`PciConfig`]. Functions that are not there read as ones.

use stockade_bus::{AccessError, Mmio, PciConfig, PortIo};

use crate::RestoreError;
use crate::state::check_version;

mod config_space;
mod q35;

pub use config_space::ConfigSpace;
pub use q35::{ECAM_BASE, HOST_BRIDGE, LPC_BRIDGE, PM_BASE};

/// Where the machine plugs the address register in (CF8h); the data window is the next four ports.
pub const PORT_CF8: u16 = 0xCF8;
/// Bits of the address register that can be written; 30 to 24 and the lowest two read zero.
const WRITABLE: u32 = 0x80FF_FFFC;
/// The address register's enable bit.
const ENABLE: u32 = 1 << 31;

/// Which function of which device on which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BusDeviceFunction(u16);

impl BusDeviceFunction {
    /// Returns the function `function` (0 to 7) of `device` (0 to 31) on `bus`; higher bits are cut off.
    #[must_use]
    pub const fn new_truncate(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1F) << 3 | (function as u16 & 7))
    }
}

/// Both doors, and what stands behind them.
#[derive(Debug)]
pub struct PciRoot {
    address: u32,
    host_bridge: ConfigSpace,
    lpc_bridge: ConfigSpace,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl PciRoot {
    /// Returns a Q35 with nothing plugged in, its chipset registers as firmware would leave them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            address: 0,
            host_bridge: q35::host_bridge(),
            lpc_bridge: q35::lpc_bridge(),
        }
    }

    /// Puts all registers back to power-on.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    fn function(&mut self, at: BusDeviceFunction) -> Option<&mut dyn PciConfig> {
        match at {
            HOST_BRIDGE => Some(&mut self.host_bridge),
            LPC_BRIDGE => Some(&mut self.lpc_bridge),
            _ => None,
        }
    }

    /// Reads inside one aligned double word.
    fn read(&mut self, at: BusDeviceFunction, offset: u16, data: &mut [u8]) {
        let word = self
            .function(at)
            .map_or(u32::MAX, |function| function.config_read(offset & !3));
        let bytes = word.to_le_bytes();
        for (slot, byte) in data.iter_mut().zip(&bytes[usize::from(offset & 3)..]) {
            *slot = *byte;
        }
    }

    fn write(&mut self, at: BusDeviceFunction, offset: u16, data: &[u8]) {
        let (mut value, mut mask) = ([0; 4], [0; 4]);
        for (index, byte) in (usize::from(offset & 3)..4).zip(data) {
            value[index] = *byte;
            mask[index] = 0xFF;
        }
        if let Some(function) = self.function(at) {
            let (value, mask) = (u32::from_le_bytes(value), u32::from_le_bytes(mask));
            function.config_write(offset & !3, value, mask);
        }
    }

    /// The function and register CF8h points at, if it is enabled.
    fn selected(&self) -> Option<(BusDeviceFunction, u16)> {
        let [register, device_function, bus, _] = self.address.to_le_bytes();
        let at = BusDeviceFunction(u16::from_le_bytes([device_function, bus]));
        (self.address & ENABLE != 0).then_some((at, u16::from(register & 0xFC)))
    }
}

/// Offsets 0 to 3 are the address register, 4 to 7 the data window.
impl PortIo for PciRoot {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (4..8, 1 | 2 | 4) => {
                let (at, register) = self.selected().ok_or(AccessError::NoRegister)?;
                data.fill(0xFF);
                self.read(at, register | (offset & 3), data);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & WRITABLE,
            (4..8, _) => {
                let (at, register) = self.selected().ok_or(AccessError::NoRegister)?;
                self.write(at, register | (offset & 3), data);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The ECAM window: 4 KiB a function, 1 MiB a bus.
impl Mmio for PciRoot {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (at, register) = ecam(offset, data.len())?;
        self.read(at, register, data);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (at, register) = ecam(offset, data.len())?;
        self.write(at, register, data);
        Ok(())
    }
}

/// Splits an ECAM offset. Accesses may not cross a double word (PCI Express 5.0, 7.2.2).
fn ecam(offset: u64, len: usize) -> Result<(BusDeviceFunction, u16), AccessError> {
    let register = u16::try_from(offset & 0xFFF).map_err(|_| AccessError::NoRegister)?;
    let function = u16::try_from(offset >> 12).map_err(|_| AccessError::NoRegister)?;
    if usize::from(register & 3) + len > 4 {
        return Err(AccessError::Width);
    }
    Ok((BusDeviceFunction(function), register))
}

/// The bridge's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciState {
    /// Format version: 1.
    pub version: u32,
    /// The address register.
    pub address: u32,
    /// The host bridge's registers.
    pub host_bridge: [u8; 256],
    /// The LPC bridge's registers.
    pub lpc_bridge: [u8; 256],
}

impl PciRoot {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> PciState {
        let Self {
            address,
            host_bridge,
            lpc_bridge,
        } = self;
        PciState {
            version: 1,
            address: *address,
            host_bridge: *host_bridge.bytes(),
            lpc_bridge: *lpc_bridge.bytes(),
        }
    }

    /// Takes a saved state. Registers that cannot be written keep their values.
    pub fn restore(&mut self, state: &PciState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        self.reset();
        self.address = state.address & WRITABLE;
        self.host_bridge.restore(&state.host_bridge);
        self.lpc_bridge.restore(&state.lpc_bridge);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
