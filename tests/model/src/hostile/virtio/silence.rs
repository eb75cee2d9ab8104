//! `virtio-silence`: a disk in good order, as far as it says, answers nothing any more. With `:N` it is the one of number N on the bus alone.

use crate::tap::{Count, Element, Exchange, Lie, Victims};
use alloc::vec::Vec;

pub(in crate::hostile) struct Silence {
    victims: Victims,
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: Silence = Silence {
    victims: Victims::new(),
    count: Count::new(),
    seen: Count::new(),
};

/// Completions before it falls silent.
const LAST: u64 = 12;

impl Lie for Silence {
    fn name(&self) -> &'static str {
        "virtio-silence"
    }

    fn set(&self, number: u64) {
        self.victims.set(number);
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if !self.victims.has(exchange.who) || self.seen.next() < LAST {
            return told.push(element);
        }
        self.lied(format_args!("a completion is kept"));
    }
}
