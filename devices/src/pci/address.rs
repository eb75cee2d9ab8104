//! The address of a function: bus, device and function number (PCI Local Bus 3.0, 3.2.2.3.2).

/// Which function of which device on which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BusDeviceFunction(pub(super) u16);

impl BusDeviceFunction {
    /// Returns the function `function` (0 to 7) of `device` (0 to 31) on `bus`; higher bits are cut off.
    #[must_use]
    pub const fn new_truncate(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1F) << 3 | (function as u16 & 7))
    }

    /// Returns the bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Returns the device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_le_bytes()[0] >> 3
    }

    /// Returns the function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_le_bytes()[0] & 7
    }
}

/// As `lspci` writes it.
impl core::fmt::Display for BusDeviceFunction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::BusDeviceFunction;

    #[test]
    fn parts_come_out_as_they_went_in() {
        for bits in 0..=u16::MAX {
            let at = BusDeviceFunction(bits);
            let again = BusDeviceFunction::new_truncate(at.bus(), at.device(), at.function());
            assert_eq!(again, at);
        }
        let lpc = BusDeviceFunction::new_truncate(0, 31, 0);
        assert_eq!(lpc.to_string(), "00:1f.0");
    }
}
