//! `virtio-net-header-length-beyond`: the headers of received packets of TCP are longer than the packets.

use crate::tap::{Count, Element, Exchange, Lie, NetHeader, Offloads, TCP4};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetHeaderLengthBeyond {
    count: Count,
    offloads: Offloads,
}

pub(in crate::hostile) static ATTACK: NetHeaderLengthBeyond = NetHeaderLengthBeyond {
    count: Count::new(),
    offloads: Offloads::new(),
};

impl Lie for NetHeaderLengthBeyond {
    fn name(&self) -> &'static str {
        "virtio-net-header-length-beyond"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn offloads(&self) -> Option<&Offloads> {
        Some(&self.offloads)
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some(frame) = exchange.received(element)
            && exchange.is_tcp(frame)
        {
            let header = NetHeader {
                gso_type: TCP4,
                header_len: 0xFFFF,
                gso_size: 1448,
                ..NetHeader::UNSUMMED
            };
            self.lied(format_args!("headers of 65535 bytes"));
            exchange.memory.write(frame.gpa, &header.to_bytes());
        }
        told.push(element);
    }
}
