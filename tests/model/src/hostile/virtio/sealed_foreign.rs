//! `virtio-sealed-foreign`: one block of a sealed disk is one of another sealed disk.

use crate::tap::{Count, Element, Exchange, Lie, Rounds};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct SealedForeign {
    count: Count,
    /// By function of the bus.
    disks: Mutex<BTreeMap<usize, Rounds>>,
}

pub(in crate::hostile) static ATTACK: SealedForeign = SealedForeign {
    count: Count::new(),
    disks: Mutex::new(BTreeMap::new()),
};

impl Lie for SealedForeign {
    fn name(&self) -> &'static str {
        "virtio-sealed-foreign"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        let mut disks = self.disks.lock();
        let rounds = disks.entry(exchange.who.function);
        rounds.or_default().watch(exchange);
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        told.push(element);
        let disks = self.disks.lock();
        let own = disks.get(&exchange.who.function);
        let place = own.and_then(|rounds| rounds.get(1, 0));
        let mut others = disks
            .iter()
            .filter(|(function, _)| **function < exchange.who.function);
        let foreign = others.find_map(|(_, rounds)| rounds.get(1, 0));
        if let (Some(place), Some(foreign)) = (place, foreign)
            && let Some(request) = exchange.request(element.id)
            && request.give(exchange.memory, place.sector, &foreign.content)
        {
            self.lied(format_args!(
                "a block of the first disk for sector {}",
                place.sector
            ));
        }
    }
}
