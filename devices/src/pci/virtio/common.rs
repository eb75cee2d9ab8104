//! The common configuration block: features, status, and each queue's registers (Virtio 1.2, 4.1.4.3).

use alloc::boxed::Box;
use alloc::vec::Vec;

use bitflags::bitflags;
use stockade_bus::Gpa;

use super::layout::COMMON_LEN;
use crate::pci::dwords;
use crate::pci::msix::Vector;
use crate::virtio::{Features, QueueConfig};

/// `VIRTIO_MSI_NO_VECTOR`.
pub const NO_VECTOR: Vector = Vector(0xFFFF);

/// Offsets of the fields.
const DEVICE_FEATURE_SELECT: u32 = 0x00;
const DEVICE_FEATURE: u32 = 0x04;
const DRIVER_FEATURE_SELECT: u32 = 0x08;
const DRIVER_FEATURE: u32 = 0x0C;
const CONFIG_VECTOR: u32 = 0x10;
const DEVICE_STATUS: u32 = 0x14;
const QUEUE_SELECT: u32 = 0x16;
const QUEUE_SIZE: u32 = 0x18;
const QUEUE_VECTOR: u32 = 0x1A;
const QUEUE_ENABLE: u32 = 0x1C;
/// Descriptors, driver area and device area, a quad word each.
const QUEUE_AREAS: u32 = 0x20;

bitflags! {
    /// Device status (2.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DeviceStatus: u8 {
        /// The guest has seen the device.
        const ACKNOWLEDGE = 1;
        /// It knows how to drive it.
        const DRIVER = 2;
        /// The driver runs it.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device cannot go on.
        const NEEDS_RESET = 64;
        /// The guest has given up.
        const FAILED = 128;
    }
}

/// What the block shows of the device.
pub(super) struct Facts {
    pub(super) features: Features,
    pub(super) generation: u8,
    pub(super) needs_reset: bool,
    /// The greatest number of a vector.
    pub(super) last_vector: u16,
}

/// What a write asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing.
    Nothing,
    /// To be as after power-on.
    Reset,
    /// To work with these features; [`Common::accept_features`] says that it will.
    Negotiate(Features),
    /// To start.
    Activate,
}

/// A queue's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) maximum: u16,
    pub(super) size: u16,
    pub(super) vector: Vector,
    pub(super) is_enabled: bool,
    /// Descriptors, driver area, device area.
    pub(super) areas: [u64; 3],
}

impl Queue {
    fn new(maximum: u16) -> Self {
        Self {
            maximum,
            size: maximum,
            vector: NO_VECTOR,
            is_enabled: false,
            areas: [0; 3],
        }
    }

    fn config(&self) -> Option<QueueConfig> {
        let [descriptors, driver, device] = self.areas.map(Gpa);
        self.is_enabled.then_some(QueueConfig {
            size: self.size,
            descriptors,
            driver,
            device,
        })
    }

    /// Returns one of the areas' double words.
    fn area_word(&self, offset: u32) -> u32 {
        let area = self.areas.get(area_index(offset)).copied().unwrap_or(0);
        let [a, b, c, d, e, f, g, h] = area.to_le_bytes();
        if offset & 4 == 0 {
            u32::from_le_bytes([a, b, c, d])
        } else {
            u32::from_le_bytes([e, f, g, h])
        }
    }

    fn set_area_word(&mut self, offset: u32, value: u32) {
        if let Some(area) = self.areas.get_mut(area_index(offset)) {
            let shift = if offset & 4 == 0 { 0 } else { 32 };
            *area = *area & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
        }
    }
}

fn area_index(offset: u32) -> usize {
    let area = offset.wrapping_sub(QUEUE_AREAS) / 8;
    usize::try_from(area).unwrap_or(usize::MAX)
}

/// The block.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: Vector,
    pub(super) status: DeviceStatus,
    pub(super) queue_select: u16,
    pub(super) queues: Box<[Queue]>,
}

