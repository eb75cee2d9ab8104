//! `virtio-length-long`: the host tells of more bytes than there was room for.
//!
//! A driver that believes it copies what lies behind its buffer.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct LengthLong {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: LengthLong = LengthLong {
    count: Count::new(),
    seen: Count::new(),
};

/// One completion in so many.
const PERIOD: u64 = 4;

impl Lie for LengthLong {
    fn name(&self) -> &'static str {
        "virtio-length-long"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let number = self.seen.next();
        if number % PERIOD != PERIOD - 1 {
            return told.push(element);
        }
        let chain = exchange.chain(element.id);
        let writable = chain.iter().filter(|segment| segment.is_writable);
        let room: u32 = writable.fold(0, |sum, segment| sum.saturating_add(segment.len));
        let len = if (number / PERIOD).is_multiple_of(2) {
            room.saturating_add(1)
        } else {
            u32::MAX
        };
        self.lied(format_args!("{len} bytes where {room} have room"));
        told.push(Element { len, ..element });
    }
}
