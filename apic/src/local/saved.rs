//! Saved state of the local APIC.

use stockade_bus::Level;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::registers::{
    Base, Command, DIVIDE_WRITABLE, Errors, FORMAT_WRITABLE, LocalVector, Spurious, lvt,
};
use super::timer::{Countdown, Mode, Timer};
use super::{Config, LocalApic};
use crate::saved::{Register, RestoreError, check, check_version};
use crate::vectors::VectorSet;

const VERSION: u32 = 1;

const STOPPED: u32 = 0;
const ZERO_AT: u32 = 1;
const TSC: u32 = 2;

const LINT0_HIGH: u32 = 1 << 0;
const LINT1_HIGH: u32 = 1 << 1;
const EXT_INT_LATCHED: u32 = 1 << 2;

/// The state of a local APIC. Its moments are those of the clocks the APIC runs by: they must go on where they stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedLocalApic {
    pub(super) version: u32,
    pub(super) id: u32,
    pub(super) base: u64,
    pub(super) command: u64,
    /// What `countdown` counts to: guest nanoseconds or TSC.
    pub(super) timer_moment: u64,
    pub(super) countdown: u32,
    pub(super) timer_initial: u32,
    pub(super) timer_divide: u32,
    pub(super) task_priority: u32,
    pub(super) logical: u32,
    pub(super) format: u32,
    pub(super) spurious: u32,
    pub(super) error_status: u32,
    pub(super) errors: u32,
    pub(super) wires: u32,
    pub(super) local_vectors: [u32; lvt::COUNT],
    pub(super) in_service: [u32; 8],
    pub(super) trigger: [u32; 8],
    pub(super) request: [u32; 8],
}

const _: () = assert!(size_of::<SavedLocalApic>() == 192);

impl LocalApic {
    /// Returns the state. The mailbox must have been drained: its contents are not part of it.
    #[must_use]
    pub fn save(&self) -> SavedLocalApic {
        let Self {
            config: Config { id, .. },
            base,
            task_priority,
            logical,
            format,
            spurious,
            in_service,
            trigger,
            request,
            error_status,
            command,
            local_vectors,
            timer:
                Timer {
                    initial,
                    divide,
                    countdown,
                },
            errors,
            ext_int_latched,
            lint,
        } = self;
        let (countdown, timer_moment) = match *countdown {
            Countdown::Stopped => (STOPPED, 0),
            Countdown::ZeroAt(ns) => (ZERO_AT, ns),
            Countdown::Tsc(tsc) => (TSC, tsc),
        };
        SavedLocalApic {
            version: VERSION,
            id: *id,
            base: base.into_bits(),
            command: command.into_bits(),
            timer_moment,
            countdown,
            timer_initial: *initial,
            timer_divide: *divide,
            task_priority: u32::from(*task_priority),
            logical: u32::from(*logical),
            format: *format,
            spurious: spurious.into_bits(),
            error_status: error_status.into_bits(),
            errors: errors.into_bits(),
            wires: flag(lint[0] == Level::High, LINT0_HIGH)
                | flag(lint[1] == Level::High, LINT1_HIGH)
                | flag(*ext_int_latched, EXT_INT_LATCHED),
            local_vectors: local_vectors.map(LocalVector::into_bits),
            in_service: in_service.words(),
            trigger: trigger.words(),
            request: request.words(),
        }
    }

