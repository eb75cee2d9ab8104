//! `virtio-block-swapped`: the host gives for one place of the disk what lies at another.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct BlockSwapped {
    count: Count,
    seen: Count,
    /// What was read last, and where.
    last: Mutex<(u64, Vec<u8>)>,
}

pub(in crate::hostile) static ATTACK: BlockSwapped = BlockSwapped {
    count: Count::new(),
    seen: Count::new(),
    last: Mutex::new((0, Vec::new())),
};

/// One read in so many.
const PERIOD: u64 = 4;

impl Lie for BlockSwapped {
    fn name(&self) -> &'static str {
        "virtio-block-swapped"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let request = exchange.request(element.id);
        if let Some(request) = request.filter(|request| request.kind == BlockKind::Read) {
            let content = request.content(exchange.memory);
            let mut last = self.last.lock();
            let is_other = last.0 != request.sector && last.1.len() == content.len();
            if is_other && last.1 != content && self.seen.next() % PERIOD == PERIOD - 1 {
                request.replace(exchange.memory, &last.1);
                self.lied(format_args!("sector {} for {}", last.0, request.sector));
            }
            *last = (request.sector, content);
        }
        told.push(element);
    }
}
