//! `virtio-net-frame-long`: frames are said to be longer than the buffers they came in.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct NetFrameLong {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: NetFrameLong = NetFrameLong {
    count: Count::new(),
    seen: Count::new(),
};

/// One frame in so many.
const PERIOD: u64 = 4;

impl Lie for NetFrameLong {
    fn name(&self) -> &'static str {
        "virtio-net-frame-long"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if exchange.received(element).is_none() || self.seen.next() % PERIOD != PERIOD - 1 {
            return told.push(element);
        }
        let room: u32 = exchange
            .chain(element.id)
            .iter()
            .fold(0, |sum, segment| sum.saturating_add(segment.len));
        let len = room.saturating_add(64);
        self.lied(format_args!("a frame of {len} bytes in {room}"));
        told.push(Element { len, ..element });
    }
}
