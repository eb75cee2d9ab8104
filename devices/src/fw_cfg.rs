//! QEMU's firmware configuration device (QEMU `docs/specs/fw_cfg.rst`): items under 16-bit keys, read through ports or by DMA.
//!
//! The items are given at construction and never change; guests read them only. [`FwCfg`] holds the ports, `items` what is
//! behind them. By DMA a guest hands over the address of a small command that the device carries out in guest memory before the
//! access ends; it moves at most [`MAX_TRANSFER_BYTES`], so that no vCPU is held for long.

use alloc::vec;
use alloc::vec::Vec;

use bitflags::bitflags;
use stockade_bus::{AccessError, Gpa, GuestMemory, PortIo};

use crate::RestoreError;
use crate::state::check_version;

mod items;
pub mod ramfb;

use items::Items;
pub use items::{Facts, File, FileError};

/// The device's first port; it has [`PORTS`].
pub const FIRST_PORT: u16 = 0x510;
/// How many ports there are.
pub const PORTS: u16 = 12;
/// The most bytes one DMA command moves; a longer one fails.
pub const MAX_TRANSFER_BYTES: u32 = 16 << 20;

/// Offset of the selector, a word.
const SELECTOR: u16 = 0;
/// Offset of the data port, a byte.
const DATA: u16 = 1;
/// Offset of the high half of the command's address; both halves are big-endian.
const DMA_HIGH: u16 = 4;
/// Offset of the low half, whose write carries out the command.
const DMA_LOW: u16 = 8;
/// What reading the address gives.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Selector bit that asks to write (ignored since QEMU 2.4).
const WRITE_CHANNEL: u16 = 1 << 14;

bitflags! {
    /// The control word of a DMA command.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Control: u32 {
        const ERROR = 1 << 0;
        const READ = 1 << 1;
        const SKIP = 1 << 2;
        const SELECT = 1 << 3;
        const WRITE = 1 << 4;
    }
}

/// A DMA command: control, length and address, big-endian.
const COMMAND_BYTES: usize = 16;
/// Bytes moved at a time.
const CHUNK_BYTES: usize = 4096;

/// The device.
#[derive(Debug)]
pub struct FwCfg<M> {
    memory: M,
    items: Items,

    key: u16,
    offset: u32,
    dma_high: u32,

    /// The key of a file that was written and not taken yet.
    written: Option<u16>,
}

impl<M: GuestMemory> FwCfg<M> {
    /// Returns the device with these facts and files, for guests whose commands lie in `memory`.
    pub fn try_new(
        memory: M,
        facts: Facts,
        files: impl IntoIterator<Item = File>,
    ) -> Result<Self, FileError> {
        Ok(Self {
            memory,
            items: Items::try_new(facts, files.into_iter().collect())?,
            key: 0,
            offset: 0,
            dma_high: 0,
            written: None,
        })
    }

    /// Puts the device back to power-on. The items stay, but for what a guest wrote.
    pub fn reset(&mut self) {
        let Self {
            memory: _,
            items,
            key,
            offset,
            dma_high,
            written,
        } = self;
        (*key, *offset, *dma_high) = (0, 0, 0);
        *written = items.clear();
    }

    /// Returns the file a guest wrote since the last call, as it is now.
    pub fn take_written(&mut self) -> Option<&[u8]> {
        Some(self.items.get(self.written.take()?))
    }

    fn select(&mut self, key: u16) {
        self.key = key & !WRITE_CHANNEL;
        self.offset = 0;
    }

    /// Takes the next bytes of the selected item; zeros beyond its end.
    fn take(&mut self, buffer: &mut [u8]) {
        buffer.fill(0);
        let item = self.items.get(self.key);
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        if let Some(rest) = item.get(start..) {
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
        }
        self.skip(u32::try_from(buffer.len()).unwrap_or(u32::MAX));
    }

    fn skip(&mut self, len: u32) {
        self.offset = self.offset.saturating_add(len);
    }

