//! Interrupts on their way in: messages, pins and local sources to IRR, IRR to ISR, and their end (SDM 10.5 and 10.8).

use stockade_bus::Level;

use super::registers::{Errors, LocalVector, lvt};
use super::timer::Mode;
use super::{Effect, LocalApic, Time};
use crate::mailbox::{LocalEvents, Mailbox};
use crate::msi::{DeliveryMode, Trigger};

/// What a local APIC passes on to its processor besides vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    /// Reset as INIT does and wait for a start-up IPI; the bootstrap processor starts at the reset vector instead.
    Init,
    /// If waiting for it, start in real mode at this page: CS base = page << 12.
    StartUp(u8),
    /// A system management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
}

/// A pin of the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lint {
    /// LINT0, on a PC wired to INTR of the 8259 pair.
    Lint0,
    /// LINT1, on a PC the NMI.
    Lint1,
}

impl Lint {
    const fn entry(self) -> usize {
        match self {
            Self::Lint0 => lvt::LINT0,
            Self::Lint1 => lvt::LINT1,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Lint0 => 0,
            Self::Lint1 => 1,
        }
    }
}

/// A source inside the processor that has an entry in the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// The timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// A performance counter overflow.
    PerformanceCounter,
    /// The APIC's own error interrupt.
    Error,
}

impl LocalSource {
    const fn entry(self) -> usize {
        match self {
            Self::Timer => lvt::TIMER,
            Self::Thermal => lvt::THERMAL,
            Self::PerformanceCounter => lvt::PERFORMANCE,
            Self::Error => lvt::ERROR,
        }
    }
}

impl LocalApic {
    /// Takes what others put into `mailbox`. An INIT among it has reset this APIC when the function returns.
    pub fn deliver_remote(&mut self, mailbox: &Mailbox) -> LocalEvents {
        let Some(mail) = mailbox.take() else {
            return LocalEvents::default();
        };
        if mail.events.has_init() {
            self.init();
        }
        let mut events = mail.events;
        for index in 0..8 {
            self.request_word(index, mail.edge[index], Trigger::Edge);
            self.request_word(index, mail.level[index], Trigger::Level);
        }
        if events.take_ext_int() {
            self.ext_int_latched = true;
        }
        if let Some(level) = mail.lint0 {
            events.add(self.set_lint(Lint::Lint0, level));
        }
        if events.has_init() {
            self.publish(mailbox);
        }
        events
    }

    /// Makes the address known to senders. To be called at the start, and after [`Effect::AddressChanged`], [`Self::reset`] and
    /// [`Self::init`].
    pub fn publish(&self, mailbox: &Mailbox) {
        mailbox.publish(self.address());
    }

    /// Returns the highest requested vector above all in service, whatever the task priority: what to offer to the virtual interrupt
    /// of the VMSA, where hardware compares its class with CR8.
    #[must_use]
    pub fn queueable_vector(&self) -> Option<u8> {
        let vector = self.request.highest()?;
        let in_service = self.in_service.highest().unwrap_or(0);
        (self.base.is_enabled() && vector >> 4 > in_service >> 4).then_some(vector)
    }

    /// Returns the vector a processor with open interrupts would take now: above the processor priority too.
    #[must_use]
    pub fn deliverable_vector(&self) -> Option<u8> {
        self.queueable_vector()
            .filter(|vector| vector >> 4 > self.cr8())
    }

    /// Moves a vector that the processor took from IRR to ISR; returns false, and does nothing, if it was not requested.
    pub fn accept(&mut self, vector: u8) -> bool {
        let was_requested = self.request.remove(vector);
        if was_requested {
            self.in_service.insert(vector);
        }
        was_requested
    }

    /// Answers an interrupt acknowledge cycle: takes the deliverable vector, or gives the spurious one (SDM 10.9). The VMSA's virtual
    /// interrupt needs none of it; it is for a processor that asks after it decided to.
    pub fn acknowledge(&mut self) -> u8 {
        match self.deliverable_vector() {
            Some(vector) => {
                self.accept(vector);
                vector
            }
            None => self.spurious.vector(),
        }
    }

    /// Returns whether an interrupt of the 8259 pair would be taken: through LINT0 (or the bare INTR pin of a disabled APIC), or by an
    /// ExtINT message. If so, peek at the 8259 pair.
    #[must_use]
    pub fn wants_ext_int(&self) -> bool {
        if self.lint == [Level::Low; 2] && !self.ext_int_latched {
            return false;
        }
        if !self.base.is_enabled() {
            return self.level(Lint::Lint0) == Level::High;
        }
        let through_pin = [Lint::Lint0, Lint::Lint1].into_iter().any(|pin| {
            let entry = self.local_vectors[pin.entry()];
            let mode = DeliveryMode::from_bits(entry.delivery());
            !entry.is_masked()
                && mode == Some(DeliveryMode::ExtInt)
                && self.level(pin) == Level::High
        });
        self.ext_int_latched || through_pin
    }

    /// Notes that the processor took the vector of an ExtINT.
    pub const fn ext_int_taken(&mut self) {
        self.ext_int_latched = false;
    }

