//! `virtio-used-twice`: the host tells of every few completions twice.
//!
//! A driver that believes it gives one request's memory to two others.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct UsedTwice {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: UsedTwice = UsedTwice {
    count: Count::new(),
    seen: Count::new(),
};

/// One completion in so many.
const PERIOD: u64 = 4;

impl Lie for UsedTwice {
    fn name(&self) -> &'static str {
        "virtio-used-twice"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let _ = exchange;
        told.push(element);
        if self.seen.next() % PERIOD == PERIOD - 1 {
            self.lied(format_args!("id {} twice", element.id));
            told.push(element);
        }
    }
}
