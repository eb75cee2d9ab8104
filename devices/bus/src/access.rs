//! Register accesses: what a bus hands to a device.

/// Why a device did not take an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No register at this offset; the bus answers as if nothing were there.
    #[error("no register at this offset")]
    NoRegister,
    /// The register exists, but not at this width or alignment.
    #[error("the register does not take this width")]
    Width,
}

/// A device behind I/O ports. Accesses are 1, 2 or 4 bytes, offsets relative to the device's first port.
pub trait PortIo {
    /// Reads `data.len()` bytes at `offset`; a device writes all of `data` or errs.
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError>;
    /// Writes `data` at `offset`.
    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError>;
}

/// A device behind memory-mapped registers. Accesses are 1 to 16 bytes and never cross a page.
pub trait Mmio {
    /// Reads `data.len()` bytes at `offset`.
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError>;
    /// Writes `data` at `offset`.
    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError>;
}

/// A function on a PCI bus, seen through its configuration space (PCI Local Bus 3.0, 6.1).
pub trait PciConfig {
    /// Reads the aligned double word at `offset` (0 to 0xFFC).
    fn config_read(&mut self, offset: u16) -> u32;
    /// Writes the bytes of the double word at `offset` whose bits are set in `mask` (whole bytes).
    fn config_write(&mut self, offset: u16, value: u32, mask: u32);
}
