//! The bays: every virtio device behind a lock of its own, and who of them wants to be looked at.
//!
//! Attention is a bit a device, in one word that every exit reads. It is raised by the guest's accesses, by the host's signals and by
//! turns that left something over; whoever serves a bay takes its bit first, so that what comes meanwhile raises it again. A bay
//! that is being served elsewhere keeps its bit and is left alone: nobody waits for it.

mod hidden;
mod vigil;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use stockade_backend::HostBus;
use stockade_devices::pci::PciFunction;

pub(crate) use vigil::Watched;

use super::{Attention, Doubt, Fitted, Refusals, Turn};
use crate::machine::{Functions, SlotFunction, SlotNumber};
use crate::module::channel::Bell;
use crate::records::Records;
use crate::screen::Screen;
use crate::variables::Variables;

/// How many doorbell vectors devices have for their queues; further devices share them. The one after is for changes of any.
pub const DEVICE_VECTORS: u8 = 12;
/// The attention bit of the records, beyond those of devices.
const RECORDS_BIT: u32 = 1 << 31;
/// That of firmware's variables.
const VARIABLES_BIT: u32 = 1 << 30;
/// That of the screen.
const SCREEN_BIT: u32 = 1 << 29;

/// One device.
pub struct Bay {
    card: Mutex<Box<dyn Fitted>>,
    attention: Attention,
    doubt: Doubt,
    keeps_records: bool,
    /// When it is to be watched, in nanoseconds; `u64::MAX` while its host has nothing.
    due_ns: AtomicU64,
    /// When it is to be looked at though nobody signals; `u64::MAX` while it gathers nothing.
    look_ns: AtomicU64,
    /// That time has come.
    is_late: AtomicBool,
}

impl SlotFunction for Bay {
    fn with(&self, work: &mut dyn FnMut(&mut dyn PciFunction)) {
        work(&mut **self.card.lock());
    }

    fn accessed(&self) {
        self.attention.raise();
    }
}

/// A moment in nanoseconds, at first never.
struct Due(AtomicU64);

impl Default for Due {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// When turns are given, and for how long a device may gather after its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) now_ns: u64,
    pub(crate) patience_ns: u64,
}

/// Whether a device that got a turn gathers: whoever gave it is to come back at [`Bays::look_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nobody else comes back"]
pub(crate) enum Gathering {
    /// One does.
    Yes,
    /// None does.
    No,
}

/// All of them.
#[derive(Clone, Default)]
pub struct Bays {
    attention: Arc<AtomicU32>,
    /// Before, no device is to be watched.
    due: Arc<Due>,
    /// Before, no device that gathers is to be looked at.
    look: Arc<Due>,
    /// Bits of devices whose hosts have had requests since their last turn, unless somebody keeps a vigil for them.
    expecting: Arc<AtomicU32>,
    bays: Vec<(SlotNumber, Arc<Bay>)>,
    /// No device, but a host's disk like theirs is behind it.
    records: Option<Records>,
    /// No device of the bus, but it keeps records.
    variables: Option<Arc<Variables>>,
    /// No device of the guest's either.
    screen: Option<Arc<Screen>>,
    /// Rung when records have become durable: modules keep some, too.
    bell: Option<Bell>,
}

impl fmt::Debug for Bays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bays({})", self.bays.len())
    }
}

impl Bays {
    /// Fits a device into the next slot and returns which that is; `None` if all are taken. Its host's interrupts come by vector
    /// [`Self::vector_of_next`].
    pub fn fit(&mut self, card: Box<dyn Fitted>, functions: &mut Functions) -> Option<SlotNumber> {
        let bit = 1_u32.checked_shl(u32::try_from(self.bays.len()).ok()?)?;
        if bit >= SCREEN_BIT {
            return None;
        }
        let bay = Arc::new(Bay {
            attention: Attention::new(&self.attention, bit),
            doubt: Doubt::default(),
            keeps_records: card.keeps_records(),
            card: Mutex::new(card),
            due_ns: AtomicU64::new(u64::MAX),
            look_ns: AtomicU64::new(u64::MAX),
            is_late: AtomicBool::new(false),
        });
        let slot = functions.fit(Arc::clone(&bay) as Arc<dyn SlotFunction>)?;
        self.bays.push((slot, bay));
        Some(slot)
    }

