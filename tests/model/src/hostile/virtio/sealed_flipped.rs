//! `virtio-sealed-flipped`: one block of a sealed disk has another bit whenever it is read.

use crate::tap::{Count, Element, Exchange, Lie, Rounds};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct SealedFlipped {
    count: Count,
    rounds: Mutex<Rounds>,
}

pub(in crate::hostile) static ATTACK: SealedFlipped = SealedFlipped {
    count: Count::new(),
    rounds: Mutex::new(Rounds::new()),
};

impl Lie for SealedFlipped {
    fn name(&self) -> &'static str {
        "virtio-sealed-flipped"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        self.rounds.lock().watch(exchange);
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        told.push(element);
        let Some(request) = exchange.request(element.id) else {
            return;
        };
        let rounds = self.rounds.lock();
        if let Some(block) = rounds.get(1, 0) {
            let mut changed = block.content.clone();
            changed[1000] ^= 4;
            if request.give(exchange.memory, block.sector, &changed) {
                self.lied(format_args!("a bit of sector {}", block.sector));
            }
        }
    }
}
