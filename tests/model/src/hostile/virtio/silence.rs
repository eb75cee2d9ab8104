//! `virtio-silence`: a device in good order, as far as it says, answers nothing any more. With `:N` it is the one of number N on the bus alone,
//! with `:CNN` that of number NN after C answers.

use crate::tap::{Count, Element, Exchange, Lie, Victims};
use alloc::vec::Vec;

pub(in crate::hostile) struct Silence {
    victims: Victims,
    last: Count,
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: Silence = Silence {
    victims: Victims::new(),
    last: Count::new(),
    count: Count::new(),
    seen: Count::new(),
};

/// Completions before it falls silent, unless the command line says how many.
const LAST: u64 = 12;

impl Silence {
    fn last(&self) -> u64 {
        match self.last.get() {
            0 => LAST,
            last => last,
        }
    }
}

impl Lie for Silence {
    fn name(&self) -> &'static str {
        "virtio-silence"
    }

    fn set(&self, number: u64) {
        self.victims.set(number % 100);
        self.last.set(number / 100);
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if !self.victims.has(exchange.who) || self.seen.next() < self.last() {
            return told.push(element);
        }
        self.lied(format_args!("a completion is kept"));
    }
}