    /// Returns how records ask for their turn.
    #[must_use]
    pub fn attention_of_records(&self) -> Attention {
        Attention::new(&self.attention, RECORDS_BIT)
    }

    /// Gives these records their turns from now on. Their host's interrupts come by [`Self::VECTOR_OF_RECORDS`].
    pub fn keep(&mut self, records: &Records) {
        self.records = Some(records.clone());
    }

    /// Returns how firmware's variables ask for their turn.
    #[must_use]
    pub fn attention_of_variables(&self) -> Attention {
        Attention::new(&self.attention, VARIABLES_BIT)
    }

    /// Gives these variables their turns from now on.
    pub fn keep_variables(&mut self, variables: Variables) {
        self.variables = Some(Arc::new(variables));
    }

    /// Returns firmware's variables, if the machine has any.
    #[must_use]
    pub fn variables(&self) -> Option<&Variables> {
        self.variables.as_deref()
    }

    /// Returns how the screen asks for its turn.
    #[must_use]
    pub fn attention_of_screen(&self) -> Attention {
        Attention::new(&self.attention, SCREEN_BIT)
    }

    /// Gives this screen its turns from now on. Its host's interrupts come by [`Self::VECTOR_OF_RECORDS`].
    pub fn show(&mut self, screen: Screen) {
        self.screen = Some(Arc::new(screen));
    }

