//! The transport's saved state. The device behind it saves its own.

use alloc::vec::Vec;

use stockade_bus::{GuestMemory, Level};

use super::common::{Common, DeviceStatus, Queue};
use super::{ISR_CONFIG, ISR_QUEUE, VirtioPci};
use crate::RestoreError;
use crate::pci::{EndpointState, Vector};
use crate::state::check_version;
use crate::virtio::{VirtioDevice, Work};

/// A queue's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Entries.
    pub size: u16,
    /// Its vector.
    pub vector: u16,
    /// Whether the driver enabled it.
    pub is_enabled: bool,
    /// Descriptors, driver area, device area.
    pub areas: [u64; 3],
}

/// The transport's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioPciState {
    /// Format version: 1.
    pub version: u32,
    /// Configuration space and MSI-X.
    pub endpoint: EndpointState,
    /// Which half of the device's features shows.
    pub device_feature_select: u32,
    /// Which half of the driver's features shows.
    pub driver_feature_select: u32,
    /// The features the driver chose.
    pub driver_features: u64,
    /// The vector of configuration changes.
    pub config_vector: u16,
    /// Device status.
    pub status: u8,
    /// Which queue's registers show.
    pub queue_select: u16,
    /// The queues.
    pub queues: Vec<QueueState>,
    /// ISR status.
    pub isr: u8,
    /// Whether the device has work left over.
    pub has_work: bool,
}

impl<D: VirtioDevice, M: GuestMemory> VirtioPci<D, M> {
    /// Returns the state to save, without the device's.
    #[must_use]
    pub fn save(&self) -> VirtioPciState {
        let Self {
            memory: _,
            device: _,
            window: _,
            endpoint,
            common,
            isr,
            work,
        } = self;
        let Common {
            device_feature_select,
            driver_feature_select,
            driver_features,
            config_vector,
            status,
            queue_select,
            queues,
        } = common;
        VirtioPciState {
            version: 1,
            endpoint: endpoint.save(),
            device_feature_select: *device_feature_select,
            driver_feature_select: *driver_feature_select,
            driver_features: *driver_features,
            config_vector: config_vector.0,
            status: status.bits(),
            queue_select: *queue_select,
            queues: queues.iter().map(save_queue).collect(),
            isr: *isr,
            has_work: *work == Work::More,
        }
    }

    /// Takes a saved state. The device takes its own, by `restore_device`, which is called only if the transport's state is possible.
    pub fn restore<E: From<RestoreError>>(
        &mut self,
        state: &VirtioPciState,
        restore_device: impl FnOnce(&mut D) -> Result<(), E>,
    ) -> Result<(), E> {
        check_version(state.version, 1)?;
        let common = self.restored_common(state)?;
        if state.isr & !(ISR_QUEUE | ISR_CONFIG) != 0 {
            return Err(RestoreError::Impossible("ISR status").into());
        }
        self.reset_device();
        self.endpoint.restore(&state.endpoint)?;
        restore_device(&mut self.device)?;
        self.common = common;
        self.isr = state.isr;
        self.endpoint.set_interrupt(Level::from(state.isr != 0));
        self.work = if state.has_work {
            Work::More
        } else {
            Work::Done
        };
        Ok(())
    }

    fn restored_common(&self, state: &VirtioPciState) -> Result<Common, RestoreError> {
        let mut common = self.common.clone();
        if state.queues.len() != common.queues.len() {
            return Err(RestoreError::Impossible("number of queues"));
        }
        let last_vector = self.device.queue_count();
        let vector = |number| {
            if number <= last_vector || number == super::NO_VECTOR.0 {
                Ok(Vector(number))
            } else {
                Err(RestoreError::Impossible("vector"))
            }
        };
        for (queue, saved) in common.queues.iter_mut().zip(&state.queues) {
            if !(1..=queue.maximum).contains(&saved.size) && saved.size != queue.maximum {
                return Err(RestoreError::Impossible("queue size"));
            }
            *queue = Queue {
                maximum: queue.maximum,
                size: saved.size,
                vector: vector(saved.vector)?,
                is_enabled: saved.is_enabled,
                areas: saved.areas,
            };
        }
        let status = DeviceStatus::from_bits(state.status);
        let impossible = DeviceStatus::NEEDS_RESET;
        common.status = status
            .filter(|status| !status.intersects(impossible))
            .ok_or(RestoreError::Impossible("device status"))?;
        common.device_feature_select = state.device_feature_select;
        common.driver_feature_select = state.driver_feature_select;
        common.driver_features = state.driver_features;
        common.config_vector = vector(state.config_vector)?;
        common.queue_select = state.queue_select;
        Ok(common)
    }
}

fn save_queue(queue: &Queue) -> QueueState {
    let Queue {
        maximum: _,
        size,
        vector,
        is_enabled,
        areas,
    } = *queue;
    QueueState {
        size,
        vector: vector.0,
        is_enabled,
        areas,
    }
}
