//! A NOR flash chip with the Intel command set (JEDEC JEP137 command set 1, CFI of JESD68.01), 8 bits wide, in blocks of 4 KiB: what
//! firmware keeps its variables in.
//!
//! [`Pflash`] has the array and the commands of `command`; `query` is what it tells of itself. As memory a guest reads the array
//! without an exit: through a [`Window`] the chip keeps a copy of it where the guest reads, read-only, so that writes come here. While
//! the chip shows something else (its status, its identification), the window shows it in the line of the latest command alone, which is
//! where drivers look; elsewhere the array stays. Without a window every read comes here, and the whole chip shows it.
//!
//! Programming clears bits, erasing sets those of a block. Both are done at once and the status never says busy. Which blocks changed is
//! kept for whoever makes the array outlive the machine ([`Pflash::changed`], [`Pflash::take_changed`]).

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_bus::{AccessError, Mmio};

mod command;
mod query;
mod saved;

use command::{Mode, Step};
pub use saved::PflashState;

/// Bytes of a block, the unit of erasing.
pub const BLOCK_BYTES: u32 = 4096;
/// The greatest chip.
pub const MAX_BYTES: u32 = 8 << 20;
/// Bytes around the latest command that a window shows as the chip's.
const LINE_BYTES: u32 = 256;
/// What an erased byte reads.
const ERASED: u8 = 0xFF;

/// Where a guest reads the chip without an exit.
pub trait Window {
    /// Has these bytes read at `offset` from now on.
    fn show(&self, offset: u32, bytes: &[u8]);
}

/// No window: every read is an exit.
impl Window for () {
    fn show(&self, _: u32, _: &[u8]) {}
}

impl<W: Window + ?Sized> Window for &W {
    fn show(&self, offset: u32, bytes: &[u8]) {
        (**self).show(offset, bytes);
    }
}

impl<W: Window + ?Sized> Window for Box<W> {
    fn show(&self, offset: u32, bytes: &[u8]) {
        (**self).show(offset, bytes);
    }
}

/// Why an array makes no chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PflashError {
    /// Empty, too big, or no whole blocks.
    #[error("{0} bytes are no flash of whole blocks of 4096 bytes, at most 8 MiB")]
    Size(usize),
}

/// The chip.
#[derive(Debug)]
pub struct Pflash<W> {
    window: W,

    array: Box<[u8]>,
    mode: Mode,
    status: Status,

    /// The line the window does not show the array in.
    overlay: Option<u32>,
    /// A bit a block that was changed.
    changed: Vec<u64>,
}

bitflags::bitflags! {
    /// The status register (Intel 28F640J3 data sheet 290667, table 15).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        /// Erasing and programming came in a wrong order.
        const SEQUENCE = 0b0011_0000;
        /// Programming failed.
        const PROGRAM = 1 << 4;
        /// Nothing is in progress.
        const READY = 1 << 7;
    }
}

impl<W: Window> Pflash<W> {
    /// Returns a chip that holds `array`.
    ///
    /// # Errors
    /// The array is not one of whole blocks.
    pub fn try_new(window: W, array: Vec<u8>) -> Result<Self, PflashError> {
        let len = array.len();
        let blocks = len / BLOCK_BYTES as usize;
        if len == 0 || len > MAX_BYTES as usize || blocks * BLOCK_BYTES as usize != len {
            return Err(PflashError::Size(len));
        }
        window.show(0, &array);
        Ok(Self {
            window,
            array: array.into_boxed_slice(),
            mode: Mode::Array,
            status: Status::empty(),
            overlay: None,
            changed: vec![0; blocks.div_ceil(64)],
        })
    }

    /// Puts the chip back to power-on. What it holds stays; the window is written anew, as memory around it may have been.
    pub fn reset(&mut self) {
        let Self {
            window,
            array,
            mode,
            status,
            overlay,
            changed: _,
        } = self;
        *mode = Mode::Array;
        *status = Status::empty();
        *overlay = None;
        window.show(0, array);
    }

    /// Returns the array.
    #[must_use]
    pub fn array(&self) -> &[u8] {
        &self.array
    }

