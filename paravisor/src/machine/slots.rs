//! The slots of PCI bus 0. Each function has a lock of its own, and which one answers an address is found without any.
//!
//! Configuration space is behind the chips' lock, memory behind base address registers is not: a notification of one device waits
//! neither for another device nor for a chip. Locks are taken in this order: chips, then one function. A function is left with
//! its messages sent and its INTA# noted; who notes a change has the chips look at the wires afterwards.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Mutex;
use stockade_apic::{Message, MessageSink};
use stockade_boot::layout::{
    PCI_WINDOW_BASE, PCI_WINDOW_SIZE, PCI_WINDOW64_BASE, PCI_WINDOW64_SIZE,
};
use stockade_bus::{Gpa, Level, PciConfig};
use stockade_devices::pci::{BusDeviceFunction, DecodeMap, PciFunction, Place, Slots, Windows};

use super::Router;

/// Functions go into the devices from this one on; device 0 is the host bridge.
const FIRST_DEVICE: u8 = 1;
/// One past the last: device 31 is the LPC bridge.
const END_DEVICE: u8 = 31;
/// How many functions can be fitted.
pub const SLOTS: usize = (END_DEVICE - FIRST_DEVICE) as usize;

const WINDOW: core::ops::Range<u64> = PCI_WINDOW_BASE..PCI_WINDOW_BASE + PCI_WINDOW_SIZE;
const WINDOW64: core::ops::Range<u64> = PCI_WINDOW64_BASE..PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE;

/// A function behind its own lock.
pub trait SlotFunction: Send + Sync {
    /// Locks the function, hands it to `work` and unlocks it.
    fn with(&self, work: &mut dyn FnMut(&mut dyn PciFunction));
    /// Called when an access of the guest to the function's memory is over and the function unlocked: the place to look for what
    /// the guest asked for.
    fn accessed(&self) {}
}

impl<F: PciFunction + Send> SlotFunction for Mutex<F> {
    fn with(&self, work: &mut dyn FnMut(&mut dyn PciFunction)) {
        work(&mut *self.lock());
    }
}

/// What goes into the slots, first to last: function `n` is the only one of device `n + 1`.
#[derive(Clone, Default)]
pub struct Functions(Vec<Arc<dyn SlotFunction>>);

impl Functions {
    /// Fits a function into the next slot and returns which that is; `None` if all are taken.
    pub fn fit(&mut self, function: Arc<dyn SlotFunction>) -> Option<SlotNumber> {
        let number = u8::try_from(self.0.len()).ok()?;
        if self.0.len() >= SLOTS {
            return None;
        }
        self.0.push(function);
        Some(SlotNumber(number))
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Functions({})", self.0.len())
    }
}

/// Which slot, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotNumber(u8);

impl SlotNumber {
    /// Returns where the guest sees the function.
    #[must_use]
    pub fn address(self) -> BusDeviceFunction {
        BusDeviceFunction::new_truncate(0, FIRST_DEVICE + self.0, 0)
    }

    fn of(at: BusDeviceFunction) -> Option<Self> {
        let number = at.device().checked_sub(FIRST_DEVICE)?;
        let is_slot = at.bus() == 0 && at.function() == 0 && at.device() < END_DEVICE;
        is_slot.then_some(Self(number))
    }

    fn bit(self) -> u32 {
        1 << (FIRST_DEVICE + self.0)
    }
}

/// Whether the chips must look at the wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Wires {
    /// A level changed.
    Moved,
    /// None did.
    Still,
}

/// The slots, and what the functions in them have to say.
pub(crate) struct PciSlots {
    functions: Box<[Arc<dyn SlotFunction>]>,
    router: Router,
    map: DecodeMap,
    /// Who holds its INTA#, a bit a device.
    asserted: AtomicU32,
}

