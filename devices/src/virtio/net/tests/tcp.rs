//! TCP packets as a driver leaves them to its card.

use std::vec;
use std::vec::Vec;

use crate::virtio::net::Header;

/// The sequence number of every packet.
pub(in crate::virtio::net) const SEQUENCE: u32 = 0xFFFF_FE00 - 0x1_0000;

/// Which headers a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::virtio::net) struct Shape {
    is_new: bool,
    is_tagged: bool,
}

pub(in crate::virtio::net) const V4: Shape = Shape {
    is_new: false,
    is_tagged: false,
};
pub(in crate::virtio::net) const V6: Shape = Shape {
    is_new: true,
    is_tagged: false,
};

impl Shape {
    pub(in crate::virtio::net) fn tagged(self) -> Self {
        Self {
            is_tagged: true,
            ..self
        }
    }

    /// Where the TCP header is.
    pub(in crate::virtio::net) fn transport(self) -> usize {
        14 + if self.is_tagged { 4 } else { 0 } + if self.is_new { 40 } else { 20 }
    }

    /// Where the data are.
    pub(in crate::virtio::net) fn data(self) -> usize {
        self.transport() + 20
    }

    /// A packet of `len` bytes of data, to be split by `size`, the sum of its pseudo header where the checksum goes.
    pub(in crate::virtio::net) fn large(self, len: usize, size: u16) -> (Header, Vec<u8>) {
        let header = Header {
            flags: 1,
            gso_type: if self.is_new { 4 } else { 1 },
            hdr_len: u16::try_from(self.data()).unwrap(),
            gso_size: size,
            csum_start: u16::try_from(self.transport()).unwrap(),
            csum_offset: 16,
        };
        let data = (0..len).map(|at| u8::try_from(at % 251).unwrap());
        let bytes = self.ethernet().into_iter().chain(self.internet(20 + len));
        (
            header,
            bytes.chain(self.tcp(20 + len)).chain(data).collect(),
        )
    }

    fn ethernet(self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.is_tagged {
            bytes.extend([0x81, 0, 0, 7]);
        }
        bytes.extend(if self.is_new { [0x86, 0xDD] } else { [8, 0] });
        bytes
    }

    fn internet(self, len: usize) -> Vec<u8> {
        if self.is_new {
            let [high, low] = u16::try_from(len).unwrap_or(0).to_be_bytes();
            let mut bytes = vec![0x60, 0, 0, 0, high, low, 6, 64];
            bytes.extend(self.addresses());
            return bytes;
        }
        let [high, low] = u16::try_from(20 + len).unwrap_or(0).to_be_bytes();
        let mut bytes = vec![0x45, 0, high, low, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0];
        bytes.extend(self.addresses());
        bytes
    }

    fn addresses(self) -> Vec<u8> {
        let len = if self.is_new { 32 } else { 8 };
        (10..10 + len).collect()
    }

    fn tcp(self, len: usize) -> Vec<u8> {
        let mut sum = 6 + u32::try_from(len).unwrap();
        for word in self.addresses().chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        }
        let sum = u16::try_from((sum & 0xFFFF) + (sum >> 16)).unwrap();
        let mut bytes = vec![0x04, 0xD2, 0x00, 0x50];
        bytes.extend(SEQUENCE.to_be_bytes());
        // Acknowledges; congestion window reduced, push, end.
        bytes.extend([0, 0, 0, 1, 0x50, 0x99, 0xFF, 0xFF]);
        bytes.extend(sum.to_be_bytes());
        bytes.extend([0, 0]);
        bytes
    }
}
