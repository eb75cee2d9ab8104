//! One modern virtio function of the host (virtio 1.2, sections 3.1 and 4.1.4.3).
//!
//! [`Transport::open`] finds its registers and resets it; [`Transport::negotiate`], [`Transport::set_queue`] and
//! [`Transport::start`] follow in this order. Features, queue sizes and the device's own words are read once and kept;
//! [`Transport::check`] sees whether the device still says the same.

use bitflags::bitflags;

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::pci::{self, DeviceType, Regions};
use crate::queue::Addresses;

bitflags! {
    /// Features any device may have (virtio 1.2, section 6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommonFeatures: u64 {
        /// A descriptor may name a table of descriptors.
        const INDIRECT = 1 << 28;
        /// Either side says at which index it wants to hear of the other.
        const EVENT_INDEX = 1 << 29;
        /// The device is a modern one.
        const VERSION_1 = 1 << 32;
        /// The device reaches memory as the platform allows it to.
        const ACCESS_PLATFORM = 1 << 33;
    }
}

/// Registers of the common configuration.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u32 = 0x00;
    pub(super) const DEVICE_FEATURE: u32 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u32 = 0x08;
    pub(super) const DRIVER_FEATURE: u32 = 0x0C;
    pub(super) const CONFIG_VECTOR: u32 = 0x10;
    pub(super) const QUEUE_COUNT: u32 = 0x12;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const GENERATION: u32 = 0x15;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_VECTOR: u32 = 0x1A;
    pub(super) const QUEUE_ENABLE: u32 = 0x1C;
    pub(super) const QUEUE_NOTIFY_OFFSET: u32 = 0x1E;
    pub(super) const QUEUE_DESCRIPTORS: u32 = 0x20;
    pub(super) const QUEUE_DRIVER: u32 = 0x28;
    pub(super) const QUEUE_DEVICE: u32 = 0x30;
}

/// Device status (virtio 1.2, section 2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u8 = 1;
    pub(super) const DRIVER: u8 = 2;
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
    pub(super) const RUNNING: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

/// How often a device is asked whether its reset is over.
const RESET_TRIES: u32 = 1000;
/// How often configuration is read again because it changed meanwhile.
const CONFIG_TRIES: u32 = 4;
const NO_VECTOR: u16 = 0xFFFF;

/// Where the interrupts of a device go: a processor's doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The processor.
    pub apic_id: u8,
    /// The vector its doorbell shows for what the queues have.
    pub vector: u8,
    /// The vector it shows when the device has changed.
    pub change_vector: u8,
}

/// Where a queue is notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyRegister {
    address: u64,
    queue: u16,
}

impl NotifyRegister {
    /// Tells the device to look at the queue.
    pub fn notify(self, bus: &mut impl HostBus) -> Result<(), BackendError> {
        Ok(bus.register_write(self.address, &self.queue.to_le_bytes())?)
    }
}

/// A function of the host.
#[derive(Debug)]
pub struct Transport {
    function: Function,
    regions: Regions,
    offered: u64,
}

impl Transport {
    /// Finds the registers of the function, which must be of this type, and resets it.
    pub fn open(
        bus: &mut impl HostBus,
        function: Function,
        device_type: DeviceType,
    ) -> Result<Self, BackendError> {
        let regions = pci::open(bus, function, device_type)?;
        let transport = Self {
            function,
            regions,
            offered: 0,
        };
        transport.reset(bus)?;
        Ok(transport)
    }

    /// Returns which function it is.
    #[must_use]
    pub fn function(&self) -> Function {
        self.function
    }

    /// Stops the device.
    pub fn reset(&self, bus: &mut impl HostBus) -> Result<(), BackendError> {
        self.write(bus, common::STATUS, &[0])?;
        for _ in 0..RESET_TRIES {
            if self.status(bus)? == 0 {
                return Ok(());
            }
        }
        Err(BackendError::Gone(self.status(bus)?))
    }

    /// Agrees on features: all of `wanted` that are offered, all of `needed` or none.
    pub fn negotiate(
        &mut self,
        bus: &mut impl HostBus,
        needed: u64,
        wanted: u64,
    ) -> Result<u64, BackendError> {
        self.negotiate_by(bus, needed, |_| wanted)
    }

