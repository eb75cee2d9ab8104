//! `virtio-sealed-swapped`: two blocks of a sealed disk have changed places.

use crate::tap::{Count, Element, Exchange, Lie, Rounds};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct SealedSwapped {
    count: Count,
    rounds: Mutex<Rounds>,
}

pub(in crate::hostile) static ATTACK: SealedSwapped = SealedSwapped {
    count: Count::new(),
    rounds: Mutex::new(Rounds::new()),
};

impl Lie for SealedSwapped {
    fn name(&self) -> &'static str {
        "virtio-sealed-swapped"
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
        if let (Some(one), Some(other)) = (rounds.get(1, 0), rounds.get(1, 1)) {
            for (place, block) in [(one, other), (other, one)] {
                if request.give(exchange.memory, place.sector, &block.content) {
                    self.lied(format_args!("{} for {}", block.sector, place.sector));
                }
            }
        }
    }
}
