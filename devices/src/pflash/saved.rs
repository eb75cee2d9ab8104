//! The chip's saved state.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::command::Mode;
use super::{Pflash, Status, Window};
use crate::RestoreError;
use crate::state::check_version;

/// The chip's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PflashState {
    /// Format version: 1.
    pub version: u32,
    /// 0 array, 1 status, 2 identification, 3 query, 4 programming, 5 erasing, 6 locking, 7 counting, 8 buffering, 9 programmed.
    pub mode: u8,
    /// The block a buffered write is for.
    pub block: u32,
    /// How many bytes of it are still to come.
    pub left: u8,
    /// The status register.
    pub status: u8,
    /// The content.
    pub array: Vec<u8>,
}

impl<W: Window> Pflash<W> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> PflashState {
        let Self {
            window: _,
            array,
            mode,
            status,
            overlay: _,
            changed: _,
        } = self;
        let (mode, block, left) = match *mode {
            Mode::Array => (0, 0, 0),
            Mode::Status => (1, 0, 0),
            Mode::Identification => (2, 0, 0),
            Mode::Query => (3, 0, 0),
            Mode::Programming => (4, 0, 0),
            Mode::Erasing => (5, 0, 0),
            Mode::Locking => (6, 0, 0),
            Mode::Programmed => (9, 0, 0),
            Mode::Counting(block) => (7, block, 0),
            Mode::Buffering { block, left } => (8, block, left),
        };
        PflashState {
            version: 1,
            mode,
            block,
            left,
            status: status.bits(),
            array: array.to_vec(),
        }
    }

    /// Takes a saved state of a chip of the same size. All of it counts as changed.
    ///
    /// # Errors
    /// The state is none of this chip.
    pub fn restore(&mut self, state: &PflashState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        if state.array.len() != self.array.len() {
            return Err(RestoreError::Impossible("size of a flash"));
        }
        let (block, left) = (state.block, state.left);
        self.mode = match state.mode {
            0 => Mode::Array,
            1 => Mode::Status,
            2 => Mode::Identification,
            3 => Mode::Query,
            4 => Mode::Programming,
            5 => Mode::Erasing,
            6 => Mode::Locking,
            7 => Mode::Counting(block),
            8 => Mode::Buffering { block, left },
            9 => Mode::Programmed,
            _ => return Err(RestoreError::Impossible("mode of a flash")),
        };
        self.status = Status::from_bits_truncate(state.status);
        self.array = Box::from(state.array.as_slice());
        self.overlay = None;
        self.window.show(0, &self.array);
        self.change_all();
        // Where the latest command was is not kept: the window shows the chip's first line as the chip's.
        self.uncover(0, true);
        Ok(())
    }
}
