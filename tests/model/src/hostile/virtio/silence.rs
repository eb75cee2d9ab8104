//! `virtio-silence`: a disk in good order, as far as it says, answers nothing any more.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct Silence {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: Silence = Silence {
    count: Count::new(),
    seen: Count::new(),
};

/// Completions before it falls silent.
const LAST: u64 = 12;

impl Lie for Silence {
    fn name(&self) -> &'static str {
        "virtio-silence"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, _exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if self.seen.next() < LAST {
            return told.push(element);
        }
        self.lied(format_args!("a completion is kept"));
    }
}
