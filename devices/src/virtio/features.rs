//! Feature bits (Virtio 1.2, 2.2 and 6).

use bitflags::bitflags;

bitflags! {
    /// Feature bits. Those named here are of all devices; a device's own bits stand in its module.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `VIRTIO_F_INDIRECT_DESC`: a descriptor may refer to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// `VIRTIO_F_EVENT_IDX`: each side says at which index it wants to hear of progress.
        const EVENT_IDX = 1 << 29;
        /// `VIRTIO_F_VERSION_1`: no legacy driver.
        const VERSION_1 = 1 << 32;
        /// `VIRTIO_F_RING_PACKED`: rings are packed.
        const RING_PACKED = 1 << 34;

        const _ = !0;
    }
}

impl Features {
    /// What every device offers.
    pub const COMMON: Self = Self::INDIRECT_DESC
        .union(Self::EVENT_IDX)
        .union(Self::VERSION_1)
        .union(Self::RING_PACKED);

    /// Returns the feature of bit `number`.
    pub(super) const fn bit(number: u32) -> Self {
        Self::from_bits_retain(1 << number)
    }
}
