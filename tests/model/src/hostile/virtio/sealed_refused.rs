//! `virtio-sealed-refused`: one block of a sealed disk cannot be read, as if the file ended before it.

use crate::tap::{Count, Element, Exchange, Lie, Rounds};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct SealedRefused {
    count: Count,
    rounds: Mutex<Rounds>,
}

pub(in crate::hostile) static ATTACK: SealedRefused = SealedRefused {
    count: Count::new(),
    rounds: Mutex::new(Rounds::new()),
};

impl Lie for SealedRefused {
    fn name(&self) -> &'static str {
        "virtio-sealed-refused"
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
        if let Some(block) = rounds.get(1, 0)
            && request.give(exchange.memory, block.sector, &[0; 4096])
        {
            const IO_ERROR: u8 = 1;
            exchange.memory.write(request.status, &[IO_ERROR]);
            self.lied(format_args!("sector {} is not there", block.sector));
        }
    }
}