    /// Drives a pin. An 8259 on LINT0 is level-sensitive; NMI, SMI and INIT act on the rise.
    pub fn set_lint(&mut self, pin: Lint, level: Level) -> Option<LocalEvent> {
        let before = core::mem::replace(&mut self.lint[pin.index()], level);
        let rises = before == Level::Low && level == Level::High;
        if !self.base.is_enabled() {
            return (rises && pin == Lint::Lint1).then_some(LocalEvent::Nmi);
        }
        let entry = self.local_vectors[pin.entry()];
        if entry.is_masked() {
            return None;
        }
        match DeliveryMode::from_bits(entry.delivery())? {
            DeliveryMode::Fixed if is_level_pin(pin, entry) => self.evaluate_lint0(),
            DeliveryMode::Fixed if rises => self.request(entry.vector(), Trigger::Edge),
            DeliveryMode::Nmi if rises => return Some(LocalEvent::Nmi),
            DeliveryMode::Smi if rises => return Some(LocalEvent::Smi),
            DeliveryMode::Init if rises => {
                self.init();
                return Some(LocalEvent::Init);
            }
            _ => {}
        }
        None
    }

    /// Raises a local source, whose entry makes it a vector, an event or nothing.
    pub fn raise(&mut self, source: LocalSource) -> Option<LocalEvent> {
        let entry = self.local_vectors[source.entry()];
        if entry.is_masked() {
            return None;
        }
        match DeliveryMode::from_bits(entry.delivery())? {
            DeliveryMode::Fixed => {
                self.request(entry.vector(), Trigger::Edge);
                None
            }
            DeliveryMode::Nmi => Some(LocalEvent::Nmi),
            DeliveryMode::Smi => Some(LocalEvent::Smi),
            _ => None,
        }
    }

    /// Logs an error and raises the error interrupt, once until the guest writes the error status register (SDM 10.5.3).
    pub(super) fn log_error(&mut self, error: Errors) {
        let is_first = self.errors == Errors::new();
        self.errors = Errors::from_bits(self.errors.into_bits() | error.into_bits());
        if is_first {
            self.raise(LocalSource::Error);
        }
    }

    /// Requests a vector that came as a message; an APIC disabled by software takes none (SDM 10.4.7.2).
    pub(super) fn request_external(&mut self, vector: u8, trigger: Trigger) {
        if self.address().accepts_vectors() {
            self.request(vector, trigger);
        }
    }

    /// Ends the highest interrupt in service (SDM 10.8.5), as a write of the register does.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> Effect {
        match self.in_service.take_highest() {
            Some(vector) if self.trigger.contains(vector) => self.end_level(vector),
            _ => Effect::None,
        }
    }

    /// Ends an interrupt that is level-triggered, which few are.
    #[cold]
    fn end_level(&mut self, vector: u8) -> Effect {
        self.end_lint0(vector);
        if self.spurious.suppresses_eoi_broadcast() {
            Effect::None
        } else {
            Effect::EoiBroadcast(vector)
        }
    }

    /// Writes an entry of the local vector table; while disabled by software its mask stays set (SDM 10.4.7.2).
    pub(super) fn write_local_vector(&mut self, place: usize, value: u32, now: Time) {
        self.advance(now);
        let writable = LocalVector::writable(place, self.config.features.tsc_deadline);
        let before = self.local_vectors[place];
        let mut entry = LocalVector::from_bits(value & writable);
        if !self.spurious.is_enabled() {
            entry.set_is_masked(true);
        }
        let is_level = place == lvt::LINT0 && is_level_pin(Lint::Lint0, entry);
        entry.set_remote_irr(is_level && before.remote_irr());
        self.local_vectors[place] = entry;
        if place == lvt::TIMER {
            let (from, to) = (before.timer_mode(), entry.timer_mode());
            self.timer
                .change_mode(Mode::from_bits(from), Mode::from_bits(to));
        }
        if is_level {
            self.evaluate_lint0();
        }
    }

    /// Requests LINT0's vector if the pin is level-triggered, high, and not already being served.
    fn evaluate_lint0(&mut self) {
        let entry = self.local_vectors[lvt::LINT0];
        let is_due = self.level(Lint::Lint0) == Level::High
            && is_level_pin(Lint::Lint0, entry)
            && !entry.is_masked()
            && !entry.remote_irr();
        if is_due {
            self.local_vectors[lvt::LINT0].set_remote_irr(entry.vector() >= 16);
            self.request(entry.vector(), Trigger::Level);
        }
    }

    fn end_lint0(&mut self, vector: u8) {
        let entry = &mut self.local_vectors[lvt::LINT0];
        if entry.remote_irr() && entry.vector() == vector {
            entry.set_remote_irr(false);
            self.evaluate_lint0();
        }
    }

    fn request(&mut self, vector: u8, trigger: Trigger) {
        if vector < 16 {
            self.log_error(Errors::new().with_received_illegal_vector(true));
            return;
        }
        self.request.insert(vector);
        match trigger {
            Trigger::Edge => self.trigger.remove(vector),
            Trigger::Level => {
                self.trigger.insert(vector);
                true
            }
        };
    }

    /// Requests all vectors of one word of a mailbox.
    fn request_word(&mut self, index: usize, bits: u32, trigger: Trigger) {
        if bits == 0 || !self.address().accepts_vectors() {
            return;
        }
        let illegal = if index == 0 { bits & 0xFFFF } else { 0 };
        if illegal != 0 {
            self.log_error(Errors::new().with_received_illegal_vector(true));
        }
        let legal = bits & !illegal;
        self.request.insert_word(index, legal);
        match trigger {
            Trigger::Edge => self.trigger.remove_word(index, legal),
            Trigger::Level => self.trigger.insert_word(index, legal),
        }
    }

    const fn level(&self, pin: Lint) -> Level {
        self.lint[pin.index()]
    }
}

/// Returns whether the pin is a level-triggered fixed interrupt, which LINT1 never is (SDM 10.5.1).
fn is_level_pin(pin: Lint, entry: LocalVector) -> bool {
    pin == Lint::Lint0
        && entry.is_level()
        && DeliveryMode::from_bits(entry.delivery()) == Some(DeliveryMode::Fixed)
}
