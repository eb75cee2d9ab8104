//! What a card is like: options, features, and the configuration space (Virtio 1.2, 5.1.3 and 5.1.4).

use crate::virtio::Features;

/// Bytes of the configuration space, up to the MTU.
const CONFIG_BYTES: usize = 12;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u8; 6]);

impl Address {
    /// All stations.
    pub(super) const BROADCAST: Self = Self([0xFF; 6]);

    /// Returns whether it stands for several stations.
    pub(super) fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Feature bits of a network card (Virtio 1.2, 5.1.3).
pub mod features {
    use crate::virtio::Features;

    /// `VIRTIO_NET_F_CSUM`: the driver leaves checksums undone.
    pub const CSUM: Features = Features::bit(0);
    /// `VIRTIO_NET_F_GUEST_CSUM`: the driver takes frames whose checksums are undone.
    pub const GUEST_CSUM: Features = Features::bit(1);
    /// `VIRTIO_NET_F_CTRL_GUEST_OFFLOADS`: the driver switches what it takes undone.
    pub const CTRL_GUEST_OFFLOADS: Features = Features::bit(2);
    /// `VIRTIO_NET_F_MTU`: the largest packet is told.
    pub const MTU: Features = Features::bit(3);
    /// `VIRTIO_NET_F_MAC`: the address is told.
    pub const MAC: Features = Features::bit(5);
    /// `VIRTIO_NET_F_GUEST_TSO4`: the driver takes large TCP packets over IPv4.
    pub const GUEST_TSO4: Features = Features::bit(7);
    /// `VIRTIO_NET_F_GUEST_TSO6`: the same over IPv6.
    pub const GUEST_TSO6: Features = Features::bit(8);
    /// `VIRTIO_NET_F_GUEST_ECN`: those may have congestion marks.
    pub const GUEST_ECN: Features = Features::bit(9);
    /// `VIRTIO_NET_F_HOST_TSO4`: the driver sends large TCP packets over IPv4.
    pub const HOST_TSO4: Features = Features::bit(11);
    /// `VIRTIO_NET_F_HOST_TSO6`: the same over IPv6.
    pub const HOST_TSO6: Features = Features::bit(12);
    /// `VIRTIO_NET_F_HOST_ECN`: those may have congestion marks.
    pub const HOST_ECN: Features = Features::bit(13);
    /// `VIRTIO_NET_F_MRG_RXBUF`: a received frame may lie in several buffers.
    pub const MRG_RXBUF: Features = Features::bit(15);
    /// `VIRTIO_NET_F_STATUS`: whether the wire is plugged in is told.
    pub const STATUS: Features = Features::bit(16);
    /// `VIRTIO_NET_F_CTRL_VQ`: there is a control queue.
    pub const CTRL_VQ: Features = Features::bit(17);
    /// `VIRTIO_NET_F_CTRL_RX`: the driver chooses the frames it receives.
    pub const CTRL_RX: Features = Features::bit(18);
    /// `VIRTIO_NET_F_CTRL_RX_EXTRA`: there are more ways to choose them.
    pub const CTRL_RX_EXTRA: Features = Features::bit(20);
    /// `VIRTIO_NET_F_CTRL_MAC_ADDR`: the driver sets the address.
    pub const CTRL_MAC_ADDR: Features = Features::bit(23);

    /// What may be left undone to frames that are received.
    pub const RECEIVE_OFFLOADS: Features = GUEST_CSUM
        .union(GUEST_TSO4)
        .union(GUEST_TSO6)
        .union(GUEST_ECN);
    /// What may be left undone to frames that are sent.
    pub const TRANSMIT_OFFLOADS: Features = CSUM.union(HOST_TSO4).union(HOST_TSO6).union(HOST_ECN);

    /// What the front-end does by itself.
    pub(super) const OWN: Features = MAC
        .union(MRG_RXBUF)
        .union(STATUS)
        .union(CTRL_VQ)
        .union(CTRL_RX)
        .union(CTRL_RX_EXTRA)
        .union(CTRL_MAC_ADDR);
    /// A feature and those of which it needs at least one (Virtio 1.2, 5.1.3.1).
    pub(in crate::virtio::net) const NEEDS: [(Features, Features); 10] = [
        (GUEST_TSO4, GUEST_CSUM),
        (GUEST_TSO6, GUEST_CSUM),
        (GUEST_ECN, GUEST_TSO4.union(GUEST_TSO6)),
        (HOST_TSO4, CSUM),
        (HOST_TSO6, CSUM),
        (HOST_ECN, HOST_TSO4.union(HOST_TSO6)),
        (CTRL_RX, CTRL_VQ),
        (CTRL_RX_EXTRA, CTRL_VQ),
        (CTRL_MAC_ADDR, CTRL_VQ),
        (CTRL_GUEST_OFFLOADS, CTRL_VQ),
    ];
}

/// What a card is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetOptions {
    /// Its address.
    pub address: Address,
    /// The largest packet without its Ethernet header, where there is a limit.
    pub mtu: Option<u16>,
    /// Which of [`features::RECEIVE_OFFLOADS`] and [`features::TRANSMIT_OFFLOADS`] the other side of the card works with.
    pub offloads: Features,
}

impl NetOptions {
    pub(super) fn features(&self) -> Features {
        let offloads = features::RECEIVE_OFFLOADS | features::TRANSMIT_OFFLOADS;
        let mut offered = Features::COMMON | features::OWN | (self.offloads & offloads);
        offered.set(features::MTU, self.mtu.is_some());
        let has_any = self.offloads.intersects(features::RECEIVE_OFFLOADS);
        offered.set(features::CTRL_GUEST_OFFLOADS, has_any);
        offered
    }

    /// Returns the configuration space.
    pub(super) fn to_bytes(self, address: Address, is_connected: bool) -> [u8; CONFIG_BYTES] {
        let mut bytes = [0; CONFIG_BYTES];
        bytes[..6].copy_from_slice(&address.0);
        let status = if is_connected { LINK_UP } else { 0 };
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        // One pair of queues.
        bytes[8] = 1;
        bytes[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        bytes
    }
}

/// Returns whether each feature has what it needs.
pub(super) fn is_consistent(chosen: Features) -> bool {
    features::NEEDS
        .iter()
        .all(|(feature, needed)| !chosen.contains(*feature) || chosen.intersects(*needed))
}