    /// The same, when what is wanted depends on what is offered.
    pub fn negotiate_by(
        &mut self,
        bus: &mut impl HostBus,
        needed: u64,
        wanted: impl FnOnce(u64) -> u64,
    ) -> Result<u64, BackendError> {
        self.write(bus, common::STATUS, &[status::ACKNOWLEDGE])?;
        let driver = status::ACKNOWLEDGE | status::DRIVER;
        self.write(bus, common::STATUS, &[driver])?;
        self.offered = self.read_offered(bus)?;
        let needed = needed | (CommonFeatures::VERSION_1 | CommonFeatures::ACCESS_PLATFORM).bits();
        if self.offered & needed != needed {
            return Err(BackendError::Lacks("a feature the driver needs"));
        }
        let agreed = self.offered & (needed | wanted(self.offered));
        let [a, b, c, d, e, f, g, h] = agreed.to_le_bytes();
        for (select, half) in [(0_u32, [a, b, c, d]), (1, [e, f, g, h])] {
            self.write(bus, common::DRIVER_FEATURE_SELECT, &select.to_le_bytes())?;
            self.write(bus, common::DRIVER_FEATURE, &half)?;
        }
        self.write(bus, common::STATUS, &[driver | status::FEATURES_OK])?;
        if self.status(bus)? & status::FEATURES_OK == 0 {
            return Err(BackendError::FeaturesRefused);
        }
        Ok(agreed)
    }

    fn read_offered(&self, bus: &mut impl HostBus) -> Result<u64, BackendError> {
        let mut offered = 0;
        for select in 0..2_u32 {
            self.write(bus, common::DEVICE_FEATURE_SELECT, &select.to_le_bytes())?;
            let half = self.read_u32(bus, common::DEVICE_FEATURE)?;
            offered |= u64::from(half) << (32 * select);
        }
        Ok(offered)
    }

    /// Returns how many queues the device has.
    pub fn queue_count(&self, bus: &mut impl HostBus) -> Result<u16, BackendError> {
        self.read_u16(bus, common::QUEUE_COUNT)
    }

    /// Returns the greatest size of a queue; 0 if there is no such queue.
    pub fn queue_size(&self, bus: &mut impl HostBus, queue: u16) -> Result<u16, BackendError> {
        self.write(bus, common::QUEUE_SELECT, &queue.to_le_bytes())?;
        self.read_u16(bus, common::QUEUE_SIZE)
    }

    /// Has the device signal `doorbell`: changes by entry 0 of the MSI-X table, all queues by entry 1.
    pub fn route(&self, bus: &mut impl HostBus, doorbell: Doorbell) -> Result<(), BackendError> {
        let Some((table, capability)) = self.regions.msix else {
            return Err(BackendError::Lacks("MSI-X"));
        };
        let address = 0xFEE0_0000 | u32::from(doorbell.apic_id) << 12;
        for (entry, vector) in [(0, doorbell.change_vector), (16, doorbell.vector)] {
            let data = u32::from(vector);
            for (offset, word) in [(0, address), (4, 0), (8, data), (12, 0)] {
                bus.register_write(table.at(entry + offset, 4)?, &word.to_le_bytes())?;
            }
        }
        pci::enable_msix(bus, self.function, capability)?;
        self.write(bus, common::CONFIG_VECTOR, &0_u16.to_le_bytes())?;
        match self.read_u16(bus, common::CONFIG_VECTOR)? {
            NO_VECTOR => Err(BackendError::Lacks("a vector")),
            _ => Ok(()),
        }
    }

