//! `virtio-double-fetch`: the host goes on changing data, status and header of requests that are done.
//!
//! A driver that looks twice sees two things.

use crate::tap::{BlockRequest, Count, Element, Exchange, Lie};
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct DoubleFetch {
    count: Count,
    /// The last requests that were done.
    done: Mutex<Vec<BlockRequest>>,
    looks: Count,
}

pub(in crate::hostile) static ATTACK: DoubleFetch = DoubleFetch {
    count: Count::new(),
    done: Mutex::new(Vec::new()),
    looks: Count::new(),
};

/// How many.
const MOST: usize = 4;
/// Looks between two changes.
const PERIOD: u64 = 4;

impl Lie for DoubleFetch {
    fn name(&self) -> &'static str {
        "virtio-double-fetch"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if let Some(request) = exchange.request(element.id) {
            let mut done = self.done.lock();
            if done.len() == MOST {
                done.remove(0);
            }
            done.push(request);
        }
        told.push(element);
    }

    fn looked(&self, exchange: &mut Exchange<'_>) {
        // Not before the driver could have seen it.
        if !self.looks.next().is_multiple_of(PERIOD) {
            return;
        }
        for request in self.done.lock().iter() {
            let mut content = request.content(exchange.memory);
            content.iter_mut().for_each(|byte| *byte ^= 0x5A);
            request.replace(exchange.memory, &content);
            let mut status = [0];
            exchange.memory.read(request.status, &mut status);
            exchange.memory.write(request.status, &[status[0] ^ 1]);
            self.lied(format_args!("sector {} changed afterwards", request.sector));
        }
    }
}
