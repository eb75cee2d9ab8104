//! Ports, MSRs and registers in memory, as the host offers them (GHCB specification, sections 4.1.2, 4.1.5, 4.1.6).

use stockade_abi::ghcb::{NaeExit, SHARED_BUFFER_SIZE};

use super::{Gate, Ghcb, Request};
use crate::error::HostError;

/// How wide a port access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoWidth {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Double,
}

/// EXITINFO1 of a port access (APM vol. 2, 15.10.2).
mod info {
    pub(super) const IN: u64 = 1 << 0;
    pub(super) const STRING: u64 = 1 << 2;
    pub(super) const REPEAT: u64 = 1 << 3;
    pub(super) const ADDRESS_64: u64 = 1 << 9;
    pub(super) const SEGMENT_DS: u64 = 3 << 10;
}

impl IoWidth {
    fn info(self) -> u64 {
        match self {
            Self::Byte => 1 << 4,
            Self::Word => 1 << 5,
            Self::Double => 1 << 6,
        }
    }

    fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Double => u32::MAX,
        }
    }
}

impl<G: Gate> Ghcb<G> {
    /// Reads a host port.
    pub fn io_in(&self, port: u16, width: IoWidth) -> Result<u32, HostError> {
        let info1 = u64::from(port) << 16 | width.info() | info::IN;
        let answer = self.call(&Request::new(NaeExit::IOIO, info1, 0))?;
        Ok(low(answer.rax()?) & width.mask())
    }

    /// Writes a host port.
    pub fn io_out(&self, port: u16, width: IoWidth, value: u32) -> Result<(), HostError> {
        let info1 = u64::from(port) << 16 | width.info();
        self.call(&Request {
            rax: Some(u64::from(value & width.mask())),
            ..Request::new(NaeExit::IOIO, info1, 0)
        })?;
        Ok(())
    }

    /// Writes `bytes` to a host port one after the other, in as few calls as the shared buffer allows.
    pub fn io_out_string(&self, port: u16, bytes: &[u8]) -> Result<(), HostError> {
        let info1 = u64::from(port) << 16
            | IoWidth::Byte.info()
            | info::STRING
            | info::REPEAT
            | info::ADDRESS_64
            | info::SEGMENT_DS;
        for chunk in bytes.chunks(SHARED_BUFFER_SIZE) {
            self.fill_buffer(NaeExit::IOIO, chunk)?;
            self.call(&Request {
                uses_buffer: true,
                ..Request::new(NaeExit::IOIO, info1, chunk.len() as u64)
            })?;
        }
        Ok(())
    }

    /// Reads a model-specific register the host emulates.
    pub fn rdmsr(&self, register: u32) -> Result<u64, HostError> {
        let answer = self.call(&Request {
            rcx: Some(u64::from(register)),
            ..Request::new(NaeExit::MSR, 0, 0)
        })?;
        Ok(u64::from(low(answer.rdx()?)) << 32 | u64::from(low(answer.rax()?)))
    }

    /// Writes a model-specific register the host emulates.
    pub fn wrmsr(&self, register: u32, value: u64) -> Result<(), HostError> {
        self.call(&Request {
            rcx: Some(u64::from(register)),
            rax: Some(value & u64::from(u32::MAX)),
            rdx: Some(value >> 32),
            ..Request::new(NaeExit::MSR, 1, 0)
        })?;
        Ok(())
    }

    /// Reads 1 to 8 bytes of a host device's registers.
    pub fn mmio_read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), HostError> {
        let event = NaeExit::MMIO_READ;
        check_mmio(event, bytes.len())?;
        self.call(&Request {
            uses_buffer: true,
            ..Request::new(event, gpa, bytes.len() as u64)
        })?;
        self.read_buffer(event, bytes)
    }

    /// Writes 1 to 8 bytes of a host device's registers.
    pub fn mmio_write(&self, gpa: u64, bytes: &[u8]) -> Result<(), HostError> {
        let event = NaeExit::MMIO_WRITE;
        check_mmio(event, bytes.len())?;
        self.fill_buffer(event, bytes)?;
        self.call(&Request {
            uses_buffer: true,
            ..Request::new(event, gpa, bytes.len() as u64)
        })?;
        Ok(())
    }
}

fn check_mmio(event: NaeExit, len: usize) -> Result<(), HostError> {
    if !(1..=8).contains(&len) {
        let what = "a register is 1 to 8 bytes";
        return Err(HostError::Malformed { event, what });
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of a 32-bit answer means nothing"
)]
fn low(value: u64) -> u32 {
    value as u32
}
