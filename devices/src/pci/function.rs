//! What a function is to its slot.

use stockade_bus::{AccessError, Level, PciConfig};

use super::bars::{BARS, Bar, BarRange};
use super::msix::MsiMessage;

/// A function that can be fitted into a slot: configuration space, the memory behind its base address registers, interrupts.
///
/// It never calls up. After each access its slot takes out what the function has to say: [`PciFunction::take_messages`] and
/// [`PciFunction::interrupt`], and after a write to configuration space [`PciFunction::decoded`].
pub trait PciFunction: PciConfig {
    /// Reads `data.len()` bytes (1 to 16) at `offset` in the memory behind `bar`.
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) -> Result<(), AccessError>;
    /// Writes `data` at `offset` in the memory behind `bar`.
    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) -> Result<(), AccessError>;
    /// Returns the addresses it answers now: none while COMMAND keeps it silent.
    fn decoded(&self) -> [Option<BarRange>; BARS];
    /// Returns the level it drives INTA# to.
    fn interrupt(&self) -> Level;
    /// Sends the messages that are due.
    fn take_messages(&mut self, send: &mut dyn FnMut(MsiMessage));
    /// Puts all registers back to power-on, as RST# does.
    fn reset(&mut self);
}

/// The functions behind a bridge, each to be reached by its address.
pub trait Slots {
    /// Hands the function at `at` to `work`; returns whether there is one.
    fn with_function(
        &self,
        at: super::BusDeviceFunction,
        work: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool;
}

/// Empty slots.
impl Slots for () {
    fn with_function(
        &self,
        _: super::BusDeviceFunction,
        _: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool {
        false
    }
}

impl<T: Slots + ?Sized> Slots for &T {
    fn with_function(
        &self,
        at: super::BusDeviceFunction,
        work: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool {
        (**self).with_function(at, work)
    }
}

impl<T: Slots + ?Sized> Slots for alloc::sync::Arc<T> {
    fn with_function(
        &self,
        at: super::BusDeviceFunction,
        work: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool {
        (**self).with_function(at, work)
    }
}
