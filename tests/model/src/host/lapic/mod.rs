//! One vCPU's local APIC as the host offers it (APM chapter 16): x2APIC through MSR exits, xAPIC for those who map it.
//!
//! [`LocalApic`] keeps the state; time comes in as `now_tsc`, effects go out as values ([`Effect`], [`Accepted`]). The host
//! calls [`LocalApic::poll`] when [`LocalApic::next_deadline_tsc`] has come, then delivers [`LocalApic::pending`].

mod ipi;
mod registers;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use ipi::{DeliveryMode, Ipi, Shorthand};
use timer::Timer;
use vectors::VectorSet;

/// How the APIC is found by its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As after RESET: xAPIC mode, switched off by the spurious-interrupt register.
    XApic,
    /// x2APIC mode, as firmware leaves it; still switched off by the spurious-interrupt register.
    X2Apic,
}

/// The vCPU's part in start-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It starts by itself.
    Boot,
    /// It waits for INIT and SIPI.
    Application,
}

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// What a write does outside the APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// An interprocessor interrupt for every APIC that [`LocalApic::is_addressed_by`] it.
    Ipi(Ipi),
    /// The end of a level-triggered interrupt: tell the IOAPIC.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
    },
}

/// What an interrupt does to the vCPU that accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is dropped.
    Ignored,
    /// It is in the IRR: see [`LocalApic::pending`].
    Queued,
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI with this vector.
    Startup(u8),
}

/// The local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: u64,
    task_priority: u8,
    spurious: u32,
    logical_destination: u32,
    destination_format: u32,
    in_service: VectorSet,
    requested: VectorSet,
    level_triggered: VectorSet,
    interrupt_command: u64,
    local_vectors: [u32; registers::LOCAL_VECTORS],
    timer: Timer,
    error_status: u32,
    errors_since: u32,
}

impl LocalApic {
    /// Returns the APIC of the vCPU with this ID.
    #[must_use]
    pub fn new(id: u32, role: Role, start: Start) -> Self {
        let bootstrap = if role == Role::Boot {
            registers::BASE_BOOTSTRAP
        } else {
            0
        };
        let mode = if start == Start::X2Apic {
            registers::BASE_X2APIC
        } else {
            0
        };
        Self {
            id,
            base: registers::BASE_ADDRESS | registers::BASE_ENABLE | bootstrap | mode,
            task_priority: 0,
            spurious: 0xFF,
            logical_destination: 0,
            destination_format: u32::MAX,
            in_service: VectorSet::default(),
            requested: VectorSet::default(),
            level_triggered: VectorSet::default(),
            interrupt_command: 0,
            local_vectors: [registers::LVT_MASKED; registers::LOCAL_VECTORS],
            timer: Timer::default(),
            error_status: 0,
            errors_since: 0,
        }
    }

    /// INIT: everything but ID and base goes back to its start (APM vol. 2, 16.3.6).
    pub fn init(&mut self) {
        let base = self.base;
        *self = Self::new(self.id, Role::Application, Start::XApic);
        self.base = base;
    }