impl Common {
    /// Returns the block of a device whose queues have at most as many entries.
    pub(super) fn new(maximum_sizes: Vec<u16>) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: DeviceStatus::empty(),
            queue_select: 0,
            queues: maximum_sizes.into_iter().map(Queue::new).collect(),
        }
    }

    pub(super) fn reset(&mut self) {
        let Self {
            device_feature_select,
            driver_feature_select,
            driver_features,
            config_vector,
            status,
            queue_select,
            queues,
        } = self;
        (*device_feature_select, *driver_feature_select) = (0, 0);
        *driver_features = 0;
        *config_vector = NO_VECTOR;
        *status = DeviceStatus::empty();
        *queue_select = 0;
        for queue in queues {
            *queue = Queue::new(queue.maximum);
        }
    }

    pub(super) fn status(&self) -> DeviceStatus {
        self.status
    }

    pub(super) fn config_vector(&self) -> Vector {
        self.config_vector
    }

    pub(super) fn queue_vector(&self, queue: u16) -> Vector {
        let queue = self.queues.get(usize::from(queue));
        queue.map_or(NO_VECTOR, |queue| queue.vector)
    }

    /// Returns the queues as the device gets them.
    pub(super) fn queues(&self) -> Vec<Option<QueueConfig>> {
        self.queues.iter().map(Queue::config).collect()
    }

    /// The device works with the features that were asked for.
    pub(super) fn accept_features(&mut self) {
        self.status |= DeviceStatus::FEATURES_OK;
    }

    /// Reads at any width.
    pub(super) fn read(&self, offset: u32, data: &mut [u8], facts: &Facts) {
        dwords::read(offset.into(), data, |at| {
            u32::try_from(at).map_or(0, |at| self.dword(at, facts))
        });
    }

    fn dword(&self, offset: u32, facts: &Facts) -> u32 {
        let words = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let queue = self.queues.get(usize::from(self.queue_select));
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select,
            DEVICE_FEATURE => half(facts.features.bits(), self.device_feature_select),
            DRIVER_FEATURE_SELECT => self.driver_feature_select,
            DRIVER_FEATURE => half(self.driver_features, self.driver_feature_select),
            CONFIG_VECTOR => words(self.config_vector.0, self.queue_count()),
            DEVICE_STATUS => {
                let status = self.shown_status(facts).bits();
                let low = u16::from_le_bytes([status, facts.generation]);
                words(low, self.queue_select)
            }
            // A queue that is not there has size 0 (4.1.4.3.1).
            QUEUE_SIZE => queue.map_or(words(0, NO_VECTOR.0), |queue| {
                words(queue.size, queue.vector.0)
            }),
            QUEUE_ENABLE => {
                queue.map_or(0, |queue| words(queue.is_enabled.into(), self.queue_select))
            }
            QUEUE_AREAS..COMMON_LEN => queue.map_or(0, |queue| queue.area_word(offset)),
            _ => 0,
        }
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn shown_status(&self, facts: &Facts) -> DeviceStatus {
        let mut status = self.status;
        status.set(DeviceStatus::NEEDS_RESET, facts.needs_reset);
        status
    }

    /// Writes a field, which must be of its own width (4.1.3.1), an address in one part or two. Other writes do nothing.
    pub(super) fn write(&mut self, offset: u32, data: &[u8], facts: &Facts) -> Asked {
        match *data {
            [byte] if offset == DEVICE_STATUS => return self.write_status(byte),
            [low, high] => self.write_word(offset, u16::from_le_bytes([low, high]), facts),
            [a, b, c, d] => self.write_dword(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if (QUEUE_AREAS..COMMON_LEN).contains(&offset) => {
                self.write_dword(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_dword(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Asked::Nothing
    }

    fn write_status(&mut self, value: u8) -> Asked {
        if value == 0 {
            return Asked::Reset;
        }
        let asked = DeviceStatus::from_bits_truncate(value);
        let new = asked - self.status;
        // A driver does not take bits back but by a reset (2.1.1). FEATURES_OK is for the device to say.
        let mut rest = new - DeviceStatus::FEATURES_OK - DeviceStatus::NEEDS_RESET;
        let are_features_agreed = self.status.contains(DeviceStatus::FEATURES_OK);
        if !are_features_agreed {
            rest -= DeviceStatus::DRIVER_OK;
        }
        self.status |= rest;
        if new.contains(DeviceStatus::FEATURES_OK) {
            Asked::Negotiate(Features::from_bits_retain(self.driver_features))
        } else if rest.contains(DeviceStatus::DRIVER_OK) {
            Asked::Activate
        } else {
            Asked::Nothing
        }
    }

    fn write_word(&mut self, offset: u32, value: u16, facts: &Facts) {
        let vector = if value <= facts.last_vector {
            Vector(value)
        } else {
            NO_VECTOR
        };
        match offset {
            CONFIG_VECTOR => self.config_vector = vector,
            QUEUE_SELECT => self.queue_select = value,
            _ => {
                let is_running = self.status.contains(DeviceStatus::DRIVER_OK);
                let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
                    return;
                };
                match offset {
                    QUEUE_VECTOR => queue.vector = vector,
                    QUEUE_SIZE if !queue.is_enabled && (1..=queue.maximum).contains(&value) => {
                        queue.size = value;
                    }
                    QUEUE_ENABLE if value == 1 && !is_running => queue.is_enabled = true,
                    _ => {}
                }
            }
        }
    }

    fn write_dword(&mut self, offset: u32, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE => self.set_driver_features(value),
            QUEUE_AREAS..COMMON_LEN if offset & 3 == 0 => {
                let queue = self.queues.get_mut(usize::from(self.queue_select));
                if let Some(queue) = queue.filter(|queue| !queue.is_enabled) {
                    queue.set_area_word(offset, value);
                }
            }
            _ => {}
        }
    }

    /// Features stay as they are once they are agreed on (2.1.1).
    fn set_driver_features(&mut self, value: u32) {
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if !self.status.contains(DeviceStatus::FEATURES_OK) {
            let kept = self.driver_features & !(0xFFFF_FFFF << shift);
            self.driver_features = kept | u64::from(value) << shift;
        }
    }
}

/// Returns the 32 feature bits that are selected.
#[expect(clippy::cast_possible_truncation, reason = "one half of the word")]
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
