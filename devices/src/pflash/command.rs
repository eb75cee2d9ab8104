//! The commands (Intel 28F640J3 data sheet 290667, table 4): which byte follows which.

use super::BLOCK_BYTES;

const READ_ARRAY: u8 = 0xFF;
/// Resets chips of another command set; taken as [`READ_ARRAY`], for drivers that probe.
const RESET_OTHER: u8 = 0xF0;
const READ_STATUS: u8 = 0x70;
const CLEAR_STATUS: u8 = 0x50;
const READ_IDENTIFICATION: u8 = 0x90;
const READ_QUERY: u8 = 0x98;
const PROGRAM: u8 = 0x40;
const PROGRAM_OTHER: u8 = 0x10;
const WRITE_BUFFER: u8 = 0xE8;
const ERASE: u8 = 0x20;
const LOCK: u8 = 0x60;
const CONFIRM: u8 = 0xD0;
const LOCK_BLOCK: u8 = 0x01;

/// Bytes of the write buffer, as a power of two; `query` tells it.
pub(super) const BUFFER_LOG2: u8 = 6;
const BUFFER_BYTES: u8 = 1 << BUFFER_LOG2;

/// What the chip shows and what the next byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Array,
    Status,
    Identification,
    Query,
    /// A byte was programmed, and the next one may follow; the status shows.
    Programmed,
    /// The next byte is the data.
    Programming,
    /// The next byte confirms.
    Erasing,
    /// The next byte says what is to be done with the block's lock: there are none.
    Locking,
    /// The next byte is how many bytes, less one, go into this block.
    Counting(u32),
    /// So many bytes for this block are still to come; after them a confirmation.
    Buffering {
        block: u32,
        left: u8,
    },
}

/// What a byte does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing but this mode.
    To(Mode),
    /// The status is cleared.
    Clear,
    /// The byte is programmed; this mode follows.
    Program(Mode),
    /// The block is erased.
    Erase,
    /// An operation is over, well.
    Done,
    /// The sequence is none.
    Wrong,
}

/// What kind of thing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    Array,
    Status,
    Identification,
    Query,
}

impl Mode {
    pub(super) fn shows(self) -> Shows {
        match self {
            Self::Array => Shows::Array,
            Self::Identification => Shows::Identification,
            Self::Query => Shows::Query,
            _ => Shows::Status,
        }
    }

    /// Returns whether nothing has been begun that is expected to go on.
    pub(super) fn is_at_rest(self) -> bool {
        matches!(
            self,
            Self::Array | Self::Status | Self::Identification | Self::Query
        )
    }

    /// Returns what `value` written at `offset` does.
    pub(super) fn next(self, offset: u32, value: u8) -> Step {
        let block = offset / BLOCK_BYTES;
        match (self, value) {
            (Self::Programming, _) => Step::Program(Self::Programmed),
            (Self::Erasing, CONFIRM) => Step::Erase,
            (Self::Locking, CONFIRM | LOCK_BLOCK) => Step::Done,
            (Self::Counting(block), 0..BUFFER_BYTES) => {
                let left = value + 1;
                Step::To(Self::Buffering { block, left })
            }
            (Self::Buffering { left: 0, .. }, CONFIRM) => Step::Done,
            (Self::Buffering { block: its, left }, _) if left > 0 && its == block => {
                let left = left - 1;
                Step::Program(Self::Buffering { block, left })
            }
            // Out of a sequence by the command that ends everything.
            (Self::Erasing | Self::Locking, READ_ARRAY) => Step::To(Self::Array),
            (Self::Erasing | Self::Locking | Self::Counting(_) | Self::Buffering { .. }, _) => {
                Step::Wrong
            }
            (_, command) => Self::begin(block, command),
        }
    }

    fn begin(block: u32, command: u8) -> Step {
        Step::To(match command {
            READ_STATUS => Self::Status,
            CLEAR_STATUS => return Step::Clear,
            READ_IDENTIFICATION => Self::Identification,
            READ_QUERY => Self::Query,
            PROGRAM | PROGRAM_OTHER => Self::Programming,
            WRITE_BUFFER => Self::Counting(block),
            ERASE => Self::Erasing,
            LOCK => Self::Locking,
            READ_ARRAY | RESET_OTHER => Self::Array,
            // Any other byte: the array, as if it had been meant.
            _ => Self::Array,
        })
    }
}
