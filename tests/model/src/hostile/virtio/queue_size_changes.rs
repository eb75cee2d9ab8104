//! `virtio-queue-size-changes`: a queue is of another size each time its driver asks: no power of two, nothing, more than there can be.

use crate::host::pci::Register;
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct QueueSizeChanges {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: QueueSizeChanges = QueueSizeChanges {
    count: Count::new(),
    seen: Count::new(),
};

const SIZES: [u64; 4] = [0xFFFF, 3, 0, 0x8000];

impl Lie for QueueSizeChanges {
    fn name(&self) -> &'static str {
        "virtio-queue-size-changes"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn register_read(&self, who: Who, register: Register, len: usize, value: u64) -> u64 {
        let _ = (who, len);
        if register != Register::Common(0x18) {
            return value;
        }
        match self.seen.next().checked_sub(1) {
            // The first time the truth, which the driver builds on.
            None => value,
            Some(turn) => {
                let size = SIZES[usize::try_from(turn).unwrap_or(0) % SIZES.len()];
                self.lied(format_args!("size {size} for {value}"));
                size
            }
        }
    }
}
