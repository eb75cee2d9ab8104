//! What other vCPUs and devices have for a vCPU, until it looks: lock-free, and nothing is ever lost or doubled.
//!
//! A sender sets the bit of what it brings and then the bit of that word in a summary; the owner takes the summary and then the
//! words it names. So the owner looks in vain at times, but never leaves anything behind.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use stockade_bus::Level;

use crate::local::{Address, LocalEvent};
use crate::msi::{DeliveryMode, Trigger};

const SUMMARY_LEVEL: u32 = 8;
const SUMMARY_EVENTS: u32 = 1 << 16;
const SUMMARY_LINT0: u32 = 1 << 17;

/// The events of a mailbox, taken in this order: INIT, start-up, SMI, NMI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct LocalEvents(u32);

impl LocalEvents {
    const PAGE: u32 = 0xFF;
    const START_UP: u32 = 1 << 8;
    const INIT: u32 = 1 << 9;
    const NMI: u32 = 1 << 10;
    const SMI: u32 = 1 << 11;
    const EXT_INT: u32 = 1 << 12;

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0 & !Self::PAGE == 0
    }

    pub(crate) const fn has_init(&self) -> bool {
        self.0 & Self::INIT != 0
    }

    pub(crate) const fn take_ext_int(&mut self) -> bool {
        self.take(Self::EXT_INT)
    }

    pub(crate) fn add(&mut self, event: Option<LocalEvent>) {
        if let Some(event) = event {
            self.0 = self.after(event);
        }
    }

    /// Returns the events once `event` has come too. An INIT undoes what came before it; of two start-up IPIs the first counts.
    fn after(self, event: LocalEvent) -> u32 {
        match event {
            LocalEvent::Init => Self::INIT,
            LocalEvent::StartUp(_) if self.0 & Self::START_UP != 0 => self.0,
            LocalEvent::StartUp(page) => self.0 | Self::START_UP | u32::from(page),
            LocalEvent::Smi => self.0 | Self::SMI,
            LocalEvent::Nmi => self.0 | Self::NMI,
        }
    }

    const fn take(&mut self, bit: u32) -> bool {
        let was_set = self.0 & bit != 0;
        self.0 &= !bit;
        was_set
    }
}

impl Iterator for LocalEvents {
    type Item = LocalEvent;

    fn next(&mut self) -> Option<LocalEvent> {
        if self.take(Self::INIT) {
            Some(LocalEvent::Init)
        } else if self.take(Self::START_UP) {
            let [page, ..] = self.0.to_le_bytes();
            self.0 &= !Self::PAGE;
            Some(LocalEvent::StartUp(page))
        } else if self.take(Self::SMI) {
            Some(LocalEvent::Smi)
        } else if self.take(Self::NMI) {
            Some(LocalEvent::Nmi)
        } else {
            None
        }
    }
}

/// What a drained mailbox held.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) edge: [u32; 8],
    pub(crate) level: [u32; 8],
    pub(crate) events: LocalEvents,
    pub(crate) lint0: Option<Level>,
}

/// The mailbox of one vCPU. Anybody posts, the owner drains ([`LocalApic::deliver_remote`](crate::LocalApic::deliver_remote)).
///
/// A post that returns true asks the caller to make the owner look: to kick it out of the guest, or to wake it. One that returns
/// false came after another that nobody has drained yet, whose sender did so.
#[derive(Debug, Default)]
pub struct Mailbox {
    summary: AtomicU32,
    events: AtomicU32,
    lint0: AtomicU32,
    edge: [AtomicU32; 8],
    level: [AtomicU32; 8],
    address: AtomicU64,
}

impl Mailbox {
    /// Returns an empty mailbox that no destination names yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            summary: AtomicU32::new(0),
            events: AtomicU32::new(0),
            lint0: AtomicU32::new(0),
            edge: [const { AtomicU32::new(0) }; 8],
            level: [const { AtomicU32::new(0) }; 8],
            address: AtomicU64::new(0),
        }
    }

    /// Returns whether nothing waits. To be asked once more after the owner has said that it is about to enter the guest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.summary.load(Ordering::SeqCst) == 0
    }

    /// Returns who the owner is on the bus.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from_word(self.address.load(Ordering::Acquire))
    }

    /// Posts a message to its receiver; whoever calls has checked that it is one.
    #[must_use]
    pub fn post(&self, delivery: DeliveryMode, vector: u8, trigger: Trigger) -> bool {
        match delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.post_vector(vector, trigger),
            DeliveryMode::Smi => self.post_event(LocalEvent::Smi),
            DeliveryMode::Nmi => self.post_event(LocalEvent::Nmi),
            DeliveryMode::Init => self.post_event(LocalEvent::Init),
            DeliveryMode::StartUp => self.post_event(LocalEvent::StartUp(vector)),
            DeliveryMode::ExtInt => {
                self.events
                    .fetch_or(LocalEvents::EXT_INT, Ordering::Relaxed);
                self.announce(SUMMARY_EVENTS)
            }
        }
    }

    /// Posts a vector.
    #[must_use]
    pub fn post_vector(&self, vector: u8, trigger: Trigger) -> bool {
        let index = usize::from(vector >> 5);
        let (words, shift) = match trigger {
            Trigger::Edge => (&self.edge, 0),
            Trigger::Level => (&self.level, SUMMARY_LEVEL),
        };
        words[index].fetch_or(1 << (vector & 31), Ordering::Relaxed);
        self.announce(1 << (u32::from(vector >> 5) + shift))
    }

    /// Posts an event.
    #[must_use]
    pub fn post_event(&self, event: LocalEvent) -> bool {
        let mut before = self.events.load(Ordering::Relaxed);
        while let Err(now) = self.events.compare_exchange_weak(
            before,
            LocalEvents(before).after(event),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            before = now;
        }
        self.announce(SUMMARY_EVENTS)
    }

    /// Posts the level of the wire on LINT0: INTR of the 8259 pair. Calls for one wire must not race with each other.
    ///
    /// The level it has already is no news. It is the owner's too, or will be when it takes what was announced of it.
    #[must_use]
    pub fn set_lint0(&self, level: Level) -> bool {
        let level = u32::from(level == Level::High);
        if self.lint0.load(Ordering::Relaxed) == level {
            return false;
        }
        self.lint0.store(level, Ordering::Relaxed);
        self.announce(SUMMARY_LINT0)
    }

    pub(crate) fn publish(&self, address: Address) {
        self.address.store(address.to_word(), Ordering::Release);
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> Option<Mail> {
        if self.summary.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let summary = self.summary.swap(0, Ordering::SeqCst);
        let mut mail = Mail::default();
        for index in 0..8 {
            if summary & 1 << index != 0 {
                mail.edge[index] = self.edge[index].swap(0, Ordering::Relaxed);
            }
            if summary & 1 << SUMMARY_LEVEL << index != 0 {
                mail.level[index] = self.level[index].swap(0, Ordering::Relaxed);
            }
        }
        if summary & SUMMARY_EVENTS != 0 {
            mail.events = LocalEvents(self.events.swap(0, Ordering::Relaxed));
        }
        if summary & SUMMARY_LINT0 != 0 {
            let is_high = self.lint0.load(Ordering::Relaxed) != 0;
            mail.lint0 = Some(Level::from(is_high));
        }
        Some(mail)
    }

    /// Tells the owner of a word and returns whether it knew of nothing before.
    fn announce(&self, bit: u32) -> bool {
        self.summary.fetch_or(bit, Ordering::SeqCst) == 0
    }
}
