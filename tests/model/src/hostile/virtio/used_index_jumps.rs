//! `virtio-used-index-jumps`: the used index runs ahead of what there is: by more than the queue has, and by a little.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct UsedIndexJumps {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: UsedIndexJumps = UsedIndexJumps {
    count: Count::new(),
    seen: Count::new(),
};

/// One completion in so many.
const PERIOD: u64 = 6;

impl Lie for UsedIndexJumps {
    fn name(&self) -> &'static str {
        "virtio-used-index-jumps"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let number = self.seen.next();
        told.push(element);
        if number % PERIOD == PERIOD - 1 {
            let entries = if (number / PERIOD).is_multiple_of(2) {
                1000
            } else {
                1
            };
            self.lied(format_args!("{entries} entries too many"));
            exchange.jump(entries);
        }
    }
}
