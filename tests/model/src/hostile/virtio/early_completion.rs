//! `virtio-early-completion`: the host tells of reads before the device has done them; the data come later, when the driver has long given the
//! memory to another request.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct EarlyCompletion {
    count: Count,
    /// Reads seen, and what was told before its time: used ring and head.
    reads: Count,
    early: Mutex<Vec<(u64, u32)>>,
}

pub(in crate::hostile) static ATTACK: EarlyCompletion = EarlyCompletion {
    count: Count::new(),
    reads: Count::new(),
    early: Mutex::new(Vec::new()),
};

/// One read in so many.
const PERIOD: u64 = 4;

impl Lie for EarlyCompletion {
    fn name(&self) -> &'static str {
        "virtio-early-completion"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        for head in exchange.posted() {
            let id = u32::from(head);
            let request = exchange.request(id);
            let Some(request) = request.filter(|request| request.kind == BlockKind::Read) else {
                continue;
            };
            if self.reads.next() % PERIOD != PERIOD - 1 {
                continue;
            }
            exchange.memory.write(request.status, &[0]);
            let len = u32::try_from(request.len() + 1).unwrap_or(u32::MAX);
            self.lied(format_args!("sector {} is said to be read", request.sector));
            self.early.lock().push((exchange.queue.used, id));
            exchange.tell(Element { id, len });
        }
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let key = (exchange.queue.used, element.id);
        let mut early = self.early.lock();
        match early.iter().position(|id| *id == key) {
            Some(place) => {
                early.swap_remove(place);
            }
            None => told.push(element),
        }
    }
}
