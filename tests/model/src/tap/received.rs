//! Frames a network card gives its driver, every other one of them picked to be lied about. Virtio 1.2, 5.1.6.

use super::chain::Segment;
use super::exchange::Exchange;
use super::lie::Count;
use super::queue::Element;
use crate::host::pci::VirtioKind;

/// Bytes of the header in front of a frame.
const HEADER: u64 = 12;
/// Where a frame has its type, and the protocol of a packet of IPv4.
const FRAME_TYPE: u64 = 12;
const IPV4_PROTOCOL: u64 = 14 + 9;
const IPV4: [u8; 2] = [0x08, 0x00];
const TCP: [u8; 1] = [6];

/// Header flag: the checksum is to be filled in.
const NEEDS_CHECKSUM: u8 = 1;
/// To be split as TCP over IPv4.
pub const TCP4: u8 = 1;

/// What a card says of a frame, in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetHeader {
    /// What is left undone.
    pub flags: u8,
    /// What to split it by.
    pub gso_type: u8,
    /// Bytes of its headers.
    pub header_len: u16,
    /// Bytes of data of each piece.
    pub gso_size: u16,
    /// Where the part with a checksum begins.
    pub checksum_start: u16,
    /// Where in it the checksum goes.
    pub checksum_offset: u16,
    /// Buffers the frame lies in.
    pub buffers: u16,
}

impl NetHeader {
    /// A frame in one buffer, its checksum where TCP over IPv4 has it, to be filled in.
    pub const UNSUMMED: Self = Self {
        flags: NEEDS_CHECKSUM,
        gso_type: 0,
        header_len: 54,
        gso_size: 0,
        checksum_start: 34,
        checksum_offset: 16,
        buffers: 1,
    };

    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let [h0, h1] = self.header_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.checksum_start.to_le_bytes();
        let [o0, o1] = self.checksum_offset.to_le_bytes();
        let [n0, n1] = self.buffers.to_le_bytes();
        let (flags, gso_type) = (self.flags, self.gso_type);
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }
}

/// Which frame is next.
#[derive(Debug, Default)]
pub struct Received {
    seen: Count,
}

impl Received {
    /// None seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { seen: Count::new() }
    }

    /// The how manieth frame is to be lied about, and where it begins with its header, if `element` is one that is.
    pub fn pick(&self, exchange: &Exchange<'_>, element: Element) -> Option<(u64, Segment)> {
        let frame = exchange.received(element)?;
        let number = self.seen.next();
        (number % 2 == 1).then_some((number / 2, frame))
    }
}

/// The entry of a list whose turn it is.
#[must_use]
pub fn in_turn<T: Copy>(list: &[T], number: u64) -> Option<T> {
    let turn = usize::try_from(number).ok()?.checked_rem(list.len())?;
    list.get(turn).copied()
}

impl Exchange<'_> {
    /// Where a frame that came in begins, with the header before it.
    #[must_use]
    pub fn received(&self, element: Element) -> Option<Segment> {
        let first = self.chain(element.id).first().copied();
        first.filter(|first| first.is_writable && self.who.kind == VirtioKind::Net)
    }

    /// Whether a frame that came in is a packet of TCP over IPv4.
    #[must_use]
    pub fn is_tcp(&self, frame: Segment) -> bool {
        self.holds(frame, FRAME_TYPE, IPV4) && self.holds(frame, IPV4_PROTOCOL, TCP)
    }

    fn holds<const N: usize>(&self, frame: Segment, offset: u64, expected: [u8; N]) -> bool {
        let mut bytes = [0; N];
        let at = frame.gpa.wrapping_add(HEADER + offset);
        self.memory.read(at, &mut bytes) && bytes == expected
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::fake::Shared;
    use super::super::lie::Who;
    use super::super::queue::Queue;
    use super::*;
    use crate::host::pci::Address;

    const FRAME: Element = Element { id: 0, len: 72 };

    fn queue(memory: &Shared, flags: u16) -> Queue {
        memory.descriptor(0, 0x100, 2048, flags, 0);
        let mut queue = Queue::default();
        queue.size = 1;
        queue
    }

    fn net(kind: VirtioKind) -> Who {
        Who {
            function: 0,
            address: Address::on_bus_0(0),
            kind,
            is_live: true,
        }
    }

    #[test]
    fn every_other_received_frame_of_a_card_is_picked() {
        let memory = Shared::new(0x1000);
        let mut queue = queue(&memory, 2);
        let exchange = Exchange::new(net(VirtioKind::Net), &mut queue, &memory);
        let received = Received::new();
        let pick = || received.pick(&exchange, FRAME).map(|(number, _)| number);
        assert_eq!(
            [pick(), pick(), pick(), pick()],
            [None, Some(0), None, Some(1)]
        );
    }

    #[test]
    fn what_is_sent_and_what_is_a_disks_is_no_received_frame() {
        let memory = Shared::new(0x1000);
        let mut sent = queue(&memory, 0);
        let exchange = Exchange::new(net(VirtioKind::Net), &mut sent, &memory);
        assert_eq!(exchange.received(FRAME), None);
        let mut read = queue(&memory, 2);
        let exchange = Exchange::new(net(VirtioKind::Block), &mut read, &memory);
        assert_eq!(exchange.received(FRAME), None);
    }

    #[test]
    fn tcp_is_told_from_other_packets() {
        let memory = Shared::new(0x1000);
        let mut queue = queue(&memory, 2);
        let exchange = Exchange::new(net(VirtioKind::Net), &mut queue, &memory);
        let frame = exchange.received(FRAME).unwrap();
        assert!(!exchange.is_tcp(frame));
        memory.0.borrow_mut()[0x100 + 12 + 12] = 8;
        memory.0.borrow_mut()[0x100 + 12 + 23] = 6;
        assert!(exchange.is_tcp(frame));
    }

    #[test]
    fn a_header_lies_in_memory_as_the_standard_says() {
        let header = NetHeader {
            gso_type: TCP4,
            gso_size: 1448,
            ..NetHeader::UNSUMMED
        };
        let bytes = [1, 1, 54, 0, 0xA8, 5, 34, 0, 16, 0, 1, 0];
        assert_eq!(header.to_bytes(), bytes);
    }
}
