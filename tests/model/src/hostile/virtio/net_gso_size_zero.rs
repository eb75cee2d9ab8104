//! `virtio-net-gso-size-zero`: received frames are to be split into pieces of no bytes.

use crate::tap::{Count, Element, Exchange, Lie, NetHeader, Offloads, Received, TCP4};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetGsoSizeZero {
    count: Count,
    received: Received,
    offloads: Offloads,
}

pub(in crate::hostile) static ATTACK: NetGsoSizeZero = NetGsoSizeZero {
    count: Count::new(),
    received: Received::new(),
    offloads: Offloads::new(),
};

impl Lie for NetGsoSizeZero {
    fn name(&self) -> &'static str {
        "virtio-net-gso-size-zero"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn offloads(&self) -> Option<&Offloads> {
        Some(&self.offloads)
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some((_, frame)) = self.received.pick(exchange, element) {
            let header = NetHeader {
                gso_type: TCP4,
                ..NetHeader::UNSUMMED
            };
            self.lied(format_args!("pieces of 0 bytes"));
            exchange.memory.write(frame.gpa, &header.to_bytes());
        }
        told.push(element);
    }
}
