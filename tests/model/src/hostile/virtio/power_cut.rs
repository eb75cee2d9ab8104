//! `virtio-power-cut:N`: the host loses power at the N-th write to its disks, and with it some of what no flush had made durable.
//!
//! From some writes before on, one write in two does not reach its file, though its device says that it did: that is what a
//! cache without power leaves. No flush is answered after that, as a file that had been flushed would have it all.
//!
//! `virtio-power-cut-last:N` is the same where all files but that of the last disk on the bus are written through. So the others go on for
//! longer behind its back: the last one is the store, if there is one.

use crate::machine::exit::{self, Ending};
use crate::tap::{BlockKind, BlockRequest, Count, Element, Exchange, Lie};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use spin::Mutex;

pub(in crate::hostile) struct PowerCut {
    caches: Caches,
    count: Count,
    /// At which write.
    cut: Count,
    writes: Count,
    lost: Mutex<Lost>,
}

/// Whose writes may be lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caches {
    All,
    Last,
}

/// Writes that do not happen.
struct Lost {
    /// The last function that was written to.
    last: usize,
    /// Devices with such, by function.
    devices: BTreeSet<usize>,
    /// Heads of their chains, while their device has them.
    heads: BTreeSet<(usize, u32)>,
}

pub(in crate::hostile) static ATTACK: PowerCut = PowerCut::of(Caches::All);
pub(in crate::hostile) static LAST: PowerCut = PowerCut::of(Caches::Last);

/// What a driver asks for with a flush.
const FLUSH: u32 = 4;
/// Of up to so many writes before the cut some are lost.
const WINDOW: u64 = 24;
/// The same where one disk's alone are.
const LAST_WINDOW: u64 = 10 * WINDOW;

impl PowerCut {
    const fn of(caches: Caches) -> Self {
        Self {
            caches,
            count: Count::new(),
            cut: Count::new(),
            writes: Count::new(),
            lost: Mutex::new(Lost {
                last: 0,
                devices: BTreeSet::new(),
                heads: BTreeSet::new(),
            }),
        }
    }

    fn cut(&self) -> ! {
        let writes = self.writes.get();
        let lost = self.count.get();
        exit::fail(
            Ending::Stopped,
            format_args!("the host lost power after {writes} writes, {lost} of them in its cache"),
        )
    }

    /// Whether this write to a function is one the cache loses.
    fn is_lost(&self, function: usize, number: u64) -> bool {
        let most = match self.caches {
            Caches::All => WINDOW,
            Caches::Last => LAST_WINDOW,
        };
        let last = &mut self.lost.lock().last;
        *last = function.max(*last);
        if self.caches == Caches::Last && function != *last {
            return false;
        }
        let cut = self.cut.get();
        let window = cut.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let dice = (number ^ cut << 20).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40;
        number + window % most >= cut && dice.is_multiple_of(2)
    }

    /// Has the device flush where it was to write: it says that all is well.
    fn lose(&self, exchange: &Exchange<'_>, head: u16, request: &BlockRequest) {
        let chain = exchange.chain(u32::from(head));
        if let Some(header) = chain.first() {
            exchange.memory.write(header.gpa, &FLUSH.to_le_bytes());
            self.lied(format_args!("a write to sector {} is lost", request.sector));
            let mut lost = self.lost.lock();
            let function = exchange.who.function;
            lost.devices.insert(function);
            lost.heads.insert((function, u32::from(head)));
        }
    }
}

impl Lie for PowerCut {
    fn name(&self) -> &'static str {
        match self.caches {
            Caches::All => "virtio-power-cut",
            Caches::Last => "virtio-power-cut-last",
        }
    }

    fn set(&self, number: u64) {
        self.cut.set(number);
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn notified(&self, exchange: &mut Exchange<'_>) {
        for head in exchange.posted() {
            let request = exchange.request(u32::from(head));
            let Some(request) = request.filter(|request| request.kind == BlockKind::Write) else {
                continue;
            };
            let number = self.writes.next() + 1;
            if number >= self.cut.get() {
                self.cut();
            }
            if self.is_lost(exchange.who.function, number) {
                self.lose(exchange, head, &request);
            }
        }
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let function = exchange.who.function;
        let mut lost = self.lost.lock();
        let is_lost = lost.heads.remove(&(function, element.id));
        let request = exchange.request(element.id);
        let is_flush = request.is_some_and(|request| request.kind == BlockKind::Other(FLUSH));
        if is_flush && !is_lost && lost.devices.contains(&function) {
            self.cut();
        }
        told.push(element);
    }
}