impl PciSlots {
    pub(super) fn new(functions: Functions, router: Router) -> Self {
        Self {
            map: DecodeMap::new(functions.0.len(), [WINDOW, WINDOW64]),
            functions: functions.0.into_boxed_slice(),
            router,
            asserted: AtomicU32::new(0),
        }
    }

    /// Returns the address space firmware shares out.
    pub(super) fn windows() -> Windows {
        Windows::new(WINDOW, WINDOW64)
    }

    /// Returns the slots that are taken.
    pub(super) fn taken(&self) -> impl Iterator<Item = SlotNumber> + use<> {
        (0..u8::try_from(self.functions.len()).unwrap_or(0)).map(SlotNumber)
    }

    /// Returns who holds its INTA#, a bit a device.
    pub(super) fn asserted(&self) -> u32 {
        self.asserted.load(Ordering::SeqCst)
    }

    /// Returns which function answers `gpa`.
    pub(super) fn find(&self, gpa: Gpa) -> Option<Place> {
        self.map.find(gpa.0)
    }

    /// Reads a function's memory.
    pub(super) fn read(&self, place: Place, data: &mut [u8]) -> Wires {
        self.access(place, &mut |function| {
            if function.bar_read(place.bar, place.offset, data).is_err() {
                data.fill(0xFF);
            }
        })
    }

    /// Writes a function's memory.
    pub(super) fn write(&self, place: Place, data: &[u8]) -> Wires {
        self.access(place, &mut |function| {
            // A write nobody takes is lost, as on a PC.
            let _ = function.bar_write(place.bar, place.offset, data);
        })
    }

    fn access(&self, place: Place, work: &mut dyn FnMut(&mut dyn PciFunction)) -> Wires {
        let Some(function) = self.functions.get(usize::from(place.slot)) else {
            return Wires::Still;
        };
        let mut wires = Wires::Still;
        function.with(&mut |function| {
            work(function);
            wires = self.hear(SlotNumber(place.slot), function);
        });
        function.accessed();
        wires
    }

    /// Takes out what a function has to say. Its lock is held, so that what it said last counts last.
    pub(super) fn hear(&self, slot: SlotNumber, function: &mut dyn PciFunction) -> Wires {
        function.take_messages(&mut |message| {
            // What is no message to an interrupt controller is a write to nowhere.
            if let Some(message) = Message::from_msi(message.address, message.data) {
                self.router.send(message);
            }
        });
        let bit = slot.bit();
        let before = match function.interrupt() {
            Level::High => self.asserted.fetch_or(bit, Ordering::SeqCst) & bit != 0,
            Level::Low if self.asserted() & bit == 0 => false,
            Level::Low => self.asserted.fetch_and(!bit, Ordering::SeqCst) & bit != 0,
        };
        if before == (function.interrupt() == Level::High) {
            Wires::Still
        } else {
            Wires::Moved
        }
    }

    /// Puts every function back to power-on.
    pub(super) fn reset(&self) {
        for (slot, function) in self.taken().zip(&self.functions) {
            function.with(&mut |function| {
                function.reset();
                self.settle(slot, function);
            });
        }
    }

    /// Like [`PciSlots::hear`], after what may have moved the function's memory. The chips look at the wires in any case.
    fn settle(&self, slot: SlotNumber, function: &mut dyn PciFunction) {
        self.map.set(slot.0, &function.decoded());
        let _ = self.hear(slot, function);
    }
}

/// Configuration space. The chips' lock is held: that is who asks.
impl Slots for PciSlots {
    fn with_function(
        &self,
        at: BusDeviceFunction,
        work: &mut dyn FnMut(&mut dyn PciConfig),
    ) -> bool {
        let slot = SlotNumber::of(at);
        let found = slot.and_then(|slot| Some((slot, self.functions.get(usize::from(slot.0))?)));
        let Some((slot, function)) = found else {
            return false;
        };
        function.with(&mut |function| {
            work(function);
            self.settle(slot, function);
        });
        function.accessed();
        true
    }
}

#[cfg(test)]
mod tests;
