//! `virtio-device-vanishes`: a device in use goes: all its registers read as ones, nothing is done any more. With `:N` it
//! is the one of number N on the bus.

use crate::host::pci::Register;
use crate::tap::{Count, Element, Exchange, Lie, Victims, Who};
use alloc::vec::Vec;

pub(in crate::hostile) struct DeviceVanishes {
    victims: Victims,
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: DeviceVanishes = DeviceVanishes {
    victims: Victims::new(),
    count: Count::new(),
    seen: Count::new(),
};

/// Completions before it goes.
const LAST: u64 = 12;

impl DeviceVanishes {
    fn is_there(&self, who: Who) -> bool {
        self.seen.get() < LAST || !self.victims.has(who)
    }
}

impl Lie for DeviceVanishes {
    fn name(&self) -> &'static str {
        "virtio-device-vanishes"
    }

    fn set(&self, number: u64) {
        self.victims.set(number);
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn config_read(&self, who: Who, _register: u8, bytes: usize, value: u32) -> u32 {
        if self.is_there(who) {
            return value;
        }
        self.lied(format_args!("configuration space is gone"));
        u32::MAX >> (32 - 8 * bytes.clamp(1, 4))
    }

    fn register_read(&self, who: Who, _register: Register, len: usize, value: u64) -> u64 {
        if self.is_there(who) {
            return value;
        }
        self.lied(format_args!("registers are gone"));
        u64::MAX >> (64 - 8 * len.clamp(1, 8))
    }

    fn register_write(
        &self,
        who: Who,
        _register: Register,
        _len: usize,
        value: u64,
    ) -> Option<u64> {
        if self.is_there(who) {
            return Some(value);
        }
        self.lied(format_args!("a write goes nowhere"));
        None
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        if self.is_there(exchange.who) {
            if self.victims.has(exchange.who) {
                self.seen.next();
            }
            return told.push(element);
        }
        self.lied(format_args!("a completion is lost"));
    }
}