    /// Returns the screen, if the host is to see one.
    #[must_use]
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_deref()
    }

    /// Returns the records, if there is a store of them.
    #[must_use]
    pub fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }

    /// Rings `bell` from now on when records have become durable.
    pub fn ring_for_records(&mut self, bell: &Bell) {
        self.bell = Some(bell.clone());
    }

    /// Which of the [`DEVICE_VECTORS`] the host of the records is to use.
    pub const VECTOR_OF_RECORDS: u8 = DEVICE_VECTORS - 1;

    /// Returns which of the [`DEVICE_VECTORS`] the next device's host is to use.
    #[must_use]
    pub fn vector_of_next(&self) -> u8 {
        u8::try_from(self.bays.len()).unwrap_or(0) % DEVICE_VECTORS
    }

    /// Returns the APIC id of which processor the next device's host is to signal.
    #[must_use]
    pub fn processor_of_next(&self, vcpus: u32) -> u8 {
        let index = u32::try_from(self.bays.len()).unwrap_or(0);
        u8::try_from(index.checked_rem(vcpus).unwrap_or(0)).unwrap_or(0)
    }

    /// Returns what the devices did not do, for what was wrong with it.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        let refusals = |(_, bay): &(_, Arc<Bay>)| bay.card.lock().refusals();
        self.bays.iter().map(refusals).sum()
    }

    /// Has every device looked at once.
    pub fn look_at_all(&self) {
        self.bays.iter().for_each(|(_, bay)| bay.accessed());
    }

    /// Notes that the host signalled these vectors, a bit each.
    pub(crate) fn signal(&self, vectors: u16) {
        let is_change = vectors >> DEVICE_VECTORS & 1 != 0;
        for (index, (_, bay)) in self.bays.iter().enumerate() {
            if is_change {
                bay.doubt.raise();
                bay.accessed();
            }
            if vectors >> (index % usize::from(DEVICE_VECTORS)) & 1 != 0 {
                bay.accessed();
            }
        }
        let is_shared = vectors >> Self::VECTOR_OF_RECORDS & 1 != 0;
        if let Some(screen) = &self.screen {
            if is_change {
                screen.doubted();
            }
            if is_shared {
                screen.accessed();
            }
        }
        let Some(records) = &self.records else {
            return;
        };
        if is_change {
            records.doubted();
        }
        if is_shared {
            records.accessed();
        }
    }

    /// Returns when a device is next to be watched; `u64::MAX` if none is.
    pub(crate) fn due_ns(&self) -> u64 {
        self.due.0.load(Ordering::SeqCst)
    }

    /// Returns when a device that gathers is next to be looked at; `u64::MAX` if none does. Who gave it its turn sees to that.
    pub(crate) fn look_ns(&self) -> u64 {
        self.look.0.load(Ordering::SeqCst)
    }

    /// Has devices looked at that gather, before a vCPU sleeps.
    pub(crate) fn look_early(&self) {
        if self.look_ns() != u64::MAX {
            let gathers = |bay: &Bay| bay.look_ns.load(Ordering::SeqCst) != u64::MAX;
            let gathering = self.bays.iter().filter(|(_, bay)| gathers(bay));
            gathering.for_each(|(_, bay)| bay.accessed());
        }
    }

    /// Has devices looked at that have gathered for long enough.
    fn call_gathering(&self, now_ns: u64) {
        if self.look_ns() > now_ns {
            return;
        }
        self.look.0.store(u64::MAX, Ordering::SeqCst);
        for (_, bay) in &self.bays {
            let look = bay.look_ns.load(Ordering::SeqCst);
            if look <= now_ns {
                bay.is_late.store(true, Ordering::SeqCst);
                bay.accessed();
            } else {
                self.look.0.fetch_min(look, Ordering::SeqCst);
            }
        }
    }

    /// Has devices looked at that have gathered for long enough, or whose hosts have had requests for long.
    pub(crate) fn call_due(&self, now_ns: u64) {
        self.call_gathering(now_ns);
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
        if let Some(screen) = &self.screen {
            if screen.due_ns() <= now_ns {
                screen.accessed();
            } else {
                self.due.0.fetch_min(screen.due_ns(), Ordering::SeqCst);
            }
        }
        if let Some(records) = &self.records {
            if records.due_ns() <= now_ns {
                records.accessed();
            } else {
                self.due.0.fetch_min(records.due_ns(), Ordering::SeqCst);
            }
        }
    }

    /// Returns whether a device wants to be looked at.
    pub(crate) fn want_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst) != 0
    }

    /// Gives every device that wants it a turn, with `hear` after it while its lock is held. Who gathers is to be looked at after
    /// `patience_ns`.
    pub(crate) fn serve(
        &self,
        bus: &mut dyn HostBus,
        moment: Moment,
        mut hear: impl FnMut(SlotNumber, &mut dyn PciFunction),
    ) -> Gathering {
        let mut gathering = Gathering::No;
        let due = self.attention.swap(0, Ordering::SeqCst);
        for (slot, bay) in self.bays.iter().filter(|(_, bay)| bay.attention.is_in(due)) {
            let turn = match bay.card.try_lock() {
                None => Turn::More,
                Some(mut card) => {
                    let turn = self.serve_card(bay, &mut **card, bus, moment);
                    hear(*slot, &mut **card);
                    turn
                }
            };
            if turn == Turn::More {
                bay.accessed();
            }
            if bay.look_ns.load(Ordering::SeqCst) != u64::MAX {
                gathering = Gathering::Yes;
            }
        }
        if due & VARIABLES_BIT != 0 {
            self.serve_variables();
        }
        if due & SCREEN_BIT != 0 {
            self.serve_screen(bus, moment.now_ns);
        }
        // After the devices: what they have just queued goes with it.
        let queued = self.attention.fetch_and(!RECORDS_BIT, Ordering::SeqCst);
        if (due | queued) & RECORDS_BIT != 0 {
            self.serve_records(bus, moment.now_ns);
        }
        gathering
    }

    fn serve_card(
        &self,
        bay: &Bay,
        card: &mut dyn Fitted,
        bus: &mut dyn HostBus,
        Moment {
            now_ns,
            patience_ns,
        }: Moment,
    ) -> Turn {
        if bay.doubt.is_due() {
            card.check(bus);
        }
        if bay.is_late.swap(false, Ordering::SeqCst) {
            card.late();
        }
        let turn = card.turn(bus);
        let due = card.watch(bus, now_ns).unwrap_or(u64::MAX);
        bay.attention.mark(&self.expecting, due != u64::MAX);
        bay.due_ns.store(due, Ordering::SeqCst);
        self.due.0.fetch_min(due, Ordering::SeqCst);
        let look = if turn == Turn::Done && card.gathers() {
            now_ns.saturating_add(patience_ns)
        } else {
            u64::MAX
        };
        bay.look_ns.store(look, Ordering::SeqCst);
        self.look.0.fetch_min(look, Ordering::SeqCst);
        turn
    }
}

#[cfg(test)]
mod tests;
