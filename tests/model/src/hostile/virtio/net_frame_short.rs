//! `virtio-net-frame-short`: received frames end within their header, or right behind it, or within that of Ethernet.

use crate::tap::{Count, Element, Exchange, Lie, Received, in_turn};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetFrameShort {
    count: Count,
    received: Received,
}

pub(in crate::hostile) static ATTACK: NetFrameShort = NetFrameShort {
    count: Count::new(),
    received: Received::new(),
};

const LENGTHS: [u32; 6] = [0, 1, 11, 12, 13, 25];

impl Lie for NetFrameShort {
    fn name(&self) -> &'static str {
        "virtio-net-frame-short"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let Some((number, frame)) = self.received.pick(exchange, element) else {
            return told.push(element);
        };
        let len = in_turn(&LENGTHS, number).unwrap_or(0);
        let (all, at) = (element.len, frame.gpa);
        self.lied(format_args!("{len} bytes of {all} at {at:#x}"));
        told.push(Element { len, ..element });
    }
}
