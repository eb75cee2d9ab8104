//! `virtio-used-never-posted`: the host tells of completions of what nobody asked: ids beyond the queue and ids not in flight.

use crate::tap::{Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct UsedNeverPosted {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: UsedNeverPosted = UsedNeverPosted {
    count: Count::new(),
    seen: Count::new(),
};

/// One completion in so many.
const PERIOD: u64 = 4;

impl Lie for UsedNeverPosted {
    fn name(&self) -> &'static str {
        "virtio-used-never-posted"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let size = u32::from(exchange.queue.size);
        let number = self.seen.next();
        if number % PERIOD == PERIOD - 1 {
            // Beyond the table, one past it, and the neighbour, which may or may not be in flight.
            let ids = [u32::MAX, size, (element.id + size / 2) % size.max(1)];
            let turn = usize::try_from(number / PERIOD).unwrap_or(0) % ids.len();
            let id = ids[turn];
            self.lied(format_args!("id {id} of {size}"));
            told.push(Element { id, ..element });
        }
        told.push(element);
    }
}
