//! What a device and its driver have agreed, and whether it still holds.

use stockade_bus::GuestMemory;

use super::device::FeaturesRefused;
use super::queue::{Queue, QueueConfig, QueueState};
use super::{Features, Interrupts, Violation};
use crate::RestoreError;

/// The part of a device's state that all devices have.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// What the driver chose, once it did.
    pub(super) features: Features,
    pub(super) is_active: bool,
    pub(super) violation: Option<Violation>,

    pub(super) config_generation: u8,
    is_config_due: bool,
}

/// The state all devices have. It is part of each device's own, and has its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The driver's features.
    pub features: Features,
    /// The driver is ready.
    pub is_active: bool,
    /// The rule the driver broke.
    pub violation: Option<Violation>,
    /// Changes of the configuration.
    pub config_generation: u8,
    /// The driver has yet to be told of one.
    pub is_config_due: bool,
}

impl Link {
    /// Takes the driver's features if the device offers them and they include VERSION_1 (Virtio 1.2, 6.1).
    pub(super) fn negotiate(
        &mut self,
        offered: Features,
        chosen: Features,
    ) -> Result<(), FeaturesRefused> {
        if !offered.contains(chosen) || !chosen.contains(Features::VERSION_1) {
            return Err(FeaturesRefused(chosen));
        }
        self.features = chosen;
        Ok(())
    }

    /// Makes the queues the driver enabled.
    pub(super) fn activate(
        &mut self,
        queues: &mut [Option<Queue>],
        configs: &[Option<QueueConfig>],
        max_size: u16,
        memory: &dyn GuestMemory,
    ) {
        self.is_active = true;
        for (queue, config) in queues.iter_mut().zip(configs) {
            *queue = None;
            let Some(config) = *config else {
                continue;
            };
            match Queue::try_new(config, max_size, self.features, memory) {
                Ok(made) => *queue = Some(made),
                Err(violation) => return self.fail(violation),
            }
        }
    }

    /// Forgets the driver; the configuration stays what it is.
    pub(super) fn reset(&mut self) {
        *self = Self {
            config_generation: self.config_generation,
            ..Self::default()
        };
    }

    /// Returns whether queues may be looked at.
    pub(super) fn is_running(&self) -> bool {
        self.is_active && self.violation.is_none()
    }

    /// Notes that the driver broke a rule. The first one counts.
    pub(super) fn fail(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.violation = Some(violation);
            self.is_config_due = true;
        }
    }

    /// Notes what became of work on a ring.
    pub(super) fn check<T: Default>(&mut self, outcome: Result<T, Violation>) -> T {
        outcome.unwrap_or_else(|violation| {
            self.fail(violation);
            T::default()
        })
    }

    /// Notes that the device changed its configuration.
    pub(super) fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        self.is_config_due = true;
    }

    /// Takes what the driver is to be told of; nothing before it is ready.
    pub(super) fn take_interrupts(
        &mut self,
        queues: &mut [Option<Queue>],
        memory: &dyn GuestMemory,
    ) -> Interrupts {
        self.take_interrupts_but(0, queues, memory)
    }

    /// The same, but for some queues, a bit each: what the driver is to be told of those stays for a later call.
    pub(super) fn take_interrupts_but(
        &mut self,
        put_off: u64,
        queues: &mut [Option<Queue>],
        memory: &dyn GuestMemory,
    ) -> Interrupts {
        let mut interrupts = Interrupts::default();
        if self.is_running() {
            for (index, queue) in (0..64).zip(queues) {
                if put_off >> index & 1 != 0 {
                    continue;
                }
                let signal = queue.as_mut().map(|queue| queue.take_signal(memory));
                if self.check(signal.unwrap_or(Ok(false))) {
                    interrupts.queues |= 1 << index;
                }
            }
        }
        interrupts.config = self.is_active && core::mem::take(&mut self.is_config_due);
        interrupts
    }

    pub(super) fn save(&self) -> LinkState {
        let Self {
            features,
            is_active,
            violation,
            config_generation,
            is_config_due,
        } = self;
        LinkState {
            features: *features,
            is_active: *is_active,
            violation: *violation,
            config_generation: *config_generation,
            is_config_due: *is_config_due,
        }
    }

    pub(super) fn try_restore(state: &LinkState, offered: Features) -> Result<Self, RestoreError> {
        if !offered.contains(state.features) {
            return Err(RestoreError::Impossible("virtio features"));
        }
        Ok(Self {
            features: state.features,
            is_active: state.is_active,
            violation: state.violation,
            config_generation: state.config_generation,
            is_config_due: state.is_config_due,
        })
    }

    /// Makes the queues of a saved state.
    pub(super) fn try_restore_queues<M: GuestMemory + ?Sized>(
        &self,
        queues: &mut [Option<Queue>],
        states: &[Option<QueueState>],
        max_size: u16,
        memory: &M,
    ) -> Result<(), RestoreError> {
        if states.len() != queues.len() {
            return Err(RestoreError::Impossible("number of virtqueues"));
        }
        for (queue, state) in queues.iter_mut().zip(states) {
            let restored = state
                .as_ref()
                .map(|state| Queue::try_restore(state, max_size, self.features, memory));
            *queue = restored.transpose()?;
        }
        Ok(())
    }

    /// Checks that what each queue has in flight is what the device holds of it. A broken device may have dropped some.
    pub(super) fn check_in_flight(
        &self,
        queues: &[Option<Queue>],
        held: &[u16],
    ) -> Result<(), RestoreError> {
        let in_flight = queues
            .iter()
            .map(|queue| queue.as_ref().map_or(0, Queue::in_flight));
        if self.is_running() && !in_flight.eq(held.iter().copied()) {
            return Err(RestoreError::Impossible("chains in flight"));
        }
        Ok(())
    }
}
