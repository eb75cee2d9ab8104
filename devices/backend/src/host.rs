//! How the host's devices are reached: configuration space and registers, an access at a time.

/// The host did not carry out an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host refused an access to its device")]
pub struct HostFault;

/// A function on bus 0 of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

impl core::fmt::Display for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}

/// The host's bus as one processor reaches it. Every value read is the host's word.
pub trait HostBus {
    /// Reads the aligned configuration word at `offset`.
    fn config_read(&mut self, function: Function, offset: u8) -> Result<u32, HostFault>;
    /// Writes the aligned configuration word at `offset`.
    fn config_write(&mut self, function: Function, offset: u8, value: u32)
    -> Result<(), HostFault>;
    /// Reads the register of 1, 2, 4 or 8 bytes at an address of a device.
    fn register_read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), HostFault>;
    /// Writes the register of 1, 2, 4 or 8 bytes at an address of a device.
    fn register_write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostFault>;
}

impl<T: HostBus + ?Sized> HostBus for &mut T {
    fn config_read(&mut self, function: Function, offset: u8) -> Result<u32, HostFault> {
        (**self).config_read(function, offset)
    }
    fn config_write(
        &mut self,
        function: Function,
        offset: u8,
        value: u32,
    ) -> Result<(), HostFault> {
        (**self).config_write(function, offset, value)
    }
    fn register_read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), HostFault> {
        (**self).register_read(address, bytes)
    }
    fn register_write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostFault> {
        (**self).register_write(address, bytes)
    }
}
