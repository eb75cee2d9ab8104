//! QEMU's `pc-testdev` (`hw/misc/pc-testdev.c`): a latch, wires and memory for tests of an emulator.
//!
//! Ports 0xE0 to 0xE3 and, again, 0xE8 to 0xEB are a latch of 32 bits; the second window takes wide accesses byte by byte, which
//! comes to the same. A double word written to 0xE4 names a page whose translation is to be forgotten, which is taken out by the
//! machine with [`PcTestdev::take_flush`]. A write to 0x2000 + n drives interrupt line n. 64 KiB of memory answer accesses of
//! any width.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_bus::{AccessError, Gpa, IrqLine, Level, Mmio, PortIo};

use crate::RestoreError;
use crate::state::check_version;

/// The device's first port.
pub const LATCH_PORT: u16 = 0xE0;
/// Offset of interrupt line 0 (port 0x2000) among this device's ports.
pub const LINES: u16 = 0x2000 - LATCH_PORT;
/// How many interrupt lines there are.
pub const LINE_COUNT: usize = 24;
/// Where the memory lies.
pub const MEMORY_BASE: u64 = 0xFF00_0000;
/// Bytes of memory.
pub const MEMORY_SIZE: u64 = 0x1_0000;

const LINES_END: u16 = LINES + 24;
const _: () = assert!((LINES_END - LINES) as usize == LINE_COUNT);
const MEMORY_BYTES: usize = 0x1_0000;
const _: () = assert!(MEMORY_BYTES as u64 == MEMORY_SIZE);

/// The device. Lines 0 to 15 are the ISA interrupts, 16 to 23 the IOAPIC's other pins.
#[derive(Debug)]
pub struct PcTestdev<L> {
    lines: [L; LINE_COUNT],

    latch: [u8; 4],
    levels: [Level; LINE_COUNT],
    memory: Box<[u8]>,

    flush: Option<Gpa>,
}

impl<L: IrqLine> PcTestdev<L> {
    /// Returns the device, all zeros.
    pub fn new(lines: [L; LINE_COUNT]) -> Self {
        Self {
            lines,
            latch: [0; 4],
            levels: [Level::Low; LINE_COUNT],
            memory: vec![0; MEMORY_BYTES].into_boxed_slice(),
            flush: None,
        }
    }

    /// Puts the device back to power-on.
    pub fn reset(&mut self) {
        let Self {
            lines: _,
            latch,
            levels,
            memory,
            flush,
        } = self;
        *latch = [0; 4];
        *levels = [Level::Low; LINE_COUNT];
        memory.fill(0);
        *flush = None;
        self.update_irq();
    }

    /// Returns the page whose translation the guest asked to forget since the last call.
    pub fn take_flush(&mut self) -> Option<Gpa> {
        self.flush.take()
    }

    fn update_irq(&self) {
        for (line, level) in self.lines.iter().zip(self.levels) {
            line.set(level);
        }
    }

    /// Returns the bytes of the latch an access is to.
    fn latch(&mut self, offset: u16, len: usize) -> Result<&mut [u8], AccessError> {
        let start = usize::from(offset % 4);
        self.latch
            .get_mut(start..)
            .and_then(|bytes| bytes.get_mut(..len))
            .ok_or(AccessError::Width)
    }

    fn memory(&mut self, offset: u64, len: usize) -> Result<&mut [u8], AccessError> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.memory.get_mut(start..)?.get_mut(..len))
            .ok_or(AccessError::NoRegister)
    }
}

impl<L: IrqLine> PortIo for PcTestdev<L> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match offset {
            0x0..=0x3 | 0x8..=0xB => data.copy_from_slice(self.latch(offset, data.len())?),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match offset {
            0x0..=0x3 | 0x8..=0xB => self.latch(offset, data.len())?.copy_from_slice(data),
            0x4 => {
                let bytes = data.try_into().map_err(|_| AccessError::Width)?;
                self.flush = Some(Gpa(u32::from_le_bytes(bytes).into()).page());
            }
            LINES..LINES_END => {
                let line = usize::from(offset - LINES);
                let is_high = data.iter().any(|byte| *byte != 0);
                self.levels[line] = Level::from(is_high);
                self.lines[line].set(self.levels[line]);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

impl<L: IrqLine> Mmio for PcTestdev<L> {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        data.copy_from_slice(self.memory(offset, data.len())?);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.memory(offset, data.len())?.copy_from_slice(data);
        Ok(())
    }
}

/// The device's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestdevState {
    /// Format version: 1.
    pub version: u32,
    /// The latch.
    pub latch: u32,
    /// The lines' levels, a bit each.
    pub levels: u32,
    /// The memory.
    pub memory: Vec<u8>,
}

impl<L: IrqLine> PcTestdev<L> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> TestdevState {
        let Self {
            lines: _,
            latch,
            levels,
            memory,
            flush: _,
        } = self;
        let bits = levels
            .iter()
            .enumerate()
            .map(|(line, level)| u32::from(*level == Level::High) << line);
        TestdevState {
            version: 1,
            latch: u32::from_le_bytes(*latch),
            levels: bits.sum(),
            memory: memory.to_vec(),
        }
    }