    /// Takes over a saved state, or refuses it and changes nothing. [`Self::publish`] afterwards.
    pub fn restore(&mut self, saved: &SavedLocalApic) -> Result<(), RestoreError> {
        let SavedLocalApic {
            version,
            id,
            base,
            command,
            timer_moment: _,
            countdown: _,
            timer_initial: _,
            timer_divide: _,
            task_priority,
            logical,
            format,
            spurious,
            error_status,
            errors,
            wires,
            local_vectors,
            in_service,
            trigger,
            request,
        } = *saved;
        check_version(version, VERSION)?;
        if id != self.config.id {
            return Err(RestoreError::Identity(id));
        }
        let priority = u8::try_from(task_priority);
        let logical = u8::try_from(logical);
        let restored = Self {
            config: self.config,
            base: self.restored_base(base)?,
            task_priority: priority.map_err(|_| RestoreError::Register(Register::TaskPriority))?,
            logical: logical.map_err(|_| RestoreError::Register(Register::LogicalDestination))?,
            format,
            spurious: Spurious::from_bits(spurious),
            in_service: restored_vectors(in_service)?,
            trigger: restored_vectors(trigger)?,
            request: restored_vectors(request)?,
            error_status: restored_errors(error_status)?,
            command: restored_command(command)?,
            local_vectors: local_vectors.map(LocalVector::from_bits),
            timer: restored_timer(saved)?,
            errors: restored_errors(errors)?,
            ext_int_latched: wires & EXT_INT_LATCHED != 0,
            lint: [LINT0_HIGH, LINT1_HIGH].map(|bit| Level::from(wires & bit != 0)),
        };
        let all_wires = LINT0_HIGH | LINT1_HIGH | EXT_INT_LATCHED;
        check(wires & !all_wires == 0, Register::Wires)?;
        check(format & !FORMAT_WRITABLE == 0, Register::LogicalDestination)?;
        check(
            spurious & !self.spurious_writable() == 0,
            Register::Spurious,
        )?;
        restored.check_local_vectors()?;
        *self = restored;
        Ok(())
    }

    fn restored_base(&self, bits: u64) -> Result<Base, RestoreError> {
        let base = Base::from_bits(bits);
        let is_mode = base.is_enabled() || !base.is_x2apic();
        let is_ours = bits & !self.base_writable() == 0;
        check(is_mode && is_ours, Register::Base)?;
        Ok(base)
    }

    fn check_local_vectors(&self) -> Result<(), RestoreError> {
        for (place, entry) in self.local_vectors.iter().enumerate() {
            let mut allowed = LocalVector::writable(place, self.config.features.tsc_deadline);
            if place == lvt::LINT0 && entry.is_level() && entry.delivery() == 0 {
                allowed |= LocalVector::new().with_remote_irr(true).into_bits();
            }
            let is_masked = entry.is_masked() || self.spurious.is_enabled();
            check(
                entry.into_bits() & !allowed == 0 && is_masked,
                Register::LocalVector,
            )?;
        }
        let has_mode = match (self.timer_mode(), self.timer.countdown) {
            (_, Countdown::Stopped) => true,
            (Mode::OneShot | Mode::Periodic, Countdown::ZeroAt(_)) => self.timer.initial != 0,
            (Mode::TscDeadline, Countdown::Tsc(tsc)) => tsc != 0,
            _ => false,
        };
        check(has_mode, Register::Timer)
    }
}

fn restored_vectors(words: [u32; 8]) -> Result<VectorSet, RestoreError> {
    let vectors = VectorSet::from_words(words);
    check(!vectors.has_illegal(), Register::Vectors)?;
    Ok(vectors)
}

fn restored_errors(bits: u32) -> Result<Errors, RestoreError> {
    let possible = Errors::new()
        .with_sent_illegal_vector(true)
        .with_received_illegal_vector(true)
        .with_illegal_register(true);
    check(bits & !possible.into_bits() == 0, Register::ErrorStatus)?;
    Ok(Errors::from_bits(bits))
}

fn restored_command(bits: u64) -> Result<Command, RestoreError> {
    let possible = u64::from(u32::MAX) << 32 | u64::from(Command::WRITABLE_LOW);
    check(bits & !possible == 0, Register::Command)?;
    Ok(Command::from_bits(bits))
}

fn restored_timer(saved: &SavedLocalApic) -> Result<Timer, RestoreError> {
    check(saved.timer_divide & !DIVIDE_WRITABLE == 0, Register::Timer)?;
    let countdown = match saved.countdown {
        STOPPED => Countdown::Stopped,
        ZERO_AT => Countdown::ZeroAt(saved.timer_moment),
        TSC => Countdown::Tsc(saved.timer_moment),
        _ => return Err(RestoreError::Register(Register::Timer)),
    };
    Ok(Timer {
        initial: saved.timer_initial,
        divide: saved.timer_divide,
        countdown,
    })
}

fn flag(is_set: bool, bit: u32) -> u32 {
    if is_set { bit } else { 0 }
}
