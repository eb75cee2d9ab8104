//! The machine: what vCPUs share.
//!
//! The chips are behind one lock ([`Machine::with_chips`]); the `chips` module says which is plugged in where. Functions in PCI slots have a
//! lock each (`slots`). What an exit may want to
//! know of them afterwards (when one is next due, whether the console has output, what was asked of the machine) is left in atomics, so that
//! exits that touch no chip take no lock. What a vCPU has to itself (its local APIC, its MSRs) is in [`crate::vcpu`]; who runs and
//! who sleeps in [`crate::crew`].

mod chips;
mod firmware;
mod fittings;
mod module_port;
mod notes;
mod router;
mod shared;
mod slots;
mod tpm;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};
use stockade_apic::{Ending, Endings, Mailbox};
use stockade_backend::HostBus;
use stockade_boot::manifest::Start;
use stockade_bus::{AccessError, Clock, Deadline, Gpa, Mmio};
use stockade_devices::pci::PciFunction;
use stockade_intercept::hyperv::Partition;

use shared::Shared;
#[cfg(test)]
pub(crate) use shared::taken as locks_taken;

pub(crate) use chips::Chips;
pub use fittings::{FirmwareFittings, Fittings, Memory, TestFittings};
pub(crate) use notes::Output;
pub use notes::Request;
use notes::{Due, Notes};
pub use router::Router;
pub use slots::{Functions, SLOTS, SlotFunction, SlotNumber};
use slots::{PciSlots, Wires};

use crate::crew::Crew;
use crate::module::Modules;
use crate::stats::Stats;
use crate::tpm::Tpm;
use crate::variables::Variables;
use crate::virtio::{Bays, Gathering, Moment};

/// Bytes of the widest register most chips have.
const WORD: usize = 4;
/// The vCPU whose timer is set for the chips.
const TIMEKEEPER: usize = 0;

/// The machine all vCPUs share.
pub struct Machine<C> {
    chips: Shared<Chips<C>>,
    endings: Endings,
    slots: Arc<PciSlots>,
    bays: Bays,
    tpm: Option<Tpm>,
    modules: Arc<Modules>,
    notes: Notes,
    mailboxes: Arc<[Mailbox]>,
    wake: Arc<AtomicU64>,
    crew: Crew,
    partition: Partition,
    start: Start,
    clock: C,
    /// Keeps the order of what goes to and comes from the host's console.
    console: Shared<()>,
    /// The host had more input than the guest's port had room.
    is_input_waiting: AtomicBool,
    /// What vCPUs have counted that no longer run.
    ledger: Shared<Stats>,
}

impl<C: Clock + Clone> Machine<C> {
    /// Returns a machine for `vcpus` vCPUs whose clock showed `unix_seconds` when `clock` was zero.
    #[must_use]
    pub fn new(vcpus: usize, clock: C, unix_seconds: u64) -> Self {
        Self::with_fittings(vcpus, clock, unix_seconds, Fittings::default())
    }

    /// Returns such a machine with more than the least.
    #[must_use]
    pub fn with_fittings(vcpus: usize, clock: C, unix_seconds: u64, fittings: Fittings) -> Self {
        let mailboxes: Arc<[Mailbox]> = (0..vcpus).map(|_| Mailbox::new()).collect();
        let router = Router {
            mailboxes: Arc::clone(&mailboxes),
            wake: Arc::new(AtomicU64::new(0)),
        };
        let functions = fittings.functions.clone();
        let slots = Arc::new(PciSlots::new(functions, router.clone()));
        let on_bus = Arc::clone(&slots);
        let chips = Chips::new(&clock, unix_seconds, &router, on_bus, &fittings);
        Self {
            chips: Shared::new(chips),
            endings: Endings::new(),
            slots,
            bays: fittings.bays,
            tpm: fittings.tpm.map(Tpm::new),
            modules: fittings.modules,
            notes: Notes::new(),
            wake: router.wake,
            mailboxes,
            crew: Crew::new(vcpus),
            partition: Partition::new(),
            start: fittings.start,
            clock,
            console: Shared::new(()),
            // Somebody may have typed before there was a guest to see it.
            is_input_waiting: AtomicBool::new(true),
            ledger: Shared::new(Stats::default()),
        }
    }

