//! `virtio-net-header-nonsense`: the header of received frames asks for offloads nobody agreed on, at offsets beyond the frame, in buffers without end.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetHeaderNonsense {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: NetHeaderNonsense = NetHeaderNonsense {
    count: Count::new(),
    seen: Count::new(),
};

/// Bytes of the header. Virtio 1.2, 5.1.6.
const HEADER: usize = 12;

impl Lie for NetHeaderNonsense {
    fn name(&self) -> &'static str {
        "virtio-net-header-nonsense"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let Some(frame) = exchange.received(element) else {
            return told.push(element);
        };
        // Flags, GSO type, header length, GSO size, checksum start and offset, buffers.
        let number = self.seen.next().to_le_bytes();
        let mut header = [0xFF; HEADER];
        header[0] = number[0];
        header[10] = number[0];
        self.lied(format_args!("header {header:02x?}"));
        exchange.memory.write(frame.gpa, &header);
        told.push(element);
    }
}
