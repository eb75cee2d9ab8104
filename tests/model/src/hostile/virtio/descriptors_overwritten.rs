//! `virtio-descriptors-overwritten`: the host writes over descriptors whose requests are done: loops, other addresses, lengths without end.
//!
//! A driver that takes its chains back from where the host can write gives away memory that was never its own.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct DescriptorsOverwritten {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: DescriptorsOverwritten = DescriptorsOverwritten {
    count: Count::new(),
    seen: Count::new(),
};

/// A length, the three flags, and the next one.
const NEXT_AND_WRITE: u16 = 3;

impl Lie for DescriptorsOverwritten {
    fn name(&self) -> &'static str {
        "virtio-descriptors-overwritten"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let [next, _, ..] = element.id.to_le_bytes();
        let mut descriptor = [0xFF; 16];
        descriptor[12..14].copy_from_slice(&NEXT_AND_WRITE.to_le_bytes());
        // Its own successor.
        descriptor[14..16].copy_from_slice(&[next, 0]);
        if element.id < u32::from(exchange.queue.size) {
            let at = exchange.queue.descriptors + u64::from(element.id) * 16;
            self.lied(format_args!("descriptor {} is a loop", element.id));
            exchange.memory.write(at, &descriptor);
        }
        self.seen.next();
        told.push(element);
    }
}
