//! Interrupt wires.

/// The level on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// No interrupt asked for.
    #[default]
    Low,
    /// Interrupt asked for.
    High,
}

impl From<bool> for Level {
    fn from(is_high: bool) -> Self {
        if is_high { Self::High } else { Self::Low }
    }
}

/// One wire from a device to an interrupt controller: not a number, the wire itself.
///
/// Driving the level it already has is allowed and does nothing; an edge-triggered input latches on low to high.
pub trait IrqLine {
    /// Drives the wire.
    fn set(&self, level: Level);
}

impl<T: IrqLine + ?Sized> IrqLine for &T {
    fn set(&self, level: Level) {
        (**self).set(level);
    }
}
