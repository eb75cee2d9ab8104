//! What a virtio device is to its transport.

use stockade_bus::GuestMemory;

use super::{Features, QueueConfig};

/// A virtio device ID (Virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(pub u16);

impl DeviceId {
    /// Network card.
    pub const NETWORK: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const ENTROPY: Self = Self(4);
}

/// The device does not work with the features the driver chose: the transport clears FEATURES_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver's features are refused: {0:?}")]
pub struct FeaturesRefused(pub Features);

/// What the driver is to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Interrupts {
    /// Queues with used buffers, a bit a queue.
    pub queues: u64,
    /// The configuration changed, or the device needs a reset.
    pub config: bool,
}

impl Interrupts {
    /// Returns whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues == 0 && !self.config
    }
}

/// Whether a device did all it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub enum Work {
    /// Nothing is left to do.
    #[default]
    Done,
    /// The turn's budget is used up: call [`VirtioDevice::work`] again soon, after other work.
    More,
}

/// Copies from a configuration space; what lies past its end is 0.
pub(super) fn read_bytes(space: &[u8], offset: u32, data: &mut [u8]) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut bytes = space.get(offset..).unwrap_or_default().iter().copied();
    data.fill_with(|| bytes.next().unwrap_or(0));
}

/// A virtio device behind a transport.
///
/// The transport keeps the status register and each queue's registers. It calls [`negotiate`](Self::negotiate) when the driver sets
/// FEATURES_OK, [`activate`](Self::activate) when it sets DRIVER_OK, [`notify`](Self::notify) when it notifies a queue and [`reset`](Self::reset)
/// when it writes 0. After each call, and after each completion from the other side, it asks [`take_interrupts`](Self::take_interrupts)
/// once: what was completed since is told to the driver in one go. While [`needs_reset`](Self::needs_reset) holds, DEVICE_NEEDS_RESET
/// is part of the device status. No call allocates but `activate`.
pub trait VirtioDevice {
    /// Returns which device it is.
    fn device_id(&self) -> DeviceId;

    /// Returns the PCI class code: class, subclass and interface in bits 23:16, 15:8 and 7:0.
    fn class_code(&self) -> u32;

    /// Returns the features the device offers.
    fn device_features(&self) -> Features;

    /// Returns how many queues the device has (at most 64).
    fn queue_count(&self) -> u16;

    /// Returns the most entries of `queue`, if the device has it.
    fn queue_max_size(&self, queue: u16) -> Option<u16>;

    /// Reads the device's configuration space; bytes past its end are 0.
    fn read_config(&self, offset: u32, data: &mut [u8]);

    /// Writes the device's configuration space; what cannot be written stays.
    fn write_config(&mut self, offset: u32, data: &[u8]);

    /// Returns a number that is another after every change of the configuration by the device.
    fn config_generation(&self) -> u8;

    /// Takes the features the driver chose, or refuses them.
    fn negotiate(&mut self, features: Features) -> Result<(), FeaturesRefused>;

    /// Starts the device with the queues the driver enabled, by index; `None` for those it did not. Rings that cannot be leave it in need
    /// of a reset.
    fn activate(&mut self, queues: &[Option<QueueConfig>], memory: &dyn GuestMemory);

    /// Puts the device back to power-on: nothing it was asked for touches guest memory from now on.
    fn reset(&mut self);

    /// Looks at `queue`, as the driver asks for. A queue the device does not have is nobody's.
    fn notify(&mut self, queue: u16, memory: &dyn GuestMemory) -> Work;

    /// Goes on with what [`notify`](Self::notify) or an earlier call left over.
    fn work(&mut self, memory: &dyn GuestMemory) -> Work;

    /// Takes what the driver is to be told of, by the rules it asked for.
    fn take_interrupts(&mut self, memory: &dyn GuestMemory) -> Interrupts;

    /// Returns whether the driver broke the rules and the device waits for a reset (Virtio 1.2, 2.1.2).
    fn needs_reset(&self) -> bool;
}
