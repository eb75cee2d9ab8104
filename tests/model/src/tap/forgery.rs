//! A lie about the data of sealed disks: what was written is kept by rounds, and forged where it is read again.

use super::{BlockRequest, Count, Element, Exchange, Lie, Rounds};
use alloc::vec::Vec;
use spin::Mutex;

/// Forges what `request` reads, and says so when it did.
pub type Forge = fn(&Forgery, &Rounds, &BlockRequest, &mut Exchange<'_>);

/// One way to forge blocks.
pub struct Forgery {
    name: &'static str,
    forge: Forge,
    count: Count,
    rounds: Mutex<Rounds>,
}

impl Forgery {
    /// The lie of that name.
    pub const fn new(name: &'static str, forge: Forge) -> Self {
        Self {
            name,
            forge,
            count: Count::new(),
            rounds: Mutex::new(Rounds::new()),
        }
    }
}

impl Lie for Forgery {
    fn name(&self) -> &'static str {
        self.name
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        self.rounds.lock().watch(exchange);
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        told.push(element);
        if let Some(request) = exchange.request(element.id) {
            (self.forge)(self, &self.rounds.lock(), &request, exchange);
        }
    }
}
