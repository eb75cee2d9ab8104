//! `virtio-length-short`: the host tells of fewer bytes than it wrote, and writes noise beyond them.
//!
//! What is beyond is nobody's data: a driver that copies all of its buffer copies what was there before.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct LengthShort {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: LengthShort = LengthShort {
    count: Count::new(),
    seen: Count::new(),
};

/// One completion in so many.
const PERIOD: u64 = 4;

impl Lie for LengthShort {
    fn name(&self) -> &'static str {
        "virtio-length-short"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let request = exchange.request(element.id);
        let Some(request) = request.filter(|request| request.kind == BlockKind::Read) else {
            return told.push(element);
        };
        if self.seen.next() % PERIOD != PERIOD - 1 {
            return told.push(element);
        }
        let mut content = request.content(exchange.memory);
        let half = content.len() / 2;
        content[half..].fill(0xA5);
        request.replace(exchange.memory, &content);
        self.lied(format_args!("{half} bytes of {}", element.len));
        let len = u32::try_from(half).unwrap_or(0);
        told.push(Element { len, ..element });
    }
}
