//! A port that ends the machine with a status (QEMU `hw/misc/debugexit.c`).

use stockade_bus::{AccessError, PortIo};

/// The port, usually at 0xF4, four bytes wide. The status is taken out by the machine with [`DebugExit::take_exit`].
#[derive(Debug, Default)]
pub struct DebugExit {
    status: Option<u8>,
}

impl DebugExit {
    /// Usual first port.
    pub const PORT: u16 = 0xF4;
    /// How many ports it has.
    pub const PORTS: u16 = 4;

    /// Returns the port, not yet written.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the exit status asked for since the last call: twice the value written and one, as far as a process has bits.
    pub fn take_exit(&mut self) -> Option<u8> {
        self.status.take()
    }
}

impl PortIo for DebugExit {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        if offset >= Self::PORTS {
            return Err(AccessError::NoRegister);
        }
        data.fill(0);
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        if offset >= Self::PORTS {
            return Err(AccessError::NoRegister);
        }
        let code = data.first().copied().unwrap_or(0);
        self.status.get_or_insert(code << 1 | 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::PortIo;

    use super::DebugExit;

    #[test]
    fn status_is_twice_the_value_and_one() {
        for (written, status) in [(0, 1), (1, 3), (0x10, 0x21), (0x7F, 0xFF), (0x80, 1)] {
            let mut port = DebugExit::new();
            port.port_write(0, &[written, 0, 0, 0]).unwrap();
            assert_eq!(port.take_exit(), Some(status));
            assert_eq!(port.take_exit(), None);
        }
    }

    /// The first write ends the machine; what a vCPU still does until then counts for nothing.
    #[test]
    fn first_of_two_writes_counts() {
        let mut port = DebugExit::new();
        port.port_write(0, &[1]).unwrap();
        port.port_write(0, &[2]).unwrap();
        assert_eq!(port.take_exit(), Some(3));
    }

    #[test]
    fn reading_gives_zero() {
        let mut bytes = [0xFF; 4];
        DebugExit::new().port_read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
        assert!(DebugExit::new().port_read(4, &mut bytes).is_err());
    }
}
