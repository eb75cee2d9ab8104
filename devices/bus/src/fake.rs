//! The other side of each trait, for tests.

use core::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use crate::{Clock, Gpa, GuestMemory, IrqLine, Level, MemoryError, Nanoseconds};

/// A wire that remembers its level and counts its rising edges.
#[derive(Debug, Default)]
pub struct FakeIrqLine {
    level: Cell<Level>,
    rises: Cell<usize>,
}

impl FakeIrqLine {
    /// Returns the level last driven.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level.get()
    }

    /// Returns how often the wire went from low to high.
    #[must_use]
    pub fn rises(&self) -> usize {
        self.rises.get()
    }
}

impl IrqLine for FakeIrqLine {
    fn set(&self, level: Level) {
        if self.level.replace(level) == Level::Low && level == Level::High {
            self.rises.set(self.rises.get() + 1);
        }
    }
}

/// A clock that stands until it is told to advance.
#[derive(Debug, Default)]
pub struct FakeClock(Cell<Nanoseconds>);

impl FakeClock {
    /// Moves the time on.
    pub fn advance(&self, ns: Nanoseconds) {
        self.0.set(self.0.get() + ns);
    }
}

impl Clock for FakeClock {
    fn now_ns(&self) -> Nanoseconds {
        self.0.get()
    }
}

/// Guest RAM from address 0 on, as a copy: nobody can keep a reference into it. Its end may be read-only.
#[derive(Debug)]
pub struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
    rom_start: usize,
}

impl FakeMemory {
    /// Returns `len` bytes of zeroed RAM.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; len]),
            rom_start: len,
        }
    }

    /// Returns zeroed RAM with this behind it, which can be read and not written.
    #[must_use]
    pub fn with_rom(len: usize, rom: &[u8]) -> Self {
        let mut memory = Self::new(len);
        memory.bytes.get_mut().extend_from_slice(rom);
        memory
    }

    fn range(&self, gpa: Gpa, len: usize) -> Result<core::ops::Range<usize>, MemoryError> {
        let start = usize::try_from(gpa.0).map_err(|_| MemoryError::NotMemory(gpa))?;
        match start.checked_add(len) {
            Some(end) if end <= self.bytes.borrow().len() => Ok(start..end),
            _ => Err(MemoryError::NotMemory(gpa)),
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, bytes.len())?;
        if range.end > self.rom_start {
            return Err(MemoryError::NotMemory(gpa));
        }
        self.bytes.borrow_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.range(gpa, 1)
            .is_ok_and(|range| range.end <= self.rom_start)
    }

    fn is_rom(&self, gpa: Gpa) -> bool {
        self.range(gpa, 1)
            .is_ok_and(|range| range.start >= self.rom_start)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        let width = usize::from(width);
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes[..width])?;
        if u64::from_le_bytes(bytes) != expected {
            return Ok(false);
        }
        self.write(gpa, &new.to_le_bytes()[..width])?;
        Ok(true)
    }
}

/// Guest memory that its owner changes as soon as it was read: whoever reads a byte again finds another one. What is written stays.
#[derive(Debug)]
pub struct FickleMemory<'m> {
    memory: &'m FakeMemory,
    seen: RefCell<BTreeSet<u64>>,
}

impl<'m> FickleMemory<'m> {
    /// Returns memory that has what `memory` has, once.
    #[must_use]
    pub fn new(memory: &'m FakeMemory) -> Self {
        Self {
            memory,
            seen: RefCell::default(),
        }
    }
}

impl GuestMemory for FickleMemory<'_> {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(gpa, buffer)?;
        let mut seen = self.seen.borrow_mut();
        for (at, byte) in (gpa.0..).zip(buffer) {
            if !seen.insert(at) {
                *byte = !*byte;
            }
        }
        Ok(())
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(gpa, bytes)
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.memory.is_ram(gpa)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        self.memory.compare_exchange(gpa, width, expected, new)
    }
}
