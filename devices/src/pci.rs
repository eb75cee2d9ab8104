//! PCI: the host bridge's two doors to configuration space (PCI Local Bus 3.0, 3.2.2.3.2; PCI Express 5.0, 7.2.2), the
//! functions of a bare Q35 (the host bridge at 00:00.0, the LPC bridge at 00:1f.0), and what a function in a slot is made of.
//!
//! [`PciRoot`] answers both doors and hands on what is for a slot ([`Slots`]). A function ([`PciFunction`]) has its registers from an
//! [`Endpoint`]; [`DecodeMap`] says which one answers an address. Functions that are not there read as ones.

use stockade_bus::{AccessError, Mmio, PciConfig, PortIo};

use crate::RestoreError;
use crate::state::check_version;

mod address;
mod bars;
mod config_space;
mod decode;
mod dwords;
mod endpoint;
mod firmware;
mod function;
mod msix;
mod pirq;
mod q35;
mod virtio;

pub use address::BusDeviceFunction;
pub use bars::{BARS, Bar, BarKind, BarRange};
pub use config_space::ConfigSpace;
pub use decode::{DecodeMap, Place};
pub use endpoint::{Endpoint, EndpointState, Identity, Written};
pub use firmware::Windows;
pub use function::{PciFunction, Slots};
pub use msix::{MAX_VECTORS, MsiMessage, MsixState, Vector};
pub use pirq::{Routed, wire};
pub use q35::{Condition, ECAM_BASE, HOST_BRIDGE, LPC_BRIDGE, PM_BASE};
pub use virtio::{DeviceStatus, Dma, NO_VECTOR, QueueState, VirtioPci, VirtioPciState};

/// Where the machine plugs the address register in (CF8h); the data window is the next four ports.
pub const PORT_CF8: u16 = 0xCF8;
/// Bits of the address register that can be written; 30 to 24 and the lowest two read zero.
const WRITABLE: u32 = 0x80FF_FFFC;
/// The address register's enable bit.
const ENABLE: u32 = 1 << 31;
/// The 8259s' interrupts firmware connects the wires PIRQA to PIRQH to.
const FIRMWARE_LINES: [u8; 8] = [10, 10, 11, 11, 10, 10, 11, 11];

/// Both doors, and what stands behind them.
#[derive(Debug)]
pub struct PciRoot<S = ()> {
    slots: S,
    condition: Condition,

    address: u32,
    host_bridge: ConfigSpace,
    lpc_bridge: ConfigSpace,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new((), Condition::SetUp)
    }
}

impl<S: Slots> PciRoot<S> {
    /// Returns a Q35 with these slots, its chipset registers in this condition, now and after each reset.
    #[must_use]
    pub fn new(slots: S, condition: Condition) -> Self {
        Self {
            slots,
            condition,
            address: 0,
            host_bridge: q35::host_bridge(condition),
            lpc_bridge: q35::lpc_bridge(condition),
        }
    }

    /// Puts its own registers back to power-on. Functions in slots are for their owner to reset.
    pub fn reset(&mut self) {
        let Self {
            slots: _,
            condition,
            address,
            host_bridge,
            lpc_bridge,
        } = self;
        *address = 0;
        *host_bridge = q35::host_bridge(*condition);
        *lpc_bridge = q35::lpc_bridge(*condition);
    }

    /// Returns how far into memory-mapped configuration space an address is, if it is there.
    #[must_use]
    pub fn ecam_offset(&self, address: u64) -> Option<u64> {
        let window = q35::ecam(&self.host_bridge)?;
        window.contains(&address).then(|| address - window.start)
    }

    /// Returns how far beyond the first power-management port another is. How many there are is not this bridge's to say.
    #[must_use]
    pub fn pm_offset(&self, port: u16) -> Option<u16> {
        port.checked_sub(q35::pm_base(&self.lpc_bridge)?)
    }

    /// Does for the function at `at` what firmware would: gives it addresses out of `windows` and an interrupt.
    pub fn configure(&mut self, at: BusDeviceFunction, windows: &mut Windows) {
        let wire = wire(at.device(), 0);
        let line = FIRMWARE_LINES[usize::from(wire & 7)];
        self.lpc_bridge.set(pirq::register(wire), &[line]);
        self.slots
            .with_function(at, &mut |function| windows.assign(function, line));
    }

    /// Follows the wires of the devices that hold their INTA#, a bit each, to the interrupt controllers.
    #[must_use]
    pub fn route(&self, asserted: u32) -> Routed {
        pirq::route(&self.lpc_bridge, asserted)
    }

    /// Hands the function at `at` to `work`; returns whether there is one.
    fn with_function(
        &mut self,
        at: BusDeviceFunction,
        work: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool {
        match at {
            HOST_BRIDGE => work(&mut self.host_bridge),
            LPC_BRIDGE => work(&mut self.lpc_bridge),
            _ => return self.slots.with_function(at, work),
        }
        true
    }

    fn read(&mut self, at: BusDeviceFunction, offset: u16, data: &mut [u8]) {
        let is_there = self.with_function(at, &mut |function| {
            dwords::read(offset.into(), data, |offset| {
                function.config_read(register(offset))
            });
        });
        if !is_there {
            data.fill(0xFF);
        }
    }

    fn write(&mut self, at: BusDeviceFunction, offset: u16, data: &[u8]) {
        self.with_function(at, &mut |function| {
            dwords::write(offset.into(), data, |offset, value, mask| {
                function.config_write(register(offset), value, mask);
            });
        });
    }

    /// The function and register CF8h points at, if it is enabled.
    fn selected(&self) -> Option<(BusDeviceFunction, u16)> {
        let [register, device_function, bus, _] = self.address.to_le_bytes();
        let at = BusDeviceFunction(u16::from_le_bytes([device_function, bus]));
        (self.address & ENABLE != 0).then_some((at, u16::from(register & 0xFC)))
    }
}

/// An offset in a function's 4 KiB.
fn register(offset: u64) -> u16 {
    let [low, high, ..] = offset.to_le_bytes();
    u16::from_le_bytes([low, high & 0xF])
}

/// Offsets 0 to 3 are the address register, 4 to 7 the data window.
impl<S: Slots> PortIo for PciRoot<S> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (4..8, len @ (1 | 2 | 4)) => {
                let (at, register) = self.selected().ok_or(AccessError::NoRegister)?;
                let within = usize::from(offset & 3);
                // What lies past the window is on ports of its own.
                let (window, past) = data.split_at_mut(len.min(4 - within));
                self.read(at, register | (offset & 3), window);
                past.fill(0xFF);
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
                let within = usize::from(offset & 3);
                let window = data.get(..4 - within).unwrap_or(data);
                self.write(at, register | (offset & 3), window);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The ECAM window: 4 KiB a function, 1 MiB a bus.
impl<S: Slots> Mmio for PciRoot<S> {
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
    let function = u16::try_from(offset >> 12).map_err(|_| AccessError::NoRegister)?;
    let register = register(offset);
    if usize::from(register & 3) + len > 4 {
        return Err(AccessError::Width);
    }
    Ok((BusDeviceFunction(function), register))
}

/// The bridges' state, version 1. Functions in slots have states of their own.
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

impl<S: Slots> PciRoot<S> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> PciState {
        let Self {
            slots: _,
            condition: _,
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