    /// Returns the APIC ID.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Returns whether the APIC accepts fixed interrupts: bit 8 of the spurious-interrupt register.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.base & registers::BASE_ENABLE != 0 && self.spurious & registers::SPURIOUS_ENABLE != 0
    }

    const fn is_x2apic(&self) -> bool {
        self.base & registers::BASE_X2APIC != 0
    }

    /// Lets time come to `now_tsc`: a timer that is due requests its vector. Returns whether anything was requested.
    pub fn poll(&mut self, now_tsc: u64) -> bool {
        let vector = self.local_vectors[registers::LVT_TIMER];
        if !self.timer.expire(vector, now_tsc) || vector & registers::LVT_MASKED != 0 {
            return false;
        }
        let [vector, ..] = vector.to_le_bytes();
        self.request(vector, false) == Accepted::Queued
    }

    /// Returns when [`LocalApic::poll`] is next to be called, if ever; may lie in the past.
    #[must_use]
    pub fn next_deadline_tsc(&self) -> Option<u64> {
        let masked = self.local_vectors[registers::LVT_TIMER] & registers::LVT_MASKED != 0;
        self.timer.deadline().filter(|_| !masked)
    }

    /// Returns whether an interrupt sent by the APIC with ID `sender` is for this one.
    #[must_use]
    pub fn is_addressed_by(&self, ipi: &Ipi, sender: u32) -> bool {
        match ipi.shorthand {
            Shorthand::Own => self.id == sender,
            Shorthand::All => true,
            Shorthand::Others => self.id != sender,
            Shorthand::None if ipi.logical => self.matches_logical(ipi.destination),
            Shorthand::None => ipi.destination == u32::MAX || ipi.destination == self.id,
        }
    }

    /// Takes an interrupt that [`LocalApic::is_addressed_by`] this APIC.
    pub fn accept(&mut self, ipi: &Ipi) -> Accepted {
        match ipi.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(ipi.vector, ipi.level)
            }
            DeliveryMode::Nmi => Accepted::Nmi,
            DeliveryMode::Init if ipi.assert => Accepted::Init,
            DeliveryMode::Startup => Accepted::Startup(ipi.vector),
            DeliveryMode::Init | DeliveryMode::Smi | DeliveryMode::Other(_) => Accepted::Ignored,
        }
    }

    /// Returns the vector the vCPU is to be given next: the highest requested whose class is above the processor priority.
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (self.is_enabled() && vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The vCPU was given `vector`: it is in service until its EOI.
    pub fn begin(&mut self, vector: u8) {
        self.requested.remove(vector);
        self.in_service.insert(vector);
    }

    /// The vCPU was given `vector` and owes no EOI. Only for edge-triggered ones.
    pub fn begin_without_eoi(&mut self, vector: u8) {
        self.requested.remove(vector);
    }

    /// The vCPU did not get `vector` after all (another took its place on the doorbell page).
    pub fn retract(&mut self, vector: u8) {
        self.in_service.remove(vector);
        self.requested.insert(vector);
    }

    /// Returns whether `vector` is level-triggered, so that an EOI is due.
    #[must_use]
    pub fn is_level_triggered(&self, vector: u8) -> bool {
        self.level_triggered.contains(vector)
    }

    /// PPR: the higher of task priority and the class in service (APM vol. 2, 16.6.4).
    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0) & 0xF0;
        if self.task_priority >> 4 >= in_service >> 4 {
            self.task_priority
        } else {
            in_service
        }
    }

    fn request(&mut self, vector: u8, level: bool) -> Accepted {
        if !self.is_enabled() {
            return Accepted::Ignored;
        }
        if vector < 16 {
            self.report_error(registers::ERROR_RECEIVE_VECTOR);
            return Accepted::Ignored;
        }
        self.requested.insert(vector);
        if level {
            self.level_triggered.insert(vector);
        } else {
            self.level_triggered.remove(vector);
        }
        Accepted::Queued
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else {
            return Effect::None;
        };
        self.in_service.remove(vector);
        if self.level_triggered.contains(vector) {
            Effect::EndOfInterrupt { vector }
        } else {
            Effect::None
        }
    }

    /// x2APIC: cluster in the upper half, members in the lower. xAPIC: flat or cluster of eight bits.
    fn matches_logical(&self, destination: u32) -> bool {
        if destination == u32::MAX {
            return true;
        }
        if self.is_x2apic() {
            let own = self.x2apic_logical_id();
            return destination >> 16 == own >> 16 && destination & own & 0xFFFF != 0;
        }
        let own = self.logical_destination >> 24;
        if self.destination_format >> 28 == 0xF {
            return destination & own != 0;
        }
        destination >> 4 == own >> 4 && destination & own & 0xF != 0
    }

    const fn x2apic_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xF)
    }

    /// Notes an error for the next write of the error status register, and raises the error vector.
    fn report_error(&mut self, error: u32) {
        let is_new = self.errors_since & error == 0;
        self.errors_since |= error;
        let entry = self.local_vectors[registers::LVT_ERROR];
        let [vector, ..] = entry.to_le_bytes();
        if is_new && entry & registers::LVT_MASKED == 0 && vector >= 16 {
            self.request(vector, false);
        }
    }
}
