//! `virtio-net-gso-unknown`: received frames are to be split by a protocol there is none of, or by one nobody agreed on.

use crate::tap::{Count, Element, Exchange, Lie, NetHeader, Offloads, Received, in_turn};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetGsoUnknown {
    count: Count,
    received: Received,
    offloads: Offloads,
}

pub(in crate::hostile) static ATTACK: NetGsoUnknown = NetGsoUnknown {
    count: Count::new(),
    received: Received::new(),
    offloads: Offloads::new(),
};

/// UDP fragmentation, UDP segmentation, and numbers without a meaning. Virtio 1.2, 5.1.6.
const TYPES: [u8; 5] = [2, 3, 5, 0x7F, 0xFF];

impl Lie for NetGsoUnknown {
    fn name(&self) -> &'static str {
        "virtio-net-gso-unknown"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn offloads(&self) -> Option<&Offloads> {
        Some(&self.offloads)
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some((number, frame)) = self.received.pick(exchange, element)
            && let Some(gso_type) = in_turn(&TYPES, number)
        {
            let header = NetHeader {
                gso_type,
                gso_size: 1448,
                ..NetHeader::UNSUMMED
            };
            self.lied(format_args!("a frame of GSO type {gso_type}"));
            exchange.memory.write(frame.gpa, &header.to_bytes());
        }
        told.push(element);
    }
}
