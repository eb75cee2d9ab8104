//! `virtio-net-buffers-beyond`: received frames lie in no buffer, or in more than there are, or in the next frame's.

use crate::tap::{Count, Element, Exchange, Lie, NetHeader, Offloads, Received, in_turn};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetBuffersBeyond {
    count: Count,
    received: Received,
    offloads: Offloads,
}

pub(in crate::hostile) static ATTACK: NetBuffersBeyond = NetBuffersBeyond {
    count: Count::new(),
    received: Received::new(),
    offloads: Offloads::new(),
};

const NUMBERS: [u16; 5] = [0, 2, 65, 256, 0xFFFF];

impl Lie for NetBuffersBeyond {
    fn name(&self) -> &'static str {
        "virtio-net-buffers-beyond"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn offloads(&self) -> Option<&Offloads> {
        Some(&self.offloads)
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some((number, frame)) = self.received.pick(exchange, element)
            && let Some(buffers) = in_turn(&NUMBERS, number)
        {
            let header = NetHeader {
                buffers,
                ..NetHeader::default()
            };
            self.lied(format_args!("a frame in {buffers} buffers"));
            exchange.memory.write(frame.gpa, &header.to_bytes());
        }
        told.push(element);
    }
}
