//! Saved state of one 8259A.

use super::{Chip, ICW4_AUTO_EOI, ICW4_FULLY_NESTED, Select, Sequence, mode};
use crate::saved::{Register, RestoreError, check};

/// The state of one chip: sequence, read selection and lowest priority in byte 0, then its registers.
pub(in crate::pic) type SavedChip = [u8; 12];

impl Chip {
    pub(in crate::pic) fn save(&self) -> SavedChip {
        let Self {
            cascade: _,
            sequence,
            select,
            modes,
            icw1,
            base,
            icw3,
            icw4,
            mask,
            in_service,
            edges,
            edge_level,
            lowest,
            inputs,
            is_acknowledged: _,
        } = *self;
        [
            sequence_number(sequence) | u8::from(select == Select::InService) << 3 | lowest << 4,
            modes,
            icw1,
            base,
            icw3,
            icw4,
            mask,
            in_service,
            edges,
            edge_level,
            inputs,
            0,
        ]
    }

    /// Returns a chip wired like this one in the saved state.
    pub(in crate::pic) fn restored(&self, saved: &SavedChip) -> Result<Self, RestoreError> {
        let [
            state,
            modes,
            icw1,
            base,
            icw3,
            icw4,
            mask,
            in_service,
            edges,
            edge_level,
            inputs,
            zero,
        ] = *saved;
        let sequence = match state & 7 {
            0 => Sequence::PowerOn,
            1 => Sequence::Icw2,
            2 => Sequence::Icw3,
            3 => Sequence::Icw4,
            4 => Sequence::Ready,
            _ => return Err(RestoreError::Register(Register::Sequence)),
        };
        let select = if state & 8 == 0 {
            Select::Request
        } else {
            Select::InService
        };
        let is_possible = state >> 7 == 0
            && zero == 0
            && modes & !mode::ALL == 0
            && base & 7 == 0
            && icw4 & !(ICW4_AUTO_EOI | ICW4_FULLY_NESTED) == 0;
        check(is_possible, Register::Sequence)?;
        check(edges & !inputs == 0, Register::Wires)?;
        Ok(Self {
            cascade: self.cascade,
            sequence,
            select,
            modes,
            icw1,
            base,
            icw3,
            icw4,
            mask,
            in_service,
            edges,
            edge_level,
            lowest: state >> 4,
            inputs,
            is_acknowledged: false,
        })
    }
}

const fn sequence_number(sequence: Sequence) -> u8 {
    match sequence {
        Sequence::PowerOn => 0,
        Sequence::Icw2 => 1,
        Sequence::Icw3 => 2,
        Sequence::Icw4 => 3,
        Sequence::Ready => 4,
    }
}
