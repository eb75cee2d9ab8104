//! `virtio-net-checksum-beyond`: checksums of received frames are to be written where the frame has ended, or before it begins.

use crate::tap::{Count, Element, Exchange, Lie, NetHeader, Offloads, Received, in_turn};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetChecksumBeyond {
    count: Count,
    received: Received,
    offloads: Offloads,
}

pub(in crate::hostile) static ATTACK: NetChecksumBeyond = NetChecksumBeyond {
    count: Count::new(),
    received: Received::new(),
    offloads: Offloads::new(),
};

/// Where the checked part begins, and where in it the checksum goes.
const PLACES: [[u16; 2]; 4] = [[0xFFFF, 0xFFFF], [34, 0xFFFE], [2000, 16], [0, 0]];

impl Lie for NetChecksumBeyond {
    fn name(&self) -> &'static str {
        "virtio-net-checksum-beyond"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn offloads(&self) -> Option<&Offloads> {
        Some(&self.offloads)
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some((number, frame)) = self.received.pick(exchange, element)
            && let Some([start, offset]) = in_turn(&PLACES, number)
        {
            let header = NetHeader {
                checksum_start: start,
                checksum_offset: offset,
                ..NetHeader::UNSUMMED
            };
            self.lied(format_args!("a checksum at {start} + {offset}"));
            exchange.memory.write(frame.gpa, &header.to_bytes());
        }
        told.push(element);
    }
}
