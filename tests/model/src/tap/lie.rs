//! What a host can lie about, one method a place; each does nothing by itself.

use super::offloads::Offloads;
use super::{Element, Exchange};
use crate::host::pci::{Address, Register, VirtioKind};
use crate::hostile::Attack;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Lies that are logged; the others are only counted.
const LOGGED: u64 = 3;

/// Which device it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// Which function of the bus.
    pub function: usize,
    /// Where that is.
    pub address: Address,
    /// What it is.
    pub kind: VirtioKind,
    /// Its driver has started it.
    pub is_live: bool,
}

/// A counter of what was done.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more; returns how many there were.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Begins anew at `value`.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The devices a lie is about, by a number on the command line: the device of this number on the bus, or without one all.
#[derive(Debug, Default)]
pub struct Victims(Count);

impl Victims {
    /// All.
    #[must_use]
    pub const fn new() -> Self {
        Self(Count::new())
    }

    /// Takes the number.
    pub fn set(&self, number: u64) {
        self.0.set(number);
    }

    /// Whether a device is one of them.
    pub fn has(&self, who: Who) -> bool {
        let number = self.0.get();
        number == 0 || u64::from(who.address.device()) == number
    }
}

/// A host's lie about its virtio devices. Every one is an [`Attack`].
pub trait Lie: Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;
    /// Takes the number after the name on the command line.
    fn set(&self, _number: u64) {}
    /// Counts the lies told.
    fn count(&self) -> &Count;
    /// A read of configuration space.
    fn config_read(&self, _who: Who, _register: u8, _bytes: usize, value: u32) -> u32 {
        value
    }
    /// What the host's card is to claim besides what it offers, if that is needed for the lie to be listened to.
    fn offloads(&self) -> Option<&Offloads> {
        None
    }
    /// A read of a register.
    fn register_read(&self, who: Who, register: Register, _len: usize, value: u64) -> u64 {
        self.offloads()
            .map_or(value, |offloads| offloads.read(who, register, value))
    }
    /// A write of a register; `None` keeps it from the device.
    fn register_write(&self, who: Who, register: Register, _len: usize, value: u64) -> Option<u64> {
        Some(
            self.offloads()
                .map_or(value, |offloads| offloads.write(who, register, value)),
        )
    }
    /// The driver has something new on a queue, and its device does not know yet.
    fn notified(&self, _exchange: &mut Exchange<'_>) {}
    /// The device is done with `element`: what the driver is told in its place.
    fn completed(&self, _exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        told.push(element);
    }
    /// The host looks at a queue that is in use.
    fn looked(&self, _exchange: &mut Exchange<'_>) {}
    /// A device's message has come: whether the guest hears of it.
    fn message_passes(&self) -> bool {
        true
    }
    /// Whether the guest hears of a message nobody sent.
    fn has_extra_message(&self) -> bool {
        false
    }
    /// Counts a lie, and logs the first ones.
    fn lied(&self, what: fmt::Arguments<'_>) {
        if self.count().next() < LOGGED {
            log::warn!("attack {}: {what}", self.name());
        }
    }
}

impl<L: Lie> Attack for L {
    fn name(&self) -> &'static str {
        Lie::name(self)
    }

    fn set(&self, number: u64) {
        Lie::set(self, number);
    }

    fn attempts(&self) -> u64 {
        self.count().get()
    }

    fn lie(&'static self) -> Option<&'static dyn Lie> {
        Some(self)
    }
}
