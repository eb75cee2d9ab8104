//! `psp-busy`: the host has no time for a message to the secure processor, a thousand times, then it passes it on.
//!
//! It may: that is service denied. What it must not get meanwhile is another message under the same number, which would give both away.

use super::Attack;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use stockade_abi::guest_message::MessageHeader;
use zerocopy::FromBytes;

/// How often a message is sent back.
const TIMES: u64 = 1000;

pub(super) struct PspBusy {
    attempts: AtomicU64,
    breaches: AtomicU64,
    last: Mutex<Last>,
}

/// The page of the last message, and how often it was sent back.
struct Last {
    page: [u8; 4096],
    times: u64,
}

pub(super) static ATTACK: PspBusy = PspBusy {
    attempts: AtomicU64::new(0),
    breaches: AtomicU64::new(0),
    last: Mutex::new(Last {
        page: [0; 4096],
        times: 0,
    }),
};

impl Attack for PspBusy {
    fn name(&self) -> &'static str {
        "psp-busy"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn breaches(&self) -> u64 {
        self.breaches.load(Ordering::Relaxed)
    }

    fn on_guest_request(&self, page: &[u8; 4096]) -> bool {
        let mut last = self.last.lock();
        if last.page != *page {
            let is_reused = number(page) == number(&last.page);
            self.breaches.fetch_add(is_reused.into(), Ordering::Relaxed);
            (last.page, last.times) = (*page, 0);
        }
        last.times += 1;
        let is_busy = last.times <= TIMES;
        self.attempts.fetch_add(is_busy.into(), Ordering::Relaxed);
        is_busy
    }
}

fn number(page: &[u8; 4096]) -> Option<u64> {
    let header = MessageHeader::read_from_prefix(page).ok();
    header.map(|(header, _)| header.sequence)
}