    /// Returns whether the chip is between two operations. Drivers program one byte after the other without a look at the status, so a
    /// byte just programmed is in the midst of one until they go back to the array.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.mode.is_at_rest()
    }

    /// Returns the numbers of the blocks that were changed since they were last taken.
    pub fn changed(&self) -> impl Iterator<Item = u32> + Clone {
        (0_u32..).zip(&self.changed).flat_map(|(index, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 != 0);
            bits.map(move |bit| index * 64 + bit)
        })
    }

    /// Forgets which blocks were changed.
    pub fn take_changed(&mut self) {
        self.changed.fill(0);
    }

    /// Notes that every block is to be kept.
    pub fn change_all(&mut self) {
        for block in 0..self.len() / BLOCK_BYTES {
            self.note(block);
        }
    }

    /// Returns the content of a block; empty if there is none of this number.
    #[must_use]
    pub fn block(&self, number: u32) -> &[u8] {
        let start = number as usize * BLOCK_BYTES as usize;
        let end = start + BLOCK_BYTES as usize;
        self.array.get(start..end).unwrap_or(&[])
    }

    /// At most [`MAX_BYTES`].
    fn len(&self) -> u32 {
        u32::try_from(self.array.len()).unwrap_or(MAX_BYTES)
    }

    fn note(&mut self, block: u32) {
        if let Some(word) = self.changed.get_mut(block as usize / 64) {
            *word |= 1 << (block % 64);
        }
    }

    /// Returns what is read at `offset`.
    fn read(&self, offset: u32) -> u8 {
        match self.mode {
            Mode::Array => self.array.get(offset as usize).copied().unwrap_or(ERASED),
            Mode::Identification => query::identification(offset),
            Mode::Query => query::answer(offset, self.len()),
            _ => self.status.bits(),
        }
    }

    /// Takes one byte written at `offset`.
    fn write(&mut self, offset: u32, value: u8) {
        let before = (self.mode.shows(), self.status);
        match self.mode.next(offset, value) {
            Step::To(mode) => self.mode = mode,
            Step::Clear => {
                self.status = Status::empty();
                self.mode = Mode::Array;
            }
            Step::Program(mode) => {
                self.program(offset, value);
                self.mode = mode;
            }
            Step::Erase => {
                self.erase(offset);
                self.mode = Mode::Status;
            }
            Step::Done => {
                self.status |= Status::READY;
                self.mode = Mode::Status;
            }
            Step::Wrong => {
                self.status |= Status::READY | Status::SEQUENCE;
                self.mode = Mode::Status;
            }
        }
        let is_changed = before != (self.mode.shows(), self.status);
        self.uncover(offset, is_changed);
    }

    fn program(&mut self, offset: u32, value: u8) {
        if let Some(byte) = self.array.get_mut(offset as usize) {
            if *byte & value != *byte {
                *byte &= value;
                self.note(offset / BLOCK_BYTES);
            }
            self.status |= Status::READY;
        }
    }

    fn erase(&mut self, offset: u32) {
        let block = offset / BLOCK_BYTES;
        let start = (block * BLOCK_BYTES) as usize;
        if let Some(bytes) = self.array.get_mut(start..start + BLOCK_BYTES as usize) {
            bytes.fill(ERASED);
            self.window.show(block * BLOCK_BYTES, bytes);
            // What was shown instead of the array is gone; it is shown again.
            self.overlay.take_if(|line| *line / BLOCK_BYTES == block);
            self.note(block);
        }
        self.status |= Status::READY;
    }

    /// Has the window show what the chip does in the line of `offset`, and the array in all others.
    fn uncover(&mut self, offset: u32, is_changed: bool) {
        let line = offset / LINE_BYTES * LINE_BYTES;
        let wanted = (self.mode != Mode::Array).then_some(line);
        if self.overlay == wanted && !is_changed {
            return;
        }
        if let Some(old) = self.overlay.take_if(|old| Some(*old) != wanted) {
            let (start, end) = (old as usize, (old + LINE_BYTES) as usize);
            let bytes = self.array.get(start..end).unwrap_or(&[]);
            self.window.show(old, bytes);
        }
        if let Some(line) = wanted {
            let mut bytes = [0; LINE_BYTES as usize];
            for (byte, offset) in bytes.iter_mut().zip(line..) {
                *byte = self.read(offset);
            }
            self.window.show(line, &bytes);
            self.overlay = wanted;
        }
    }

    /// Returns the place of `len` bytes at `offset`, if all are the chip's.
    fn place(&self, offset: u64, len: usize) -> Result<u32, AccessError> {
        let end = offset.checked_add(len as u64);
        let is_within = end.is_some_and(|end| end <= u64::from(self.len()));
        let place = u32::try_from(offset).ok().filter(|_| is_within);
        place.ok_or(AccessError::NoRegister)
    }
}

/// The bus is 8 bits wide: a wider access is one of each byte, ascending.
impl<W: Window> Mmio for Pflash<W> {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let start = self.place(offset, data.len())?;
        for (byte, offset) in data.iter_mut().zip(start..) {
            *byte = self.read(offset);
        }
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let start = self.place(offset, data.len())?;
        for (byte, offset) in data.iter().zip(start..) {
            self.write(offset, *byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
