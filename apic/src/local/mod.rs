//! The local APIC: one a vCPU, owned by it (SDM 10.4 to 10.12, APM vol. 2, 16.3 to 16.10).
//!
//! Start from [`LocalApic`]. A guest's register accesses come in by [`LocalApic::read_mmio`] and [`LocalApic::read_msr`] and their
//! siblings; a write returns an [`Effect`] for the run loop to carry out. Interrupts come in by [`LocalApic::deliver_remote`] (other
//! vCPUs and devices), [`LocalApic::set_lint`] and [`LocalApic::advance`] (the timer), and go out by [`LocalApic::queueable_vector`]
//! and [`LocalApic::accept`].
//!
//! The version is 0x14 with six LVT entries, as on other virtual machines; there is no extended register space. The APIC ID is
//! read-only. The performance-counter entry is not masked by its own interrupt, which is what AMD parts do.

mod address;
mod base;
mod command;
mod interrupts;
mod registers;
mod saved;
mod timer;
mod x2apic;
mod xapic;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod tests;

pub use address::Address;
pub use command::{Ipi, IpiDestination};
pub use interrupts::{Lint, LocalEvent, LocalSource};
pub use saved::SavedLocalApic;
pub use timer::{BUS_CLOCK_HZ, Time, TimerDeadline};
pub use x2apic::{MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC};

use self::registers::{
    Base, Command, DIVIDE_WRITABLE, Errors, FORMAT_WRITABLE, LocalVector, Register, Spurious, lvt,
};
use self::timer::{Mode, Timer};
use crate::vectors::VectorSet;
use stockade_bus::Level;

/// Version 0x14, six LVT entries (SDM 10.4.8).
const VERSION: u32 = 0x0005_0014;
/// Set in the version if the spurious vector register can suppress EOI broadcasts.
const VERSION_EOI_SUPPRESSION: u32 = 1 << 24;

/// What a vCPU is at power-on (SDM 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs the firmware.
    Bootstrap,
    /// It waits for a start-up IPI.
    Application,
}

/// What CPUID and the version register promise the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// x2APIC mode, CPUID 1 ECX bit 21.
    pub x2apic: bool,
    /// The timer's TSC-deadline mode, CPUID 1 ECX bit 24.
    pub tsc_deadline: bool,
    /// Suppression of EOI broadcasts (SDM 10.8.5), bit 24 of the version register.
    pub eoi_suppression: bool,
}

/// The fixed properties of a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The full APIC ID. In xAPIC mode only its low eight bits show.
    pub id: u32,
    /// Bootstrap or application processor.
    pub role: Role,
    /// What is offered to the guest.
    pub features: Features,
    /// The width of guest-physical addresses, 36 to 52.
    pub physical_address_bits: u8,
}

/// The access faults with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("general protection fault")]
pub struct GeneralProtection;

/// What the run loop has to do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this IPI ([`route::send_ipi`](crate::route::send_ipi)).
    Ipi(Ipi),
    /// Tell the IOAPICs of the end of this level-triggered vector.
    EoiBroadcast(u8),
    /// The APIC answers to other destinations now: [`LocalApic::publish`]. Its page may have moved or vanished too.
    AddressChanged,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: Config,

    base: Base,
    task_priority: u8,
    logical: u8,
    /// Bits 31:28 of the destination format register.
    format: u32,
    spurious: Spurious,
    in_service: VectorSet,
    trigger: VectorSet,
    request: VectorSet,
    error_status: Errors,
    command: Command,
    local_vectors: [LocalVector; lvt::COUNT],
    timer: Timer,

    /// Errors since the last write to the error status register.
    errors: Errors,
    /// An ExtINT message came and no vector was taken from the 8259 since.
    ext_int_latched: bool,
    /// The levels on LINT0 and LINT1.
    lint: [Level; 2],
}

