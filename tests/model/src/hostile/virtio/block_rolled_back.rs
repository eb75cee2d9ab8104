//! `virtio-block-rolled-back`: after some writes the whole disk is as it was before: every sector as the host first saw it.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie, Sectors};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct BlockRolledBack {
    count: Count,
    writes: Count,
    first: Mutex<Sectors>,
}

pub(in crate::hostile) static ATTACK: BlockRolledBack = BlockRolledBack {
    count: Count::new(),
    writes: Count::new(),
    first: Mutex::new(Sectors::new()),
};

/// Writes before the old state returns.
const WRITES: u64 = 3;

impl Lie for BlockRolledBack {
    fn name(&self) -> &'static str {
        "virtio-block-rolled-back"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        for head in exchange.posted() {
            let request = exchange.request(u32::from(head));
            if let Some(request) = request.filter(|request| request.kind == BlockKind::Write) {
                self.writes.next();
                self.first.lock().remember(&request, exchange.memory);
            }
        }
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let request = exchange.request(element.id);
        if let Some(request) = request.filter(|request| request.kind == BlockKind::Read) {
            let mut first = self.first.lock();
            if self.writes.get() < WRITES {
                first.remember(&request, exchange.memory);
            } else if first.replay(&request, exchange.memory) {
                self.lied(format_args!("sector {} as it was", request.sector));
            }
        }
        told.push(element);
    }
}
