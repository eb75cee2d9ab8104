//! `virtio-sealed-older`: one block of a sealed disk is what it was before it was written again.

use crate::tap::{Count, Element, Exchange, Lie, Rounds};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct SealedOlder {
    count: Count,
    rounds: Mutex<Rounds>,
}

pub(in crate::hostile) static ATTACK: SealedOlder = SealedOlder {
    count: Count::new(),
    rounds: Mutex::new(Rounds::new()),
};

impl Lie for SealedOlder {
    fn name(&self) -> &'static str {
        "virtio-sealed-older"
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
        if let (Some(older), Some(newer)) = (rounds.get(0, 0), rounds.get(1, 0))
            && request.give(exchange.memory, newer.sector, &older.content)
        {
            self.lied(format_args!("{} for {}", older.sector, newer.sector));
        }
    }
}