impl LocalApic {
    /// Returns a local APIC as it is after power-on.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let is_bootstrap = config.role == Role::Bootstrap;
        Self {
            config,
            base: Base::new()
                .with_frame(base::DEFAULT_FRAME)
                .with_is_enabled(true)
                .with_is_bootstrap(is_bootstrap),
            task_priority: 0,
            logical: 0,
            format: FORMAT_WRITABLE,
            spurious: Spurious::new().with_vector(0xFF),
            in_service: VectorSet::default(),
            trigger: VectorSet::default(),
            request: VectorSet::default(),
            error_status: Errors::new(),
            command: Command::new(),
            local_vectors: [LocalVector::RESET; lvt::COUNT],
            timer: Timer::default(),
            errors: Errors::new(),
            ext_int_latched: false,
            lint: [Level::Low; 2],
        }
    }

    /// Resets to the power-on state; the pins keep their levels.
    pub fn reset(&mut self) {
        let lint = self.lint;
        *self = Self::new(self.config);
        self.lint = lint;
    }

    /// Resets as an INIT does: everything but IA32_APIC_BASE, and so the mode, address and BSP flag (SDM 10.4.7.3).
    pub fn init(&mut self) {
        let base = self.base;
        self.reset();
        self.base = base;
    }

    /// Sets the pins up as PC firmware leaves them for a system that knows no APIC: the 8259 pair on LINT0, NMI on LINT1
    /// (MP specification 1.4, 3.6.2.1). For guests that start without firmware.
    pub fn set_virtual_wire(&mut self) {
        self.spurious = self.spurious.with_is_enabled(true);
        self.local_vectors[lvt::LINT0] = LocalVector::new().with_delivery(7);
        self.local_vectors[lvt::LINT1] = LocalVector::new().with_delivery(4);
    }

    /// Returns the fixed properties.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Returns what decides whether a message is for this APIC.
    #[must_use]
    pub fn address(&self) -> Address {
        let is_enabled = self.base.is_enabled();
        Address {
            id: self.config.id,
            logical: self.logical,
            is_x2apic: self.base.is_x2apic(),
            is_cluster: self.format == 0,
            is_enabled,
            accepts_vectors: is_enabled && self.spurious.is_enabled(),
        }
    }

    /// Returns the task priority register.
    #[must_use]
    pub const fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Returns the task priority as CR8 and `v_tpr` hold it: its class.
    #[must_use]
    pub const fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Takes over CR8 as the guest left it in `v_tpr`. The sub-class survives if the class did not change.
    pub const fn set_cr8(&mut self, class: u8) {
        let class = class & 0xF;
        if class != self.cr8() {
            self.task_priority = class << 4;
        }
    }

    /// Returns the processor priority register (SDM 10.8.3.1).
    #[must_use]
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0) & 0xF0;
        if self.task_priority & 0xF0 >= in_service {
            self.task_priority
        } else {
            in_service
        }
    }

    /// Returns when the timer fires next; `None` while nothing would come of it.
    #[must_use]
    pub fn deadline(&self) -> Option<TimerDeadline> {
        if self.local_vectors[lvt::TIMER].is_masked() {
            None
        } else {
            self.timer.deadline()
        }
    }

    /// Fires the timer if it is due and returns whether it raised its interrupt. A masked expiry is lost, as on silicon.
    pub fn advance(&mut self, now: Time) -> bool {
        let fires = self.timer.advance(self.timer_mode(), now)
            && !self.local_vectors[lvt::TIMER].is_masked();
        if fires {
            self.raise(LocalSource::Timer);
        }
        fires
    }

    /// Returns a register that is the same in both modes.
    fn read_register(&mut self, register: Register, now: Time) -> Option<u32> {
        if let Some(word) = register.place_in(Register::IN_SERVICE, 8) {
            return Some(self.in_service.words()[word]);
        }
        if let Some(word) = register.place_in(Register::TRIGGER_MODE, 8) {
            return Some(self.trigger.words()[word]);
        }
        if let Some(word) = register.place_in(Register::REQUEST, 8) {
            return Some(self.request.words()[word]);
        }
        if let Some(place) = register.place_in(Register::LVT, 6) {
            return Some(self.local_vectors[place].into_bits());
        }
        Some(match register {
            Register::VERSION => self.version(),
            Register::TASK_PRIORITY => u32::from(self.task_priority),
            Register::PROCESSOR_PRIORITY => u32::from(self.processor_priority()),
            Register::SPURIOUS => self.spurious.into_bits(),
            Register::ERROR_STATUS => self.error_status.into_bits(),
            Register::INITIAL_COUNT => self.timer.initial,
            Register::CURRENT_COUNT => {
                self.advance(now);
                self.timer.current(now)
            }
            Register::DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// Writes a register that is the same in both modes. Bits that are reserved there are ignored here.
    fn write_register(&mut self, register: Register, value: u32, now: Time) -> Option<Effect> {
        if let Some(place) = register.place_in(Register::LVT, 6) {
            self.write_local_vector(place, value, now);
            return Some(Effect::None);
        }
        match register {
            Register::TASK_PRIORITY => [self.task_priority, ..] = value.to_le_bytes(),
            Register::END_OF_INTERRUPT => return Some(self.end_of_interrupt()),
            Register::SPURIOUS => return Some(self.write_spurious(value, now)),
            Register::ERROR_STATUS => {
                self.error_status = core::mem::take(&mut self.errors);
            }
            Register::INITIAL_COUNT => {
                self.advance(now);
                self.timer.start(value, self.timer_mode(), now);
            }
            Register::DIVIDE => {
                self.advance(now);
                self.timer.set_divide(value & DIVIDE_WRITABLE, now);
            }
            _ => return None,
        }
        Some(Effect::None)
    }

    fn version(&self) -> u32 {
        if self.config.features.eoi_suppression {
            VERSION | VERSION_EOI_SUPPRESSION
        } else {
            VERSION
        }
    }

    fn timer_mode(&self) -> Mode {
        Mode::from_bits(self.local_vectors[lvt::TIMER].timer_mode())
    }

    fn spurious_writable(&self) -> u32 {
        Spurious::new()
            .with_vector(0xFF)
            .with_is_enabled(true)
            .with_no_focus_check(true)
            .with_suppresses_eoi_broadcast(self.config.features.eoi_suppression)
            .into_bits()
    }

    /// Disabling by software masks the local vector table (SDM 10.4.7.2).
    fn write_spurious(&mut self, value: u32, now: Time) -> Effect {
        self.advance(now);
        let was_enabled = self.spurious.is_enabled();
        self.spurious = Spurious::from_bits(value & self.spurious_writable());
        if !self.spurious.is_enabled() {
            for entry in &mut self.local_vectors {
                entry.set_is_masked(true);
            }
        }
        if was_enabled == self.spurious.is_enabled() {
            Effect::None
        } else {
            Effect::AddressChanged
        }
    }
}
