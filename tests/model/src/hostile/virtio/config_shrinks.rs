//! `virtio-config-shrinks`: a disk in use becomes smaller, and a message tells of it.

use crate::host::pci::{Register, VirtioKind};
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct ConfigShrinks {
    count: Count,
    looks: Count,
}

pub(in crate::hostile) static ATTACK: ConfigShrinks = ConfigShrinks {
    count: Count::new(),
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
        let is_used = who.kind == VirtioKind::Block && who.is_live;
        match register {
            // The capacity, however it is read; the generation does not tell.
            Register::Device(0..8) if is_used && value != 0 => {
                self.lied(format_args!("capacity {value:#x} has shrunk ({len} bytes)"));
                value >> 1
            }
            _ => value,
        }
    }

    fn has_extra_message(&self) -> bool {
        self.looks.next().is_multiple_of(PERIOD)
    }
}