    /// Returns the machine's clock.
    #[must_use]
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// Returns what starts the guest.
    #[must_use]
    pub fn start(&self) -> Start {
        self.start
    }

    /// Returns the mailboxes, one a vCPU.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Returns what the vCPUs know of each other.
    #[must_use]
    pub fn crew(&self) -> &Crew {
        &self.crew
    }

    /// Returns what vCPUs share of Hyper-V's interface.
    #[must_use]
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Returns whom messages of the chips since the last call were for, a bit a vCPU.
    pub fn take_wakes(&self) -> u64 {
        // Reading does not take the cache line from the other processors.
        if self.wake.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        self.wake.swap(0, Ordering::SeqCst)
    }

    /// Puts every chip back to power-on.
    pub fn reset(&self) {
        self.with_chips(Chips::reset_all);
        if let Some(tpm) = &self.tpm {
            tpm.reset();
        }
        if let Some(variables) = self.bays.variables() {
            variables.reset();
        }
        self.partition.reset();
        self.notes.forget_request();
    }

    /// Works on the chips, then passes on what their wires say.
    pub(crate) fn with_chips<R>(&self, work: impl FnOnce(&mut Chips<C>) -> R) -> R {
        let mut chips = self.chips.lock();
        chips.ioapic.take_endings(&self.endings);
        let result = work(&mut chips);
        chips.settle();
        chips.ioapic.settle(&self.endings);
        if self.notes.take(&mut chips, &self.clock) == Due::Sooner {
            self.crew.call(TIMEKEEPER);
            self.wake.fetch_or(1 << TIMEKEEPER, Ordering::SeqCst);
        }
        result
    }

    /// Tells the IOAPIC of the end of a level-triggered vector, without the chips' lock unless a pin waits for one. Returns whether
    /// interrupts may have come of it.
    pub(crate) fn end_level(&self, vector: u8) -> Ending {
        let ending = self.endings.post(vector);
        if ending == Ending::AwaitedByPin {
            // It is taken on the way.
            self.with_chips(|_| ());
        }
        ending
    }

    /// Returns when a chip is next due, to the vCPU that sets its timer for it.
    #[must_use]
    pub fn deadline(&self, vcpu: usize) -> Deadline {
        if vcpu != TIMEKEEPER {
            return None;
        }
        let due = self.notes.due_ns();
        (due != u64::MAX).then_some(due)
    }

    /// Lets the chips catch up if one is due and `vcpu` is the one to see to it.
    pub fn advance(&self, vcpu: usize) {
        if self
            .deadline(vcpu)
            .is_some_and(|due| due <= self.clock.now_ns())
        {
            self.with_chips(Chips::advance);
        }
    }