    /// Takes a saved state and drives the lines accordingly.
    pub fn restore(&mut self, state: &TestdevState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        if state.memory.len() != MEMORY_BYTES {
            return Err(RestoreError::Impossible("test device memory"));
        }
        if state.levels >> LINE_COUNT != 0 {
            return Err(RestoreError::Impossible("test device lines"));
        }
        self.latch = state.latch.to_le_bytes();
        for (line, level) in self.levels.iter_mut().enumerate() {
            *level = Level::from(state.levels & (1 << line) != 0);
        }
        self.memory.copy_from_slice(&state.memory);
        self.flush = None;
        self.update_irq();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::fake::FakeIrqLine;

    use super::*;

    fn lines() -> [FakeIrqLine; LINE_COUNT] {
        core::array::from_fn(|_| FakeIrqLine::default())
    }

    #[test]
    fn latch_keeps_every_width_in_both_windows() {
        let lines = lines();
        let mut device = PcTestdev::new(lines.each_ref());
        device.port_write(0, &[0x78, 0x56, 0x34, 0x12]).unwrap();
        device.port_write(9, &[0xAA]).unwrap();
        device.port_write(2, &[0x01, 0x02]).unwrap();
        for window in [0, 8] {
            let mut whole = [0; 4];
            device.port_read(window, &mut whole).unwrap();
            assert_eq!(whole, [0x78, 0xAA, 0x01, 0x02]);
            let mut byte = [0];
            device.port_read(window + 3, &mut byte).unwrap();
            assert_eq!(byte, [0x02]);
        }
        let across = device.port_read(3, &mut [0; 2]);
        assert_eq!(across, Err(AccessError::Width));
    }

    #[test]
    fn each_line_follows_its_port() {
        let lines = lines();
        let mut device = PcTestdev::new(lines.each_ref());
        for number in 0..LINE_COUNT {
            let port = LINES + u16::try_from(number).unwrap();
            device.port_write(port, &[1]).unwrap();
            assert_eq!(lines[number].level(), Level::High);
            let high = lines.iter().filter(|line| line.level() == Level::High);
            assert_eq!(high.count(), 1);
            device.port_write(port, &[0]).unwrap();
            assert_eq!(lines[number].level(), Level::Low);
        }
        let beyond = device.port_write(LINES + 24, &[1]);
        assert_eq!(beyond, Err(AccessError::NoRegister));
    }

    #[test]
    fn flush_names_a_page_once() {
        let lines = lines();
        let mut device = PcTestdev::new(lines.each_ref());
        device.port_write(4, &0x12_3456_u32.to_le_bytes()).unwrap();
        assert_eq!(device.take_flush(), Some(Gpa(0x12_3000)));
        assert_eq!(device.take_flush(), None);
        assert_eq!(device.port_write(4, &[1]), Err(AccessError::Width));
    }

    #[test]
    fn memory_takes_every_width_up_to_its_end() {
        let lines = lines();
        let mut device = PcTestdev::new(lines.each_ref());
        for len in [1, 2, 4, 8, 16] {
            let bytes: Vec<u8> = (1..=len).collect();
            let offset = MEMORY_SIZE - u64::from(len);
            device.mmio_write(offset, &bytes).unwrap();
            let mut read = vec![0; bytes.len()];
            device.mmio_read(offset, &mut read).unwrap();
            assert_eq!(read, bytes);
            let beyond = device.mmio_read(offset + 1, &mut read);
            assert_eq!(beyond, Err(AccessError::NoRegister));
        }
        let absurd = device.mmio_write(u64::MAX, &[1]);
        assert_eq!(absurd, Err(AccessError::NoRegister));
    }

    #[test]
    fn restored_device_drives_the_same_lines_and_reads_the_same() {
        let (before, after) = (lines(), lines());
        let mut saved = PcTestdev::new(before.each_ref());
        saved.port_write(LINES + 23, &[1]).unwrap();
        saved.port_write(0, &[7]).unwrap();
        saved.mmio_write(0x1234, &[9]).unwrap();
        let mut restored = PcTestdev::new(after.each_ref());
        restored.restore(&saved.save()).unwrap();
        assert_eq!(after[23].level(), Level::High);
        assert_eq!(restored.save(), saved.save());
        restored.reset();
        assert_eq!(after[23].level(), Level::Low);
        let mut short = saved.save();
        short.memory.pop();
        assert!(restored.restore(&short).is_err());
    }
}
