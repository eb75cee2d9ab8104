//! A port with nothing to say: its status is one value, for whoever answers without asking the chip.

use stockade_bus::IrqLine;

use super::{Lsr, Serial};

/// Offset of the line status register.
pub const LINE_STATUS: u16 = 5;
/// What it reads, without any effect, while [`Serial::is_idle`]: there is room for output and no input.
pub const IDLE_STATUS: u8 = Lsr::THR_EMPTY.union(Lsr::TRANSMITTER_EMPTY).bits();

impl<L: IrqLine> Serial<L> {
    /// Returns whether the line status register reads [`IDLE_STATUS`] and reading it changes nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.line_status().bits() == IDLE_STATUS && self.input.is_empty()
    }
}
