//! Firmware's variables: the flash chip a guest sees at the top of its first 4 GiB, and the records behind it.
//!
//! The chip's array in memory is the truth. Blocks that changed go to the records when the chip is between two operations, all that wait
//! in one change, one change at a time: while the host writes one, the next gathers. So what is durable always is the whole chip as it
//! was between two operations of the guest, as after a power cut of a real one: what firmware does to survive that (edk2's
//! fault-tolerant writes) is all that is needed. Without records the variables last as long as the machine.
//!
//! A block is the record `vars/` and its number in four hexadecimal digits, without the erased bytes at its end; an erased block has
//! none. `vars/layout` says that there are variables, and of what size.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;
use stockade_bus::{Gpa, Mmio};
use stockade_devices::pflash::{BLOCK_BYTES, Pflash, PflashError, Window};
use stockade_storage::Ticket;

use crate::records::{Durability, RecordError, Records};
use crate::virtio::{Attention, Turn};

mod kept;

pub use kept::{VariablesError, read};
use kept::{changes, layout};

/// Where the chip shows itself without an exit.
pub type Screen = Box<dyn Window + Send>;

/// What keeps the chip beyond the machine.
#[derive(Debug)]
struct Keeper {
    records: Records,
    /// The change the host has.
    waiting: Option<Ticket>,
    /// Whether the records know of the variables at all.
    is_known: bool,
    /// Nothing more is kept.
    is_lost: bool,
}

/// The chip at its place.
pub struct Variables {
    base: Gpa,
    len_bytes: u64,
    attention: Attention,
    inner: Mutex<Inner>,
}

struct Inner {
    chip: Pflash<Screen>,
    keeper: Option<Keeper>,
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables")
            .field("base", &self.base)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

/// What the chip holds at the start.
#[derive(Debug)]
pub enum Content {
    /// What was read from the records.
    Kept(Vec<u8>),
    /// The image's template, as there is nothing else.
    Template(Vec<u8>),
}

impl Variables {
    /// Returns the chip at `base`, shown on `screen`. With `records` it is kept in them; `attention` is raised when there is something to keep.
    ///
    /// # Errors
    /// The content makes no chip.
    pub fn try_new(
        base: Gpa,
        screen: Screen,
        content: Content,
        records: Option<Records>,
        attention: Attention,
    ) -> Result<Self, PflashError> {
        let is_known = matches!(content, Content::Kept(_));
        let (Content::Kept(array) | Content::Template(array)) = content;
        let mut chip = Pflash::try_new(screen, array)?;
        if !is_known && records.is_some() {
            chip.change_all();
            attention.raise();
        }
        let keeper = records.map(|records| Keeper {
            records,
            waiting: None,
            is_known,
            is_lost: false,
        });
        Ok(Self {
            base,
            len_bytes: chip.array().len() as u64,
            attention,
            inner: Mutex::new(Inner { chip, keeper }),
        })
    }

    /// Returns where in the chip `gpa` is.
    pub(crate) fn place(&self, gpa: Gpa) -> Option<u64> {
        let offset = gpa.0.checked_sub(self.base.0)?;
        (offset < self.len_bytes).then_some(offset)
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        if self.inner.lock().chip.mmio_read(offset, data).is_err() {
            data.fill(0xFF);
        }
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let mut inner = self.inner.lock();
        // A write that reaches beyond the chip is lost, as on a PC.
        let _ = inner.chip.mmio_write(offset, data);
        self.call(&inner);
    }

    /// Asks for a turn if there is something to keep now.
    fn call(&self, inner: &Inner) {
        let has_changes = inner.chip.is_at_rest() && inner.chip.changed().next().is_some();
        if has_changes && inner.keeper.is_some() {
            self.attention.raise();
        }
    }

    pub(crate) fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.chip.reset();
        self.call(&inner);
    }

    /// Asks for a turn.
    pub(crate) fn accessed(&self) {
        self.attention.raise();
    }

    /// Returns whether no power cut undoes what the chip holds, as far as it is kept at all.
    pub(crate) fn is_kept(&self) -> bool {
        let inner = self.inner.lock();
        let Some(keeper) = &inner.keeper else {
            return true;
        };
        keeper.is_lost || keeper.waiting.is_none() && inner.chip.changed().next().is_none()
    }

    /// Hands what has changed to the records, unless they have a change of ours already.
    pub(crate) fn turn(&self) -> Turn {
        let Some(mut inner) = self.inner.try_lock() else {
            return Turn::More;
        };
        let Inner { chip, keeper } = &mut *inner;
        match keeper {
            Some(keeper) => keeper.turn(chip),
            None => Turn::Done,
        }
    }
}

impl Keeper {
    fn turn(&mut self, chip: &mut Pflash<Screen>) -> Turn {
        if let Some(ticket) = self.waiting {
            match self.records.durability(ticket) {
                // There is a turn when it is.
                Durability::Waiting => return Turn::Done,
                Durability::Durable => self.waiting = None,
                Durability::Lost => return self.give_up(&"the host failed to write the store"),
            }
        }
        if self.is_lost || !chip.is_at_rest() || chip.changed().next().is_none() {
            return Turn::Done;
        }
        let layout = layout(chip.array().len());
        let layout = (!self.is_known).then_some(&layout[..]);
        match self.records.write_all(changes(chip, layout)) {
            Ok(ticket) => {
                self.waiting = Some(ticket);
                self.is_known = true;
                chip.take_changed();
                Turn::Done
            }
            Err(RecordError::Busy) => Turn::More,
            Err(RecordError::Store(error)) => self.give_up(&error),
        }
    }

    fn give_up(&mut self, reason: &dyn fmt::Display) -> Turn {
        if !core::mem::replace(&mut self.is_lost, true) {
            log::error!("firmware variables: V01: {reason}: changes last as long as the machine");
        }
        self.waiting = None;
        Turn::Done
    }
}

/// Bytes of a block, as an index.
const BLOCK: usize = BLOCK_BYTES as usize;

#[cfg(test)]
mod tests;
