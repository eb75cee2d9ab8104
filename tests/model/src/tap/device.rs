//! What a driver's writes to the common configuration say of a device. Virtio 1.2, 4.1.4.3.

use super::SHADOW_BYTES;
use super::lie::{Lie, Who};
use super::queue::Queue;
use crate::host::pci::{Address, Register, VirtioKind};
use alloc::vec::Vec;

/// Registers of the common configuration.
mod common {
    pub(super) const FEATURE_SELECT: u64 = 0x00;
    pub(super) const FEATURES: u64 = 0x04;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_ENABLE: u64 = 0x1C;
    pub(super) const DESCRIPTORS: u64 = 0x20;
    pub(super) const AVAILABLE: u64 = 0x28;
    pub(super) const USED: u64 = 0x30;
    pub(super) const END: u64 = 0x38;
}

/// Where a device is told of its used ring.
pub const USED_REGISTER: Register = Register::Common(common::USED);

/// Status: the driver is ready.
const DRIVER_OK: u64 = 4;
/// Features that would let the device write more of the rings than their used part: event index, packed rings.
const WITHHELD: [u64; 2] = [1 << 29, 1 << 2];
/// Queues a driver of ours uses at most.
const QUEUES: usize = 64;

/// A device.
pub struct Device {
    /// Which function of the bus.
    pub function: usize,
    address: Address,
    kind: VirtioKind,
    select: usize,
    feature_select: u64,
    status: u64,
    /// Its queues.
    pub queues: Vec<Queue>,
}

/// What becomes of a register write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The device is told this.
    Value(u64),
    /// It is told nothing.
    Nothing,
    /// Before it is told, its used ring of this queue goes to `shadow`.
    Divert {
        /// The queue.
        queue: usize,
        /// Where its pages lie for the device.
        shadow: u64,
        /// What it is told.
        value: u64,
    },
}

impl Device {
    pub(super) fn new(function: usize, address: Address, kind: VirtioKind) -> Self {
        Self {
            function,
            address,
            kind,
            select: 0,
            feature_select: 0,
            status: 0,
            queues: Vec::new(),
        }
    }

    /// What lies are told about.
    pub(super) fn who(&self) -> Who {
        Who {
            function: self.function,
            address: self.address,
            kind: self.kind,
            is_live: self.status & DRIVER_OK != 0,
        }
    }

    /// What an honest device would say to a driver that must not see where its used ring is, nor have certain features.
    pub(super) fn honest_read(&self, register: Register, len: usize, value: u64) -> u64 {
        let Register::Common(offset) = register else {
            return value;
        };
        match offset {
            common::FEATURES => {
                let half = usize::try_from(self.feature_select).ok();
                let withheld = half.and_then(|half| WITHHELD.get(half));
                value & !withheld.copied().unwrap_or(0)
            }
            common::USED..common::END => {
                let used = self.queues.get(self.select).map_or(0, |queue| queue.used);
                let shift = 8 * (offset - common::USED);
                let mask = if len >= 8 {
                    u64::MAX
                } else {
                    (1 << (8 * len)) - 1
                };
                used >> shift & mask
            }
            _ => value,
        }
    }

    pub(super) fn write(
        &mut self,
        register: Register,
        len: usize,
        value: u64,
        shadows: u64,
        lie: &dyn Lie,
    ) -> Told {
        let Some(told) = lie.register_write(self.who(), register, len, value) else {
            return Told::Nothing;
        };
        let Register::Common(offset) = register else {
            return Told::Value(told);
        };
        self.keep(offset, len, value);
        if offset == common::QUEUE_ENABLE && value == 1 && self.select < QUEUES {
            return Told::Divert {
                queue: self.select,
                shadow: shadows + self.select as u64 * SHADOW_BYTES,
                value: told,
            };
        }
        Told::Value(told)
    }

