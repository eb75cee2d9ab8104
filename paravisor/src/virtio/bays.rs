//! The bays: every virtio device behind a lock of its own, and who of them wants to be looked at.
//!
//! Attention is a bit a device, in one word that every exit reads. It is raised by the guest's accesses, by the host's signals and by
//! turns that left something over; whoever serves a bay takes its bit first, so that what comes meanwhile raises it again. A bay
//! that is being served elsewhere keeps its bit and is left alone: nobody waits for it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use stockade_backend::HostBus;
use stockade_devices::pci::PciFunction;

use super::{Fitted, Turn};
use crate::machine::{Functions, SlotFunction, SlotNumber};

/// How many doorbell vectors devices have for their queues; further devices share them. The one after is for changes of any.
pub const DEVICE_VECTORS: u8 = 12;
/// Turns between two comparisons of a device: a host that reports changes without end would otherwise leave no time for the guest.
const TURNS_A_CHECK: u32 = 256;

/// One device.
pub struct Bay {
    card: Mutex<Box<dyn Fitted>>,
    attention: Arc<AtomicU32>,
    bit: u32,
    /// The host says that a device has changed: this one may have.
    is_doubted: AtomicBool,
    /// Turns since it was last compared.
    turns: AtomicU32,
    /// When it is to be watched, in nanoseconds; `u64::MAX` while its host has nothing.
    due_ns: AtomicU64,
}

impl SlotFunction for Bay {
    fn with(&self, work: &mut dyn FnMut(&mut dyn PciFunction)) {
        work(&mut **self.card.lock());
    }

    fn accessed(&self) {
        self.attention.fetch_or(self.bit, Ordering::SeqCst);
    }
}

impl Bay {
    fn is_check_due(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed).saturating_add(1);
        let is_due = turns > TURNS_A_CHECK && self.is_doubted.swap(false, Ordering::SeqCst);
        self.turns
            .store(if is_due { 0 } else { turns }, Ordering::Relaxed);
        is_due
    }
}

/// A moment in nanoseconds, at first never.
struct Due(AtomicU64);

impl Default for Due {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// All of them.
#[derive(Clone, Default)]
pub struct Bays {
    attention: Arc<AtomicU32>,
    /// Before, no device is to be watched.
    due: Arc<Due>,
    bays: Vec<(SlotNumber, Arc<Bay>)>,
}

impl fmt::Debug for Bays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bays({})", self.bays.len())
    }
}

impl Bays {
    /// Fits a device into the next slot; `None` if all are taken. Its host's interrupts come by vector [`Self::vector_of_next`].
    pub fn fit(&mut self, card: Box<dyn Fitted>, functions: &mut Functions) -> Option<()> {
        let bit = 1_u32.checked_shl(u32::try_from(self.bays.len()).ok()?)?;
        let bay = Arc::new(Bay {
            card: Mutex::new(card),
            attention: Arc::clone(&self.attention),
            bit,
            is_doubted: AtomicBool::new(false),
            turns: AtomicU32::new(TURNS_A_CHECK),
            due_ns: AtomicU64::new(u64::MAX),
        });
        let slot = functions.fit(Arc::clone(&bay) as Arc<dyn SlotFunction>)?;
        self.bays.push((slot, bay));
        Some(())
    }

    /// Returns which of the [`DEVICE_VECTORS`] the next device's host is to use.
    #[must_use]
    pub fn vector_of_next(&self) -> u8 {
        u8::try_from(self.bays.len()).unwrap_or(0) % DEVICE_VECTORS
    }

    /// Notes that the host signalled these vectors, a bit each.
    pub(crate) fn signal(&self, vectors: u16) {
        let is_change = vectors >> DEVICE_VECTORS & 1 != 0;
        for (index, (_, bay)) in self.bays.iter().enumerate() {
            if is_change {
                bay.is_doubted.store(true, Ordering::SeqCst);
                bay.accessed();
            }
            if vectors >> (index % usize::from(DEVICE_VECTORS)) & 1 != 0 {
                bay.accessed();
            }
        }
    }

    /// Returns when a device is next to be watched; `u64::MAX` if none is.
    pub(crate) fn due_ns(&self) -> u64 {
        self.due.0.load(Ordering::SeqCst)
    }

    /// Has devices looked at whose hosts have had requests for long.
    pub(crate) fn call_due(&self, now_ns: u64) {
        if self.due_ns() > now_ns {
            return;
        }
        self.due.0.store(u64::MAX, Ordering::SeqCst);
        for (_, bay) in &self.bays {
            let due = bay.due_ns.load(Ordering::SeqCst);
            if due <= now_ns {
                bay.accessed();
            } else {
                self.due.0.fetch_min(due, Ordering::SeqCst);
            }
        }
    }

    /// Returns whether a device wants to be looked at.
    pub(crate) fn want_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst) != 0
    }

    /// Gives every device that wants it a turn, with `hear` after it while its lock is held.
    pub(crate) fn serve(
        &self,
        bus: &mut dyn HostBus,
        now_ns: u64,
        mut hear: impl FnMut(SlotNumber, &mut dyn PciFunction),
    ) {
        let due = self.attention.swap(0, Ordering::SeqCst);
        for (slot, bay) in self.bays.iter().filter(|(_, bay)| bay.bit & due != 0) {
            let turn = match bay.card.try_lock() {
                None => Turn::More,
                Some(mut card) => {
                    if bay.is_check_due() {
                        card.check(bus);
                    }
                    let turn = card.turn(bus);
                    let due = card.watch(bus, now_ns).unwrap_or(u64::MAX);
                    bay.due_ns.store(due, Ordering::SeqCst);
                    self.due.0.fetch_min(due, Ordering::SeqCst);
                    hear(*slot, &mut **card);
                    turn
                }
            };
            if turn == Turn::More {
                bay.accessed();
            }
        }
    }
}

#[cfg(test)]
mod tests;
