//! What is left undone to a frame (Virtio 1.2, 5.1.6).

use super::LEAST_FRAME;
use super::config::features;
use super::packet::{Packet, TCP_CHECKSUM, Version};
use crate::virtio::Features;

/// Size of the header before every frame in guest memory.
pub const HEADER_BYTES: usize = 12;
/// Where the number of buffers is in it.
pub(super) const NUM_BUFFERS: u64 = 10;

/// The checksum is to be done.
const NEEDS_CSUM: u8 = 1;
/// The checksum was found right.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Added to the others: congestion marks.
const GSO_ECN: u8 = 0x80;

/// What is left to be done to a frame, as its header says. Fields are those of `virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Flags: bit 0 the checksum is to be done, bit 1 it is right.
    pub flags: u8,
    /// What the frame is to be split by: 0 nothing, 1 TCP over IPv4, 4 TCP over IPv6, and bit 7 for congestion marks.
    pub gso_type: u8,
    /// Bytes of all headers, as a hint.
    pub hdr_len: u16,
    /// Bytes of data a part of the split frame has.
    pub gso_size: u16,
    /// Where the checksum begins to count.
    pub csum_start: u16,
    /// Where it goes, from there on.
    pub csum_offset: u16,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Writes the header of a frame in `buffers` buffers.
    #[must_use]
    pub fn to_bytes(self, buffers: u16) -> [u8; HEADER_BYTES] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = buffers.to_le_bytes();
        [
            self.flags,
            self.gso_type,
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
            n0,
            n1,
        ]
    }

    /// Returns the header of a frame the guest sent, with nothing in it that was not agreed on; `None` if the frame cannot be passed on.
    #[must_use]
    pub fn checked_from_guest(self, frame: &[u8], agreed: Features) -> Option<Self> {
        let gso = Agreed {
            checksum: agreed.contains(features::CSUM),
            tcp4: agreed.contains(features::HOST_TSO4),
            tcp6: agreed.contains(features::HOST_TSO6),
            ecn: agreed.contains(features::HOST_ECN),
        };
        self.checked(frame, gso, NEEDS_CSUM)
    }

    /// Returns the header of a frame from outside, likewise: `agreed` is what the other side may leave undone.
    #[must_use]
    pub fn checked_for_guest(self, frame: &[u8], agreed: Features) -> Option<Self> {
        let gso = Agreed {
            checksum: agreed.contains(features::GUEST_CSUM),
            tcp4: agreed.contains(features::GUEST_TSO4),
            tcp6: agreed.contains(features::GUEST_TSO6),
            ecn: agreed.contains(features::GUEST_ECN),
        };
        let flags = if gso.checksum {
            NEEDS_CSUM | DATA_VALID
        } else {
            NEEDS_CSUM
        };
        self.checked(frame, gso, flags)
    }

    /// Returns whether the frame is to be split.
    pub(super) fn is_split(self) -> bool {
        self.gso_type & !GSO_ECN != GSO_NONE
    }

    /// Returns whether a checksum is to be filled in.
    pub(super) fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Returns whether anything is left to be done to the frame.
    #[must_use]
    pub fn is_finished(self) -> bool {
        !self.needs_checksum() && self.gso_type == GSO_NONE
    }

    /// Returns where what is in a frame that is to be split, if it is what the header says.
    pub(super) fn packet(self, frame: &[u8]) -> Option<Packet> {
        let version = match self.gso_type & !GSO_ECN {
            GSO_TCP4 => Version::V4,
            GSO_TCP6 => Version::V6,
            _ => return None,
        };
        let is_tcp = usize::from(self.csum_offset) == TCP_CHECKSUM;
        let packet = Packet::parse(frame, version, self.csum_start.into());
        packet.filter(|_| is_tcp)
    }

    fn checked(self, frame: &[u8], agreed: Agreed, flags: u8) -> Option<Self> {
        let len = frame.len();
        let flags = self.flags & flags;
        let needs_checksum = flags & NEEDS_CSUM != 0;
        let mut checked = Self {
            flags,
            ..Self::default()
        };
        if needs_checksum {
            let start = usize::from(self.csum_start);
            let end = start + usize::from(self.csum_offset) + 2;
            if !agreed.checksum || start < LEAST_FRAME || end > len {
                return None;
            }
            (checked.csum_start, checked.csum_offset) = (self.csum_start, self.csum_offset);
        }
        if self.gso_type != GSO_NONE {
            // A frame is split only where its checksums are done.
            if !needs_checksum || self.gso_size == 0 || !agreed.may_split(self.gso_type) {
                return None;
            }
            (checked.gso_type, checked.gso_size) = (self.gso_type, self.gso_size);
            // A hint, and a trap for who takes it for more: so it is right.
            checked.hdr_len = u16::try_from(checked.packet(frame)?.data).ok()?;
        }
        Some(checked)
    }
}

/// What may be left undone.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    checksum: bool,
    tcp4: bool,
    tcp6: bool,
    ecn: bool,
}

impl Agreed {
    fn may_split(self, gso_type: u8) -> bool {
        let is_marked = gso_type & GSO_ECN != 0;
        let may_be = match gso_type & !GSO_ECN {
            GSO_TCP4 => self.tcp4,
            GSO_TCP6 => self.tcp6,
            _ => false,
        };
        may_be && (!is_marked || self.ecn)
    }
}