    /// Carries out the command at `gpa` and writes back how it went. A command that is not in guest memory has no place for an
    /// answer, either.
    fn carry_out(&mut self, gpa: Gpa) {
        let mut command = [0; COMMAND_BYTES];
        if self.memory.read(gpa, &mut command).is_err() {
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = command;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let outcome = self.transfer(control, len, Gpa(u64::from_be_bytes(address)));
        let answer = match outcome {
            Ok(()) => Control::empty(),
            Err(TransferError) => Control::ERROR,
        };
        // The page was there a moment ago; if it is gone now, nobody waits for the answer.
        let _ = self.memory.write(gpa, &answer.bits().to_be_bytes());
    }

    fn transfer(&mut self, control: u32, len: u32, gpa: Gpa) -> Result<(), TransferError> {
        let wanted = Control::from_bits_truncate(control);
        if wanted.contains(Control::SELECT) {
            let [high, low, ..] = control.to_be_bytes();
            self.select(u16::from_be_bytes([high, low]));
        }
        if wanted.contains(Control::READ) {
            self.read_into_memory(gpa, len)
        } else if wanted.contains(Control::WRITE) {
            self.write_from_memory(gpa, len)
        } else {
            if wanted.contains(Control::SKIP) {
                self.skip(len);
            }
            Ok(())
        }
    }

    /// Writes a part of the selected item, if that is one for guests to write.
    fn write_from_memory(&mut self, gpa: Gpa, len: u32) -> Result<(), TransferError> {
        let start = usize::try_from(self.offset).map_err(|_| TransferError)?;
        let len_bytes = usize::try_from(len).map_err(|_| TransferError)?;
        let end = start.checked_add(len_bytes).ok_or(TransferError)?;
        let item = self.items.writable(self.key).ok_or(TransferError)?;
        let bytes = item.get_mut(start..end).ok_or(TransferError)?;
        let outcome = self.memory.read(gpa, bytes);
        self.written = Some(self.key);
        self.skip(len);
        outcome.map_err(|_| TransferError)
    }

    fn read_into_memory(&mut self, gpa: Gpa, len: u32) -> Result<(), TransferError> {
        if len > MAX_TRANSFER_BYTES {
            return Err(TransferError);
        }
        let mut left = usize::try_from(len).map_err(|_| TransferError)?;
        let mut buffer = vec![0; left.min(CHUNK_BYTES)];
        let mut gpa = gpa;
        while left > 0 {
            let chunk = left.min(CHUNK_BYTES);
            let bytes = &mut buffer[..chunk];
            self.take(bytes);
            self.memory.write(gpa, bytes).map_err(|_| TransferError)?;
            left -= chunk;
            gpa = gpa.checked_add(chunk as u64).ok_or(TransferError)?;
        }
        Ok(())
    }
}

/// A command that failed, which its error bit says.
struct TransferError;

impl<M: GuestMemory> PortIo for FwCfg<M> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match (offset, data.len()) {
            (DATA, 1) => self.take(data),
            (DATA, _) => return Err(AccessError::Width),
            (DMA_HIGH..PORTS, len) => {
                let start = usize::from(offset - DMA_HIGH);
                let bytes = DMA_SIGNATURE.get(start..start + len);
                data.copy_from_slice(bytes.ok_or(AccessError::Width)?);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (SELECTOR, [low, high]) => self.select(u16::from_le_bytes([*low, *high])),
            // Data writes do nothing since QEMU 2.4.
            (DATA, [_]) => {}
            (DMA_HIGH, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let high = core::mem::take(&mut self.dma_high);
                let low = u32::from_be_bytes([a, b, c, d]);
                self.carry_out(Gpa(u64::from(high) << 32 | u64::from(low)));
            }
            (SELECTOR | DATA | DMA_HIGH | DMA_LOW, _) => return Err(AccessError::Width),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The device's state, version 2. The items come from the machine's description, but for what a guest wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfgState {
    /// Format version: 2.
    pub version: u32,
    /// The selected key.
    pub key: u16,
    /// How much of the item was read.
    pub offset: u32,
    /// The high half of a command's address.
    pub dma_high: u32,
    /// The files a guest may write, one behind the other in the order of their names.
    pub writable: Vec<u8>,
}

impl<M: GuestMemory> FwCfg<M> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> FwCfgState {
        let Self {
            memory: _,
            items,
            key,
            offset,
            dma_high,
            written: _,
        } = self;
        FwCfgState {
            version: 2,
            key: *key,
            offset: *offset,
            dma_high: *dma_high,
            writable: items.save(),
        }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, state: &FwCfgState) -> Result<(), RestoreError> {
        check_version(state.version, 2)?;
        if state.key & WRITE_CHANNEL != 0 {
            return Err(RestoreError::Impossible("fw_cfg key"));
        }
        self.written = self.items.restore(&state.writable)?;
        self.key = state.key;
        self.offset = state.offset;
        self.dma_high = state.dma_high;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
