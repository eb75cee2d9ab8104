//! `virtio-status-lies`: a device that works says that it does not: reset, broken, failed by turns.

use crate::host::pci::Register;
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct StatusLies {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: StatusLies = StatusLies {
    count: Count::new(),
    seen: Count::new(),
};

/// Nothing, DEVICE_NEEDS_RESET with all else, FAILED.
const LIES: [u64; 3] = [0, 0x4F, 0x80];

impl Lie for StatusLies {
    fn name(&self) -> &'static str {
        "virtio-status-lies"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn register_read(&self, who: Who, register: Register, len: usize, value: u64) -> u64 {
        let _ = len;
        if register != Register::Common(0x14) || !who.is_live {
            return value;
        }
        let turn = usize::try_from(self.seen.next()).unwrap_or(0) % LIES.len();
        self.lied(format_args!("status {:#x} for {value:#x}", LIES[turn]));
        LIES[turn]
    }
}
