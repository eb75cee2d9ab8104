//! The records of variables: what they are called, and what is in them.

use alloc::vec;
use alloc::vec::Vec;

use stockade_devices::pflash::{MAX_BYTES, Pflash, Window};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::BLOCK;
use crate::records::{RecordError, Records};

/// What an erased byte reads.
const ERASED: u8 = 0xFF;
const LAYOUT: &[u8] = b"vars/layout";
/// The version of [`Layout`] and of the blocks.
const VERSION: u32 = 1;

/// Why there are no variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariablesError {
    /// The records could not be read.
    #[error("V02: {0}")]
    Records(#[from] RecordError),
    /// Not by this program's rules.
    #[error("V03: the variables in the store are of format {0}, known is {VERSION}")]
    Format(u32),
    /// Of firmware with another layout.
    #[error("V04: the variables in the store are {found} bytes, this firmware's are {wanted}")]
    Size {
        /// In the store.
        found: u32,
        /// The template's.
        wanted: u32,
    },
}

/// The record that says that there are variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    version: U32,
    len_bytes: U32,
}

/// A record's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Layout,
    Block([u8; 9]),
}

impl Name {
    fn of(block: u32) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut name = *b"vars/0000";
        for (place, shift) in name[5..].iter_mut().zip([12, 8, 4, 0]) {
            *place = DIGITS[(block >> shift & 0xF) as usize];
        }
        Self::Block(name)
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Layout => LAYOUT,
            Self::Block(name) => name,
        }
    }
}

/// Returns a size, which is at most [`MAX_BYTES`].
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(MAX_BYTES)
}

/// Returns what the records are to be told of the chip, and of its layout if that is not in them yet.
pub(super) fn changes<'a, W: Window>(
    chip: &'a Pflash<W>,
    layout: Option<&'a [u8]>,
) -> impl Iterator<Item = (Name, Option<&'a [u8]>)> + Clone {
    let blocks = chip.changed().map(|number| {
        let block = chip.block(number);
        let used = block.iter().rposition(|byte| *byte != ERASED);
        let value = used.and_then(|last| block.get(..=last));
        (Name::of(number), value)
    });
    blocks.chain(layout.map(|layout| (Name::Layout, Some(layout))))
}

/// Returns the layout's record, of a chip of so many bytes.
pub(super) fn layout(len: usize) -> [u8; 8] {
    let layout = Layout {
        version: VERSION.into(),
        len_bytes: size(len).into(),
    };
    zerocopy::transmute!(layout)
}

/// Returns the variables in the records, for firmware whose template has so many bytes; `None` if there are none yet.
///
/// # Errors
/// The records are not to be read, or the variables not this firmware's.
pub fn read(records: &Records, template_bytes: usize) -> Result<Option<Vec<u8>>, VariablesError> {
    let mut layout = Layout {
        version: U32::ZERO,
        len_bytes: U32::ZERO,
    };
    if records.read(LAYOUT, layout.as_mut_bytes())?.is_none() {
        return Ok(None);
    }
    if layout.version != VERSION {
        return Err(VariablesError::Format(layout.version.get()));
    }
    let (found, wanted) = (layout.len_bytes.get(), size(template_bytes));
    if found != wanted {
        return Err(VariablesError::Size { found, wanted });
    }
    let mut array = vec![ERASED; template_bytes];
    for (number, block) in (0..).zip(array.chunks_mut(BLOCK)) {
        records.read(Name::of(number).as_ref(), block)?;
    }
    Ok(Some(array))
}