    fn keep(&mut self, offset: u64, len: usize, value: u64) {
        match offset {
            common::FEATURE_SELECT => self.feature_select = value,
            common::STATUS => {
                self.status = value;
                if value == 0 {
                    self.queues
                        .iter_mut()
                        .for_each(|queue| queue.is_enabled = false);
                }
            }
            common::QUEUE_SELECT => self.select = usize::try_from(value).unwrap_or(usize::MAX),
            common::QUEUE_SIZE..common::END if self.select < QUEUES => {
                if self.queues.len() <= self.select {
                    self.queues.resize_with(self.select + 1, Queue::default);
                }
                self.keep_queue(offset, len, value);
            }
            _ => {}
        }
    }

    fn keep_queue(&mut self, offset: u64, len: usize, value: u64) {
        let Some(queue) = self.queues.get_mut(self.select) else {
            return;
        };
        let address = match offset & !7 {
            common::DESCRIPTORS => &mut queue.descriptors,
            common::AVAILABLE => &mut queue.available,
            common::USED => &mut queue.used,
            _ => {
                match offset {
                    common::QUEUE_SIZE => queue.size = u16::try_from(value).unwrap_or(0),
                    common::QUEUE_ENABLE => queue.is_enabled = value == 1,
                    _ => {}
                }
                return;
            }
        };
        let shift = 8 * (offset & 7);
        let mask = if len >= 8 {
            u64::MAX
        } else {
            (1 << (8 * len)) - 1
        };
        *address = *address & !(mask << shift) | (value & mask) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::super::lie::Count;
    use super::*;

    struct Honest(Count);

    impl Lie for Honest {
        fn name(&self) -> &'static str {
            "honest"
        }
        fn count(&self) -> &Count {
            &self.0
        }
    }

    fn write(device: &mut Device, offset: u64, len: usize, value: u64) -> Told {
        let honest = Honest(Count::new());
        device.write(Register::Common(offset), len, value, 0x7000_0000, &honest)
    }

    #[test]
    fn a_queue_is_known_from_the_drivers_writes() {
        let mut device = Device::new(0, Address::on_bus_0(0), VirtioKind::Block);
        write(&mut device, 0x16, 2, 1);
        write(&mut device, 0x18, 2, 64);
        for (register, value) in [(0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)] {
            write(&mut device, register, 4, value);
            write(&mut device, register + 4, 4, 0x80);
        }
        let told = write(&mut device, 0x1C, 2, 1);
        let expected = Told::Divert {
            queue: 1,
            shadow: 0x7000_0000 + SHADOW_BYTES,
            value: 1,
        };
        assert_eq!(told, expected);
        let queue = &device.queues[1];
        assert_eq!(queue.size, 64);
        assert_eq!(
            (queue.descriptors, queue.available, queue.used),
            (0x80_0000_1000, 0x80_0000_2000, 0x80_0000_3000)
        );
        write(&mut device, 0x14, 1, 0);
        assert!(!device.queues[1].is_enabled);
    }

    #[test]
    fn the_driver_does_not_see_that_its_ring_is_not_the_devices() {
        let mut device = Device::new(0, Address::on_bus_0(0), VirtioKind::Block);
        write(&mut device, 0x30, 8, 0x80_0000_3000);
        let read = |offset, len, value| device.honest_read(Register::Common(offset), len, value);
        assert_eq!(read(0x30, 4, 0x7000_0000), 0x3000);
        assert_eq!(read(0x34, 4, 0x7000), 0x80);
        assert_eq!(read(0x04, 4, 0xFFFF_FFFF), 0xDFFF_FFFF);
        write(&mut device, 0x00, 4, 1);
        let value = device.honest_read(Register::Common(4), 4, 0xFFFF_FFFF);
        assert_eq!(value, 0xFFFF_FFFB);
    }

    #[test]
    fn a_device_is_live_once_its_driver_says_so() {
        let mut device = Device::new(0, Address::on_bus_0(0), VirtioKind::Net);
        write(&mut device, 0x14, 1, 11);
        assert!(!device.who().is_live);
        write(&mut device, 0x14, 1, 15);
        assert!(device.who().is_live);
    }
}