    /// Sets a queue up and returns where it is notified.
    pub fn set_queue(
        &self,
        bus: &mut impl HostBus,
        queue: u16,
        size: u16,
        addresses: Addresses,
    ) -> Result<NotifyRegister, BackendError> {
        self.write(bus, common::QUEUE_SELECT, &queue.to_le_bytes())?;
        self.write(bus, common::QUEUE_SIZE, &size.to_le_bytes())?;
        if self.read_u16(bus, common::QUEUE_SIZE)? != size {
            return Err(BackendError::Queue(queue));
        }
        self.write(bus, common::QUEUE_VECTOR, &1_u16.to_le_bytes())?;
        if self.read_u16(bus, common::QUEUE_VECTOR)? != 1 {
            return Err(BackendError::Lacks("a vector"));
        }
        for (register, address) in [
            (common::QUEUE_DESCRIPTORS, addresses.descriptors),
            (common::QUEUE_DRIVER, addresses.driver),
            (common::QUEUE_DEVICE, addresses.device),
        ] {
            self.write_u64(bus, register, address)?;
        }
        let offset = self.read_u16(bus, common::QUEUE_NOTIFY_OFFSET)?;
        let offset = u32::from(offset).checked_mul(self.regions.notify_multiplier);
        let offset = offset.ok_or(BackendError::Malformed("notification offset"))?;
        let address = self.regions.notify.at(offset, 2)?;
        self.write(bus, common::QUEUE_ENABLE, &1_u16.to_le_bytes())?;
        Ok(NotifyRegister { address, queue })
    }

    /// Lets the device work.
    pub fn start(&self, bus: &mut impl HostBus) -> Result<(), BackendError> {
        self.write(bus, common::STATUS, &[status::RUNNING])?;
        self.expect_running(bus)
    }

    fn expect_running(&self, bus: &mut impl HostBus) -> Result<(), BackendError> {
        match self.status(bus)? {
            status::RUNNING => Ok(()),
            other => Err(BackendError::Gone(other)),
        }
    }

    /// Reads the device's own configuration, all of it at one moment.
    pub fn read_config(
        &self,
        bus: &mut impl HostBus,
        offset: u32,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        for _ in 0..CONFIG_TRIES {
            let before = self.read_u8(bus, common::GENERATION)?;
            for (at, byte) in (offset..).zip(bytes.iter_mut()) {
                let address = self.regions.device.at(at, 1)?;
                bus.register_read(address, core::slice::from_mut(byte))?;
            }
            if self.read_u8(bus, common::GENERATION)? == before {
                return Ok(());
            }
        }
        Err(BackendError::Malformed("configuration"))
    }

    /// Sees whether the device still runs and offers what it did. `queues` are its queues with their sizes.
    pub fn check(&self, bus: &mut impl HostBus, queues: &[(u16, u16)]) -> Result<(), BackendError> {
        self.expect_running(bus)?;
        if self.read_offered(bus)? != self.offered {
            return Err(BackendError::Changed("offer of features"));
        }
        for (queue, size) in queues {
            if self.queue_size(bus, *queue)? != *size {
                return Err(BackendError::Queue(*queue));
            }
        }
        Ok(())
    }

    fn status(&self, bus: &mut impl HostBus) -> Result<u8, BackendError> {
        self.read_u8(bus, common::STATUS)
    }

    fn write(&self, bus: &mut impl HostBus, offset: u32, bytes: &[u8]) -> Result<(), BackendError> {
        let address = self.regions.common.at(offset, bytes.len())?;
        Ok(bus.register_write(address, bytes)?)
    }

    /// Quadwords are written by halves (virtio 1.2, section 4.1.3.1).
    fn write_u64(
        &self,
        bus: &mut impl HostBus,
        offset: u32,
        value: u64,
    ) -> Result<(), BackendError> {
        let [low @ .., e, f, g, h] = value.to_le_bytes();
        self.write(bus, offset, &low)?;
        self.write(bus, offset + 4, &[e, f, g, h])
    }

    fn read<const N: usize>(
        &self,
        bus: &mut impl HostBus,
        offset: u32,
    ) -> Result<[u8; N], BackendError> {
        let mut bytes = [0; N];
        bus.register_read(self.regions.common.at(offset, N)?, &mut bytes)?;
        Ok(bytes)
    }

    fn read_u8(&self, bus: &mut impl HostBus, offset: u32) -> Result<u8, BackendError> {
        self.read::<1>(bus, offset).map(|[byte]| byte)
    }

    fn read_u16(&self, bus: &mut impl HostBus, offset: u32) -> Result<u16, BackendError> {
        self.read(bus, offset).map(u16::from_le_bytes)
    }

    fn read_u32(&self, bus: &mut impl HostBus, offset: u32) -> Result<u32, BackendError> {
        self.read(bus, offset).map(u32::from_le_bytes)
    }
}
