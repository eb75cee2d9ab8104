//! `virtio-block-replayed`: for a place that was written twice the host gives what was written first.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie, Sectors};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct BlockReplayed {
    count: Count,
    first: Mutex<Sectors>,
}

pub(in crate::hostile) static ATTACK: BlockReplayed = BlockReplayed {
    count: Count::new(),
    first: Mutex::new(Sectors::new()),
};

impl Lie for BlockReplayed {
    fn name(&self) -> &'static str {
        "virtio-block-replayed"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        for head in exchange.posted() {
            let request = exchange.request(u32::from(head));
            if let Some(request) = request.filter(|request| request.kind == BlockKind::Write) {
                self.first.lock().remember(&request, exchange.memory);
            }
        }
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let request = exchange.request(element.id);
        if let Some(request) = request.filter(|request| request.kind == BlockKind::Read)
            && self.first.lock().replay(&request, exchange.memory)
        {
            self.lied(format_args!("sector {} as it was", request.sector));
        }
        told.push(element);
    }
}
