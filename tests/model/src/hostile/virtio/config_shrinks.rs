//! `virtio-config-shrinks`: a disk in use becomes smaller, and a message tells of it.
//!
//! From its first whole reading on, the capacity is never twice the same.

use crate::host::pci::{Register, VirtioKind};
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct ConfigShrinks {
    count: Count,
    /// Readings of its first byte.
    reads: Count,
    looks: Count,
}

pub(in crate::hostile) static ATTACK: ConfigShrinks = ConfigShrinks {
    count: Count::new(),
    reads: Count::new(),
    looks: Count::new(),
};

/// Looks between two messages.
const PERIOD: u64 = 16;

impl Lie for ConfigShrinks {
    fn name(&self) -> &'static str {
        "virtio-config-shrinks"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn register_read(&self, who: Who, register: Register, len: usize, value: u64) -> u64 {
        let _ = len;
        match register {
            Register::Device(0) if who.kind == VirtioKind::Block && self.reads.next() > 0 => {
                self.lied(format_args!("capacity {value:#x} has shrunk"));
                value >> 1
            }
            // The generation, so that a careful driver reads on for ever.
            Register::Common(0x15) => self.reads.get() & 0xFF,
            _ => value,
        }
    }

    fn has_extra_message(&self) -> bool {
        self.looks.next().is_multiple_of(PERIOD)
    }
}