    /// Reads a port as the guest's IN does.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        self.with_chips(|chips| {
            let outcome = chips.with_port(port, |chip, offset| chip.port_read(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > 1 {
                // Chips of one byte answer each byte at its own port.
                for (byte, port) in data.iter_mut().zip(port..) {
                    let one = core::slice::from_mut(byte);
                    if chips
                        .with_port(port, |chip, offset| chip.port_read(offset, one))
                        .is_err()
                    {
                        *byte = 0xFF;
                    }
                }
            } else if outcome.is_err() {
                data.fill(0xFF);
            }
        });
    }

    /// Writes a port as the guest's OUT does.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        self.with_chips(|chips| {
            let outcome = chips.with_port(port, |chip, offset| chip.port_write(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > 1 {
                for (byte, port) in data.chunks(1).zip(port..) {
                    // A port nobody takes is a write into the void, as on a PC.
                    let _ = chips.with_port(port, |chip, offset| chip.port_write(offset, byte));
                }
            }
        });
    }

    /// Works on the function in `slot` from its other side, by its own lock; then passes on what it has to say.
    pub fn with_function<F: PciFunction, R>(
        &self,
        slot: SlotNumber,
        function: &Mutex<F>,
        work: impl FnOnce(&mut F) -> R,
    ) -> R {
        let mut function = function.lock();
        let result = work(&mut function);
        let wires = self.slots.hear(slot, &mut *function);
        drop(function);
        self.look_at(wires);
        result
    }

    /// Returns the programs that run beside the guest.
    #[must_use]
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Returns the virtio devices.
    #[must_use]
    pub fn bays(&self) -> &Bays {
        &self.bays
    }

    /// Has virtio devices looked at whose hosts have had requests for long.
    pub(crate) fn watch_bays(&self) {
        if self.bays.due_ns().min(self.bays.look_ns()) != u64::MAX {
            self.bays.call_due(self.clock.now_ns());
        }
    }

    /// Lets virtio devices that have something to do carry it to the host and back. One that gathers may do so for `patience_ns`.
    pub(crate) fn serve_bays(&self, bus: &mut dyn HostBus, patience_ns: u64) -> Gathering {
        let mut wires = Wires::Still;
        let moment = Moment {
            now_ns: self.clock.now_ns(),
            patience_ns,
        };
        let gathering = self.bays.serve(bus, moment, |slot, function| {
            if self.slots.hear(slot, function) == Wires::Moved {
                wires = Wires::Moved;
            }
        });
        self.look_at(wires);
        gathering
    }

    /// Has the chips look at the wires if a function moved one.
    fn look_at(&self, wires: Wires) {
        if wires == Wires::Moved {
            self.with_chips(|_| ());
        }
    }

    /// Reads memory-mapped registers; ones where there are none.
    pub fn mmio_read(&self, gpa: Gpa, data: &mut [u8]) {
        if let Some(place) = self.slots.find(gpa) {
            return self.look_at(self.slots.read(place, data));
        }
        if let (Some(tpm), Some(place)) = (&self.tpm, Tpm::place(gpa)) {
            return tpm.read(place, data);
        }
        if let Some((variables, offset)) = self.variables_at(gpa) {
            return variables.read(offset, data);
        }
        self.with_chips(|chips| {
            let outcome = chips.with_mmio(gpa, |chip, offset| chip.mmio_read(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > WORD {
                // The bus brings a wide access to narrower registers word by word.
                for (word, gpa) in data.chunks_mut(WORD).zip((gpa.0..).step_by(WORD)) {
                    let read = |chip: &mut dyn Mmio, offset| chip.mmio_read(offset, word);
                    if chips.with_mmio(Gpa(gpa), read).is_err() {
                        word.fill(0xFF);
                    }
                }
            } else if outcome.is_err() {
                data.fill(0xFF);
            }
        });
    }

    /// Writes memory-mapped registers.
    pub fn mmio_write(&self, gpa: Gpa, data: &[u8]) {
        if let Some(place) = self.slots.find(gpa) {
            return self.look_at(self.slots.write(place, data));
        }
        if let (Some(tpm), Some(place)) = (&self.tpm, Tpm::place(gpa)) {
            return tpm.write(place, data);
        }
        if let Some((variables, offset)) = self.variables_at(gpa) {
            return variables.write(offset, data);
        }
        self.with_chips(|chips| {
            let outcome = chips.with_mmio(gpa, |chip, offset| chip.mmio_write(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > WORD {
                for (word, gpa) in data.chunks(WORD).zip((gpa.0..).step_by(WORD)) {
                    // A write nobody takes is lost, as on a PC.
                    let _ = chips.with_mmio(Gpa(gpa), |chip, offset| chip.mmio_write(offset, word));
                }
            }
        });
    }

    /// Returns firmware's variables and where in them `gpa` is, if it is.
    fn variables_at(&self, gpa: Gpa) -> Option<(&Variables, u64)> {
        let variables = self.bays.variables()?;
        Some((variables, variables.place(gpa)?))
    }

    /// Returns whether no power cut undoes what firmware's variables are.
    pub(crate) fn is_kept(&self) -> bool {
        self.bays.variables().is_none_or(Variables::is_kept)
    }

    /// Returns what the guest asked of the machine as a whole since the last call.
    pub fn take_request(&self) -> Request {
        self.notes.take_request()
    }

    /// Works on what vCPUs have counted that no longer run.
    pub fn with_ledger<R>(&self, work: impl FnOnce(&mut Stats) -> R) -> R {
        work(&mut self.ledger.lock())
    }

    /// Returns the right to speak with the host's console. Taken before the chips, never after.
    pub(crate) fn console(&self) -> MutexGuard<'_, ()> {
        self.console.lock()
    }

    /// Returns whether the host had more input than the guest's port had room.
    pub(crate) fn is_input_waiting(&self) -> bool {
        self.is_input_waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn set_input_waiting(&self, is_waiting: bool) {
        self.is_input_waiting.store(is_waiting, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
